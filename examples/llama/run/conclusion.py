"""What a finished run leaves: a sample of text, a picture, a summary."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

import multinorm_optax as mo
from examples.llama.config import Experiment
from examples.llama.generate import generate
from examples.llama.loss import Validation
from examples.llama.model import Definition, Params
from examples.llama.optimizers import MATRIX
from examples.llama.rules import LLAMA_RULES
from examples.llama.run.environment import machine, versions
from examples.llama.run.folder import RunFolder, read_metrics
from examples.llama.run.options import as_json
from examples.llama.run.plot import plot_run
from examples.llama.run.processes import is_main_process
from examples.llama.run.records import write_json
from examples.llama.schedule import make_optimizer
from examples.llama.text.corpus import Corpus

_PROMPT = "def "


def conclude(
    experiment: Experiment,
    definition: Definition,
    params: Params,
    corpus: Corpus,
    folder: RunFolder,
    console: Console,
) -> None:
    """Sample, draw, and write the summary last, which marks the run as finished.

    Of several processes, each has a part of the weights only and one writes: there is no sample
    then; `examples.llama.generate` makes one.
    """
    if not is_main_process():
        return
    name = experiment.optimizer.name
    total = experiment.setup.steps
    lines = read_metrics(folder.metrics)
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation_loss" in line]
    assert validations[-1]["step"] == total
    result = Validation.from_json(validations[-1])
    sample = None
    if jax.process_count() == 1:
        sample = generate(
            definition,
            params,
            corpus.tokenizer,
            prompt=_PROMPT,
            window=experiment.setup.data.sequence_length,
        )
    plot_run(
        folder.picture,
        f"{name}: {result}",
        ([line["tokens"] for line in steps], [line["loss"] for line in steps]),
        (
            [line["tokens"] for line in validations],
            [line["validation_loss"] for line in validations],
        ),
    )
    optimizer = make_optimizer(experiment.optimizer, experiment.setup)
    audit = mo.audit(params, optimizer, axes=LLAMA_RULES)
    speed = statistics.median(line["tokens_per_second"] for line in steps) if steps else None
    summary = {
        "run": folder.identity().run,
        "train_loss": _loss_of_last_tenth(steps, total),
        **result.as_json(),
        "steps": total,
        "tokens": total * experiment.setup.data.tokens_per_step,
        "parameters": audit.parameters,
        "parameter_bytes": audit.parameter_bytes,
        "state_bytes": audit.state_bytes,
        "state_bytes_matrices": audit.state_bytes_of(MATRIX),
        "tokens_per_second": speed,
        "seconds": lines[-1]["elapsed_seconds"],
        "sample": sample,
        "config": as_json(experiment),
        "corpus": corpus.name,
        "versions": versions(),
        "machine": machine(),
    }
    write_json(folder.summary, summary)  # which marks the run as finished
    if sample is not None:
        console.print(Panel(Text(sample), title="sample", title_align="left"))
    console.print(audit.summary(), soft_wrap=True)
    console.print(
        f"{name}: {result}; {'unknown' if speed is None else f'{speed:,.0f}'} tokens/s, "
        f"{summary['seconds']:.0f} s; see {folder.path}",
        soft_wrap=True,
    )


def _loss_of_last_tenth(steps: Sequence[Mapping[str, Any]], total: int) -> float | None:
    """The mean training loss of the last tenth of all steps; None if one of them is missing."""
    wanted = max(1, total // 10)
    losses = [line["loss"] for line in steps if line["step"] > total - wanted]
    return statistics.fmean(losses) if len(losses) == wanted else None
