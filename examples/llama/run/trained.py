"""A trained model, read back from its run's folder."""

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.llama.checkpoint import Checkpoints, DamagedError, Identity
from examples.llama.config import CorpusConfig, Experiment, InputError
from examples.llama.model import Params
from examples.llama.run.folder import LOCK, RunFolder
from examples.llama.run.options import Checked, Natural, from_json
from examples.llama.run.records import read_json
from examples.llama.step import TrainState, initial_state
from examples.llama.text.corpus import Corpus, load_corpus


@dataclass(frozen=True)
class TrainedConfig(Checked):
    """Which model, and on what text; what is left out is as it was in training."""

    run_dir: Path = Path("runs/sinkgd")
    """Folder of the run that trained the model."""
    step: Natural | None = None
    """Step of the checkpoint; the newest by default."""
    text: str | None = None
    """Other text, see `examples.llama.train --help`."""
    tokenizer: str | None = None
    """Where the tokenizer's file is now, if it was moved; it must be the same tokenizer."""
    corpus_root: Path | None = None
    """Other folder of *.py files."""


@dataclass(frozen=True)
class Trained:
    """A model with what it was trained as and on."""

    step: int
    experiment: Experiment
    params: Params
    corpus: Corpus


def _source(config: TrainedConfig, folder: RunFolder) -> CorpusConfig:
    given: dict[str, Any] = {
        name: value
        for name in ("text", "tokenizer", "corpus_root")
        if (value := getattr(config, name)) is not None
    }
    if not folder.source.exists():
        raise InputError(
            f"{folder.source} is missing, which says where the text came from; the command that "
            f"trained the model writes it again"
        )
    stored = from_json(CorpusConfig, read_json(folder.source), str(folder.source))
    return dataclasses.replace(stored, **given)


def _experiment(folder: RunFolder) -> Experiment:
    stored = folder.identity().config
    parts = {name: stored[name] for name in ("optimizer", "setup")}
    return from_json(Experiment, parts, str(folder.config))


def load_trained(config: TrainedConfig, console: Console) -> Trained:
    """Read configuration, text, tokenizer and weights of a run."""
    folder = RunFolder(config.run_dir)
    if not folder.config.exists():
        raise InputError(
            f"{config.run_dir} holds no run (there is no {folder.config.name}); choose the folder "
            f"of a run of examples.llama.train with --run-dir"
        )
    identity = folder.identity()
    experiment = _experiment(folder)
    model = experiment.setup.model
    corpus = load_corpus(_source(config, folder), model.vocabulary, console)
    if corpus.tokenizer.name != identity.config["tokenizer"]:
        raise InputError(
            f"{config.run_dir} was trained with the tokenizer {identity.config['tokenizer']}, "
            f"but this is {corpus.tokenizer.name}; choose that one with --tokenizer"
        )
    like = initial_state(experiment, layerwise=identity.config.get("layerwise", False))
    for _ in range(_TRIES):
        with contextlib.suppress(_RemovedError, FileNotFoundError):
            step, state = _load(config, folder, identity, like)
            return Trained(step, experiment, state.params, corpus)
    raise InputError(
        f"{folder.checkpoints} has no checkpoint that stays long enough to be read, or none yet; "
        f"try again later, or let the run --keep more of them"
    )


_TRIES, _PAUSE = 20, 0.1


class _RemovedError(Exception):
    """The run that is still training has saved another checkpoint, and removed this one."""


def _load(
    config: TrainedConfig, folder: RunFolder, identity: Identity, like: TrainState
) -> tuple[int, TrainState]:
    with Checkpoints(folder.checkpoints, identity, writable=False) as checkpoints:
        steps = checkpoints.steps()
        if not steps and (folder.path / LOCK).exists():
            time.sleep(_PAUSE)
            raise _RemovedError
        if not steps or config.step not in (None, *steps):
            raise InputError(
                f"{folder.checkpoints} has no checkpoint of step {config.step}, but of {steps}"
                if steps
                else f"{folder.checkpoints} has no checkpoint"
            )
        step = steps[0] if config.step is None else config.step
        try:
            return step, checkpoints.load(step, like)[0]
        except DamagedError as error:
            checkpoints.look_again()
            if config.step is None and checkpoints.steps()[:1] != [step]:
                raise _RemovedError from error
            raise InputError(
                f"the checkpoint of step {step} in {folder.checkpoints} cannot be used: {error}; "
                f"choose another with --step, there are {steps}"
            ) from error
