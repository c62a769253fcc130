"""A trained model, read back from its run's folder."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.llama.checkpoint import DamagedError, load, saved_steps
from examples.llama.config import CorpusConfig, Experiment, InputError
from examples.llama.mesh import ONE_DEVICE
from examples.llama.model import Params
from examples.llama.run.files import read_json
from examples.llama.run.folder import LOCK, RunFolder
from examples.llama.run.options import Checked, Natural, from_json
from examples.llama.step import initial_state
from examples.llama.text.corpus import Corpus, cache_folder, load_corpus
from examples.llama.text.tokenizer import kept_byte_pairs


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
    changed_text: bool
    """Whether the text is where it was in training, and is another now."""


def load_trained(config: TrainedConfig, console: Console) -> Trained:
    """Read configuration, text, tokenizer and weights of a run."""
    folder = RunFolder(config.run_dir)
    if not folder.config.exists():
        raise InputError(
            f"{config.run_dir} holds no run (there is no {folder.config.name}); choose the folder "
            f"of a run of examples.llama.train with --run-dir"
        )
    if not folder.source.exists():
        raise InputError(
            f"{folder.source} is missing, which says where the text came from; the command that "
            f"trained the model writes it again"
        )
    identity = folder.identity()
    parts = {name: identity.config[name] for name in ("optimizer", "setup")}
    experiment = from_json(Experiment, parts, str(folder.config))
    source = from_json(CorpusConfig, read_json(folder.source), str(folder.source))
    given: dict[str, Any] = {
        name: value
        for name in ("text", "tokenizer", "corpus_root")
        if (value := getattr(config, name)) is not None
    }
    if "text" in given:
        given.setdefault("corpus_root", None)  # of the run's own text
    source = dataclasses.replace(source, **given)
    corpus = load_corpus(source, experiment.setup.model.vocabulary, console)
    if corpus.tokenizer.name != identity.config["tokenizer"]:
        file = kept_byte_pairs(cache_folder(source), identity.config["tokenizer"])
        raise InputError(
            f"{config.run_dir} was trained with the tokenizer {identity.config['tokenizer']}, "
            f"but this is {corpus.tokenizer.name}; choose that one with --tokenizer"
            + (f" {file}" if file else "")
        )
    changed_text = not given.keys() & {"text", "corpus_root"} and corpus.name not in identity.texts
    layerwise = identity.config.get("layerwise", False)
    like = ONE_DEVICE.abstract(lambda: initial_state(experiment, layerwise=layerwise))
    for _ in range(_TRIES):
        steps = saved_steps(folder.checkpoints)
        step = steps[0] if config.step is None and steps else config.step
        if step not in steps and (step is not None or not (folder.path / LOCK).exists()):
            raise InputError(
                f"{folder.checkpoints} has no checkpoint"
                + (f" of step {step}, but of {steps}" if steps else "")
            )
        if step is not None:
            try:
                params = load(folder.checkpoints, step, like, identity)[0].params
                return Trained(step, experiment, params, corpus, changed_text)
            except (DamagedError, FileNotFoundError) as error:
                # a run that is still training may have removed it when it had another one
                if step in saved_steps(folder.checkpoints):
                    raise InputError(
                        f"the checkpoint of step {step} in {folder.checkpoints} cannot be "
                        f"used: {error}; choose another with --step, there are {steps}"
                    ) from error
        time.sleep(_PAUSE)
    raise InputError(
        f"{folder.checkpoints} has no checkpoint that stays long enough to be read, or none yet; "
        f"try again later, or let the run --keep more of them"
    )


_TRIES, _PAUSE = 20, 0.1
