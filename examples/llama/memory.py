"""What each optimizer costs in memory: `python -m examples.llama.memory`."""

from examples.llama.run.stop import end_quietly

if __name__ == "__main__":
    end_quietly()

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from rich.console import Console

from examples.llama.config import (
    DataConfig,
    Experiment,
    InputError,
    OptimizerConfig,
    Precision,
    PresetName,
)
from examples.llama.costs.candidates import FOR_MEMORY, Candidate, choose
from examples.llama.costs.footprint import GIB, compiled, kept, kept_in_float32
from examples.llama.costs.largest import Largest, largest
from examples.llama.costs.largest import make_table as table_of_largest
from examples.llama.costs.plot import MemoryBar, MemoryPanel, plot_memory
from examples.llama.costs.table import CARDS_GIB, Row, heading, make_table, state_table, unit_of
from examples.llama.optimizers import BASE_OPTIMIZERS
from examples.llama.presets import PRESETS
from examples.llama.run.command import run_command
from examples.llama.run.environment import machine, versions
from examples.llama.run.options import Checked, Count
from examples.llama.run.records import write_json

_OF_WEIGHTS_AND_STATE = (
    "Weights and state follow from shapes alone, and are the same on every machine. Under papers "
    "is what arXiv 2502.06742 and 2412.13148 (GaLore: 2403.03507) print for their sum, with state "
    "in bfloat16; beside it is the sum with state in float32, as --precision bfloat16-weights has "
    "it."
)

_OF_TEMPORARY = (
    "Temporary is what XLA plans for one compiled step of {batch} on its {backend} backend besides "
    "weights and state: gradients, activations, logits, and what the optimizer works with. Total "
    "is all of it; fits says whether {cards} GiB hold it. Another backend plans otherwise, and "
    "more rows need more."
)

_OF_BFLOAT16 = (
    "On a CPU, XLA multiplies in float32 what is bfloat16, and holds a float32 copy of all weights "
    "through the forward and backward pass (in a layer-wise step a copy of 16 bits): --precision "
    "float32 shows the step without that detour."
)


_PER_WEIGHT = "Bytes of state per weight of the model"
_PER_MATRIX_WEIGHT = "Bytes of state per weight of the layers' matrices, theirs alone"


@dataclass(frozen=True)
class Command(Checked):
    """Add up the memory that training needs: weights, optimizer state, and what a step takes.

    Nothing is trained and no weight is allocated, so that the largest models can be asked about on
    any machine. Weights and state are counted from shapes. The real train step is compiled,
    which takes seconds for each optimizer and preset, and the compiler reports its temporary
    memory. The figures go to a JSON file, with a picture beside it.
    """

    presets: tuple[PresetName, ...] = tuple(PRESETS)
    """Models to ask about."""
    optimizers: tuple[str, ...] = (
        *BASE_OPTIMIZERS,
        "sgd-plain",
        "ldadam-plain",
        "sinkgd-layerwise",
    )
    """Optimizers to ask about, each with its default options; variants of some, such
    as sinkgd-momentum and sinkgd-tokens, are possible too; sgd-plain is SGD without momentum,
    ldadam-plain LDAdam without error feedback. A name with -layerwise added has the step that
    does not materialize the full gradient."""
    precision: Precision | None = None
    """Instead of the preset's own: bfloat16 for the papers' models, float32 for cpu."""
    microbatch_rows: Count = 1
    """Rows for which the step is compiled. With few of them the optimizer is not hidden behind
    activations and logits, which are gone when it has its turn."""
    microbatches: Count = 1
    """Parts of the batch, each of that many rows. More than one add a float32 sum of the gradients,
    4 bytes a parameter, whatever the optimizer."""
    compile: bool = True
    """Compile the train step. Without it only weights and state are shown, which takes moments."""
    largest: tuple[PresetName, ...] = ()
    """Models whose layers to stack, as many as fit: with each optimizer, the deepest model whose
    weights, state and compiled step fit into 24 and 80 GiB."""
    results: Path = Path("runs/memory/memory.json")
    """The file of all figures; the picture is written beside it, as .png."""


def experiment_of(command: Command, preset: PresetName, optimizer: OptimizerConfig) -> Experiment:
    """What is asked about: a preset's model with a small batch of its own."""
    setup = PRESETS[preset].setup
    precision = command.precision or setup.model.precision
    data = DataConfig(
        batch_size=command.microbatch_rows * command.microbatches,
        microbatches=command.microbatches,
        sequence_length=setup.data.sequence_length,
    )
    model = dataclasses.replace(setup.model, precision=precision)
    return Experiment(optimizer, dataclasses.replace(setup, model=model, data=data))


def _row_length(preset: PresetName) -> int:
    # where text is contiguous, a row has one token more than it predicts
    chosen = PRESETS[preset]
    return chosen.setup.data.sequence_length + (chosen.corpus.text == "python")


def _candidates(command: Command, preset: PresetName) -> dict[str, Candidate]:
    return choose(command.optimizers, preset, FOR_MEMORY)


def _without_layerwise(command: Command, console: Console) -> Command:
    """The command without layer-wise steps, which have no microbatches."""
    left = tuple(name for name in command.optimizers if not name.endswith("-layerwise"))
    if left == command.optimizers:
        return command
    if not left:
        raise InputError("a layer-wise step has no microbatches; leave --microbatches out")
    console.print("Layer-wise steps are left out: they have no microbatches", soft_wrap=True)
    return dataclasses.replace(command, optimizers=left)


def measure(command: Command, preset: PresetName, console: Console) -> list[Row]:
    """One preset's rows, in the order of the optimizers."""
    rows = []
    for name, candidate in _candidates(command, preset).items():
        experiment = experiment_of(command, preset, candidate.optimizer)
        step = None
        if command.compile:
            with console.status(f"compiling {preset}, {candidate.title}"):
                step = compiled(experiment, _row_length(preset), layerwise=candidate.layerwise)
            console.print(f"{preset}, {candidate.title}: compiled in {step.compile_seconds:.0f} s")
        precision = experiment.setup.model.precision
        wide = kept_in_float32(experiment).state_bytes
        rows.append(Row(preset, name, candidate.title, precision, kept(experiment), step, wide))
    return rows


def measure_largest(command: Command, preset: PresetName, console: Console) -> list[Largest]:
    """The deepest models of one preset's layers, in the order of the optimizers."""
    found = []
    for name, candidate in _candidates(command, preset).items():
        experiment = experiment_of(command, preset, candidate.optimizer)
        with console.status(f"looking for the largest {preset}, {candidate.title}"):
            found += largest(
                preset,
                (name, candidate.title),
                experiment,
                _row_length(preset),
                CARDS_GIB,
                layerwise=candidate.layerwise,
            )
    return found


def panel_of(rows: Sequence[Row]) -> MemoryPanel:
    """One preset's part of the picture."""
    unit, size = unit_of(rows)
    return MemoryPanel(
        title=f"{rows[0].preset}: {rows[0].kept.parameters / 1e6:.1f} M parameters",
        unit=unit,
        bars=[
            MemoryBar(
                row.title,
                row.kept.weight_bytes / size,
                row.kept.state_bytes / size,
                0.0 if row.step is None else row.step.temporary_bytes / size,
            )
            for row in rows
        ],
        marks=(CARDS_GIB[0] * GIB / size, CARDS_GIB[1] * GIB / size),
    )


def batch_of(command: Command) -> str:
    """The batch for which steps are compiled, in words."""
    rows = "1 row" if command.microbatch_rows == 1 else f"{command.microbatch_rows} rows"
    return rows if command.microbatches == 1 else f"{command.microbatches} microbatches of {rows}"


def notes(command: Command, rows: Sequence[Row]) -> list[str]:
    """What a reader of the figures has to know."""
    found = [_OF_WEIGHTS_AND_STATE]
    if command.compile:
        backend = jax.default_backend()
        cards = " or ".join(map(str, CARDS_GIB))
        found.append(_OF_TEMPORARY.format(batch=batch_of(command), backend=backend, cards=cards))
        if backend == "cpu" and any(row.precision.startswith("bfloat16") for row in rows):
            found.append(_OF_BFLOAT16)
    return found


def run(command: Command, console: Console) -> int:
    """Count, compile and report; return the exit code."""
    for option in ("presets", "optimizers"):
        if not getattr(command, option):
            raise InputError(f"--{option} names none; leave the option out to take all")
    if command.microbatches > 1:
        command = _without_layerwise(command, console)
    panels = []
    every_row = []
    every_largest = []
    for preset in dict.fromkeys(command.presets):
        rows = measure(command, preset, console)
        console.print(heading(rows), style="bold", highlight=False, soft_wrap=True)
        console.print(make_table(rows))
        panels.append(panel_of(rows))
        every_row += rows
    console.print(
        state_table(_PER_WEIGHT, every_row, lambda kept: kept.state_per_weight),
        state_table(_PER_MATRIX_WEIGHT, every_row, lambda kept: kept.matrix_state_per_weight),
        sep="\n",
    )
    for preset in dict.fromkeys(command.largest):
        found = measure_largest(command, preset, console)
        console.print(table_of_largest(found))
        every_largest += found
    texts = notes(command, every_row)
    console.print(*texts, sep="\n", soft_wrap=True)
    picture = command.results.with_suffix(".png")
    title = "Memory of training"
    if command.compile:
        title += f": a step of {batch_of(command)}, compiled for {jax.default_backend()}"
    plot_memory(picture, title, panels)
    write_json(
        command.results,
        {
            "rows": [row.as_json() for row in every_row],
            "largest": [one.as_json() for one in every_largest],
            "microbatch_rows": command.microbatch_rows,
            "microbatches": command.microbatches,
            "backend": jax.default_backend() if command.compile else None,
            "notes": texts,
            "versions": versions(),
            "machine": machine(),
        },
    )
    console.print(f"Written: {command.results}, {picture}", soft_wrap=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.llama.memory", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
