"""What a finished run leaves: a sample of text, a picture, a summary."""

import statistics
from typing import Any

import jax
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

import multinorm_optax as mo
from examples.llama.config import Experiment, InputError
from examples.llama.generate import generate
from examples.llama.loss import Validation
from examples.llama.model import LLAMA_RULES, Definition, Params
from examples.llama.optimizers import MATRIX
from examples.llama.run.environment import machine, versions
from examples.llama.run.files import write_json
from examples.llama.run.folder import RunFolder, read_metrics
from examples.llama.run.options import as_json
from examples.llama.run.plot import Curve, plot_run
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

    Of several processes, each has a part of the weights only: there is no sample then;
    `examples.llama.generate` makes one.
    """
    name = experiment.optimizer.name
    total = experiment.setup.steps
    lines = read_metrics(folder.metrics)
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation_loss" in line]
    if not validations or validations[-1]["step"] != total:  # of a link to /dev/null, for example
        raise InputError(
            f"{folder.metrics} does not have the lines that were written to it; remove it, and the "
            f"same command writes it again"
        )
    result = Validation.from_json(validations[-1])
    sample = None
    if jax.process_count() == 1:
        try:
            begins = len(corpus.tokenizer.encode(_PROMPT)) > 0
        except Exception:  # each tokenizer has its own
            begins = False
        if begins:
            sample = generate(
                definition,
                params,
                corpus.tokenizer,
                prompt=_PROMPT,
                window=experiment.setup.data.sequence_length,
            )
        else:
            console.print(f"There is no sample of text: the tokenizer cannot write {_PROMPT!r}")
    plot_run(
        folder.picture,
        f"{name}: {result}",
        _curve(steps, "loss"),
        _curve(validations, "validation_loss"),
    )
    optimizer = make_optimizer(experiment.optimizer, experiment.setup)
    audit = mo.audit(params, optimizer, axes=LLAMA_RULES)
    speed = statistics.median(line["tokens_per_second"] for line in steps)
    last_tenth = steps[-max(1, total // 10) :]
    summary = {
        "run": folder.identity().run,
        "train_loss": statistics.fmean(line["loss"] for line in last_tenth),
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
        f"{name}: {result}; {speed:,.0f} tokens/s, {summary['seconds']:.0f} s; see {folder.path}",
        soft_wrap=True,
    )


def _curve(lines: list[dict[str, Any]], name: str) -> Curve:
    return [line["tokens"] / 1e6 for line in lines], [line[name] for line in lines]
