"""A run's folder: its configuration, its metrics, its result; README.md lists its files."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from examples.llama.checkpoint import Identity
from examples.llama.config import CorpusConfig, Experiment
from examples.llama.loss import Validation
from examples.llama.run.files import check_types, is_unfinished, read_json, read_lines, write_json
from examples.llama.run.lock import LOCK, LockedFolder
from examples.llama.run.options import InputError, as_json
from examples.llama.text.corpus import Corpus, cache_folder
from examples.llama.text.tokenizer import kept_byte_pairs


def config_of(experiment: Experiment, corpus: Corpus, *, layerwise: bool = False) -> dict[str, Any]:
    """Everything that determines result and state of a resolved experiment, as config.json has it.

    The length of the schedule is always included, because the number of steps may grow later.
    `layerwise` is included if it is true: the optimizer's state then has another form.
    """
    config = as_json(experiment)
    config["setup"]["schedule_steps"] = experiment.setup.length_of_schedule
    config["setup"]["warm_up_steps"] = experiment.setup.warm_up
    config |= {"corpus": corpus.name, "tokenizer": corpus.tokenizer.name}
    return config | ({"layerwise": True} if layerwise else {})


def identity_of(stored: Mapping[str, Any]) -> Identity:
    """A run's identity, for its checkpoints, from what config.json holds."""
    config = {name: value for name, value in stored.items() if name not in _BESIDE}
    return Identity(stored["run"], config, [*stored["earlier_texts"], stored["corpus"]])


class ConfigMismatchError(InputError):
    """The folder holds a run of another configuration."""


class RunFolder(LockedFolder):
    """Paths and files of one run."""

    def __init__(self, path: Path):
        path = path.expanduser() if path.parts[:1] == ("~",) else path
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise InputError(f"--run-dir {path} is not a name in UTF-8; choose another") from None
        if ".." in path.parts:  # the folder is moved aside by its own name
            path = path.parent.resolve() / path.name if path.name != ".." else path.resolve()
        if wrong := sorted(set("*?[\\") & set(str(path.absolute()))):
            raise InputError(
                f"--run-dir {path.absolute()} has {' and '.join(wrong)} in its path, with which "
                f"its checkpoints may not be found again; choose another"
            )
        super().__init__(path)
        self.config = path / "config.json"
        self.source = path / "source.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.summary = path / "summary.json"
        self.picture = path / "loss.png"
        self.profile = path / "profile"

    def lock(self, *, fresh: bool = False) -> Path | None:
        """Take the right to write here, see `LockedFolder`, and remove unfinished files.

        Raises:
            ConfigMismatchError: the folder was not made by a run.
        """
        contents = set()
        if self.path.exists():  # without what a killed process left
            contents = {p.name for p in self.path.iterdir() if not is_unfinished(p)} - {LOCK}
        if not fresh and contents and self.config.name not in contents:
            raise ConfigMismatchError(
                f"{self.path} is not empty, and has no config.json of a run. Choose another folder "
                f"with --run-dir, or add --fresh, which moves this one aside."
            )
        aside = super().lock(fresh=fresh)
        for left in filter(is_unfinished, self.path.iterdir()):
            left.unlink()
        return aside

    def agreed(
        self, config: dict[str, Any], source: CorpusConfig, *, accept_changed_text: bool = False
    ) -> dict[str, Any]:
        """What config.json has to hold for a run of this configuration; nothing is written yet.

        The number of steps may be larger than the folder's, and the text another if that is
        accepted.

        Raises:
            ConfigMismatchError: the folder was made with another configuration.
        """
        if not self.config.exists():
            return config | {"run": secrets.token_hex(8), "earlier_texts": []}
        stored = self._stored()
        beside = {name: stored[name] for name in _BESIDE}
        difference = _difference(stored, config | beside)
        texts = [*stored["earlier_texts"], stored["corpus"]]
        if accept_changed_text and "corpus" in difference:
            del difference["corpus"]
            beside["earlier_texts"] = texts
        before = stored["setup"].get("steps")
        if isinstance(before, int) and config["setup"]["steps"] > before:
            difference.pop("setup.steps", None)
        if difference:
            raise ConfigMismatchError(self._mismatch(difference, source))
        return config | beside

    def claim(self, agreed: dict[str, Any], source: CorpusConfig) -> None:
        """Write the configuration that was agreed on, and where the text came from."""
        if not self.config.exists() or self._stored() != agreed:
            write_json(self.config, agreed)
        write_json(self.source, as_json(source.absolute()))

    def identity(self) -> Identity:
        """The run's identity, as config.json has it."""
        return identity_of(self._stored())

    def _stored(self) -> dict[str, Any]:
        stored = read_json(self.config)
        check_types(str(self.config), stored, _CONFIG)
        return stored

    def _mismatch(self, difference: Mapping[str, tuple[Any, Any]], source: CorpusConfig) -> str:
        lines = [
            f"  {name}: {old} in the folder, {new} asked for\n"
            for name, (old, new) in difference.items()
        ]
        hint = ""
        length, _ = difference.get("setup.schedule_steps", (None, None))
        if "setup.steps" in difference:
            hint = "Its number of --steps may grow, and not shrink. "
        elif isinstance(length, int):
            hint = f"To go on with it, keep its schedule: --schedule-steps {length}. "
        if "corpus" in difference:
            hint += "If it is the same text, repaired, add --accept-changed-text. "
        tokenizer, _ = difference.get("tokenizer", (None, None))
        if tokenizer and (file := kept_byte_pairs(cache_folder(source.absolute()), tokenizer)):
            hint += f"Its byte pairs are in a file: --tokenizer {file}. "
        return (
            f"{self.path} holds a run with another configuration:\n{''.join(lines)}{hint}To keep "
            f"it, choose another folder with --run-dir; to start over there, add --fresh, which "
            f"moves the folder aside."
        )

    def result(self, steps: int) -> dict[str, Any] | None:
        """The summary of a run that finished after `steps` steps, else None.

        One that metrics.jsonl does not have, or without a picture, does not count if there are
        checkpoints, from which all three are made again.
        """
        if not self.summary.exists():
            return None
        summary = read_json(self.summary)
        if summary.get("run") != self.identity().run:
            raise InputError(
                f"{self.summary} is not of the run in this folder; move it aside, and the same "
                f"command makes it again"
            )
        check_types(str(self.summary), summary, _SUMMARY)
        if summary["steps"] != steps:
            return None
        return summary if self._agrees(summary) or not self.checkpoints.exists() else None

    def _agrees(self, summary: dict[str, Any]) -> bool:
        try:
            lines = read_metrics(self.metrics)
        except InputError:
            return False
        found = [Validation.from_json(line) for line in lines if "validation_loss" in line]
        return found[-1:] == [Validation.from_json(summary)] and self.picture.exists()


_WHERE = {"step": int, "tokens": int, "elapsed_seconds": float}
_VALIDATION = {"validation_loss": float, "perplexity": float | None, "bits_per_byte": float | None}
_STEP = _WHERE | {"loss": float, "tokens_per_second": float}
_BESIDE = {"run": str, "earlier_texts": list}
_CONFIG = _BESIDE | {"corpus": str, "tokenizer": str, "optimizer": dict, "setup": dict}
_SUMMARY = _VALIDATION | {
    "train_loss": float,
    "steps": int,
    "tokens": int,
    "parameter_bytes": int,
    "state_bytes": int,
    "state_bytes_matrices": int,
    "tokens_per_second": float,
}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a last line cut short by a crash is left out."""
    records = read_lines(path)
    for number, record in enumerate(records, start=1):
        types = _STEP if "loss" in record else _WHERE | _VALIDATION
        check_types(f"{path}, line {number}", record, types)
    return records


def _difference(stored: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    old, new = (flatten_dict(config, keep_empty_nodes=True, sep=".") for config in (stored, wanted))
    return {
        name: (old.get(name, "absent"), new.get(name, "absent"))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)  # an option that is new may be left out
    }
