"""What each optimizer costs in memory: `python -m examples.measure.memory`."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from examples.llama.optimizers import BASE_OPTIMIZERS, OPTIMIZERS
from examples.llama.presets import PRESETS, resolve
from examples.llama.run.command import run_command
from examples.llama.run.options import Checked, Count
from examples.llama.run.stop import end_quietly
from examples.measure.footprint import GIB, CompiledStep, deepest, kept, with_model
from examples.measure.pictures import draw_stacks, name_lines, panels
from examples.measure.results import write_results
from examples.measure.tables import Table, pivot, unique

CARDS_GIB = (24, 80)
"""Memory of the devices that are asked about."""

_ADAM = {"60m": 0.32, "130m": 0.75, "350m": 2.05, "1b": 7.48}
_STATELESS = {"60m": 0.23, "130m": 0.43, "350m": 0.93, "1b": 2.98}
_GALORE = {"60m": 0.24, "130m": 0.52, "350m": 1.22, "1b": 4.38}

PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "adamw": _ADAM,
    "adamw2": _ADAM,
    "sinkgd": _STATELESS,
    "swan": _STATELESS,
    "galore": _GALORE,
}
"""GiB of weights and optimizer state in bfloat16, as printed: the memory columns of Scetbon et al.,
arXiv 2502.06742, and Ma et al., arXiv 2412.13148. They follow from the number of weights alone: for
Adam 2 bytes times 3N, for SinkGD and SWAN 2 bytes times N + 2(N_embedding + N_head + N_norms). The
last printed digit is rounded in some and cut off in others. GaLore's column is that of Zhao et al.,
arXiv 2403.03507, Table 2, whose program projects the other side."""

_OF_WEIGHTS_AND_STATE = (
    "Weights and state follow from shapes alone. Papers: their sum as arXiv 2502.06742 and "
    "2412.13148 (GaLore: 2403.03507) print it. State in float32: the sum with --precision "
    "bfloat16-weights."
)
_OF_TEMPORARY = (
    "Temporary: what XLA's {backend} backend plans for one compiled step of {rows} besides "
    "weights and state, such as gradients, activations and logits. More rows need more."
)
_OF_BFLOAT16 = (
    "On a CPU, XLA multiplies bfloat16 matrices in float32, and holds a float32 copy of all "
    "weights (in a layer-wise step a 16-bit copy): --precision float32 shows the step without it."
)

_LAYERWISE = "-layerwise"
_NAMES = [*OPTIMIZERS, *(name + _LAYERWISE for name, one in OPTIMIZERS.items() if one.layerwise)]


@dataclass(frozen=True)
class Command(Checked):
    """Add up the memory that training needs: weights, optimizer state, and what a step takes.

    Without --run nothing is trained and no weight is allocated, so that the largest models can be
    asked about on any machine. Weights and state are counted from shapes. The real train step is
    compiled, which takes seconds for each optimizer and preset, and the compiler reports its
    temporary memory. The figures go to a JSON file, with a picture beside it.
    """

    presets: tuple[PresetName, ...] = tuple(PRESETS)
    """Models to ask about."""
    optimizers: tuple[str, ...] = (
        *BASE_OPTIMIZERS,
        "sgd-plain",
        "ldadam-plain",
        "sinkgd-layerwise",
    )
    """Optimizers to ask about, each with its default options, or variants such as sinkgd-momentum.
    A name with -layerwise added has the step that does not materialize the full gradient."""
    precision: Precision | None = None
    """Instead of the preset's own: bfloat16 for the papers' models, float32 for cpu."""
    vocabulary: Count | None = None
    """Tokens of the model instead of the preset's own, so that logits do not hide the optimizer."""
    rows: Count = 1
    """Rows of the batch for which the step is compiled. With few of them the optimizer is not
    hidden behind activations and logits, which are gone when it has its turn."""
    compile: bool = True
    """Compile the train step. Without it only weights and state are shown, which takes moments."""
    run: bool = False
    """Also make one real step, and report the peak of the device's memory, which it counts for the
    whole process: of one preset with one optimizer."""
    largest: tuple[PresetName, ...] = ()
    """Models whose layers to stack, as many as fit: with each optimizer, the deepest model whose
    weights, state and compiled step fit into 24 and 80 GiB."""
    results: Path = Path("runs/memory/memory.json")
    """The file of all figures; the picture is written beside it, as .png."""

    def __post_init__(self) -> None:
        """Refuse names that do not exist, and combinations that mean nothing."""
        super().__post_init__()
        for option in ("presets", "optimizers"):
            if not getattr(self, option):
                raise InputError(f"--{option} names none; leave the option out to take all")
        if unknown := [name for name in self.optimizers if name not in _NAMES]:
            raise InputError(f"--optimizers: {', '.join(unknown)} is none of {', '.join(_NAMES)}")
        if self.run and not (self.compile and len(self.presets) == len(self.optimizers) == 1):
            raise InputError("--run needs one of --presets and one of --optimizers, compiled")


@dataclass(frozen=True)
class Case:
    """One optimizer with one preset's model."""

    experiment: Experiment
    layerwise: bool
    title: str
    row_length: int
    """Tokens in a row."""

    def step(self) -> CompiledStep:
        """The step, compiled."""
        return CompiledStep(self.experiment, self.row_length, layerwise=self.layerwise)


def case(command: Command, preset: PresetName, name: str) -> Case:
    """A preset's model with one optimizer, and the command's small batch."""
    base = name.removesuffix(_LAYERWISE)
    setup, corpus = PRESETS[preset].setup, PRESETS[preset].corpus
    length = setup.data.sequence_length
    data = DataConfig(batch_size=command.rows, sequence_length=length)
    experiment = Experiment(
        resolve(OptimizerConfig(base), preset), dataclasses.replace(setup, data=data)
    )
    model = {
        "precision": command.precision or setup.model.precision,
        "vocabulary": command.vocabulary or setup.model.vocabulary,
    }
    return Case(
        with_model(experiment, **model),
        base != name,
        OPTIMIZERS[base].title + ", layer-wise" * (base != name),
        # where text is contiguous, a row has one token more than it predicts
        length + (corpus.text == "python"),
    )


def measure(command: Command, preset: PresetName, name: str, console: Console) -> dict[str, Any]:
    """The row of one optimizer at one preset."""
    one = case(command, preset, name)
    precision, memory = one.experiment.setup.model.precision, kept(one.experiment)
    # a state of float32 where the experiment's is bfloat16
    narrow = precision == "bfloat16"
    wide = kept(with_model(one.experiment, precision="bfloat16-weights")) if narrow else memory
    step, total = {}, None
    if command.compile:
        with console.status(f"compiling {preset}, {one.title}"):
            compiled = one.step()
        step = compiled.plan()
        console.print(f"{preset}, {one.title}: compiled in {step['compile_seconds']:.0f} s")
        total = memory.total_bytes + step["temporary_bytes"]
        if command.run:
            step |= compiled.run()
    published = PUBLISHED.get(one.experiment.optimizer.name, {})
    return {
        "preset": preset,
        "optimizer": name,
        "title": one.title,
        "precision": precision,
        **vars(memory),
        "state_per_weight": round(memory.state_bytes / memory.parameters, 4),
        "matrix_state_per_weight": round(memory.matrix_state_bytes / memory.matrix_parameters, 4),
        "weights_and_state_gib": round(memory.total_bytes / GIB, 6),
        "weights_and_float32_state_gib": round(wide.total_bytes / GIB, 6),
        "published_gib": published.get(preset) if narrow else None,
        **step,
        "total_bytes": total,
    }


Row = Mapping[str, Any]


def _by_preset(head: str, rows: Sequence[Row], cell: Callable[[Row], str], title: str) -> Table:
    return pivot(head, rows, lambda row: row["title"], lambda row: row["preset"], cell, title)


def _gib(gib: float) -> str:
    return f"{gib:.2f}" if gib >= 0.05 else f"{gib:.4f}"


def kept_table(rows: Sequence[Row]) -> Table:
    """Weights and state: a line for each optimizer, a column for each preset."""

    def cell(row: Row) -> str:
        both = row["weights_and_state_gib"], row["weights_and_float32_state_gib"]
        papers = f" ({row['published_gib']:.2f})" if row["published_gib"] else ""
        return _gib(both[0]) + papers + f" / {_gib(both[1])}" * (row["precision"] == "bfloat16")

    return _by_preset("GiB", rows, cell, "Weights and state (papers) / with state in float32")


def state_table(rows: Sequence[Row]) -> Table:
    """Bytes per weight: a line for each optimizer, a column for each preset."""

    def cell(row: Row) -> str:
        return f"{row['matrix_state_per_weight']:.2f} / {row['state_per_weight']:.2f}"

    title = "Bytes of state per weight: of the layers' matrices / of the model"
    return _by_preset("", rows, cell, title)


def step_table(rows: Sequence[Row]) -> Table:
    """Temporary and total memory: a line for each optimizer, a column for each preset."""

    def cell(row: Row) -> str:
        return f"{_gib(row['temporary_bytes'] / GIB)} / {_gib(row['total_bytes'] / GIB)}"

    return _by_preset("GiB", rows, cell, "Temporary, during a step / together")


def largest_table(rows: Sequence[Row]) -> Table:
    """The largest models of one preset's layers."""
    return pivot(
        f"layers of {rows[0]['preset']}",
        rows,
        lambda row: row["title"],
        lambda row: f"in {row['card_gib']} GiB",
        lambda row: f"{row['parameters'] / 1e9:.2f} B ({row['layers']})",
    )


def draw(path: Path, title: str, presets: Mapping[str, Sequence[Row]]) -> None:
    """Draw a panel of stacked bars for each preset, two in a row, each with its own scale."""
    columns = min(2, len(presets))
    height = 0.9 + 0.27 * max(map(len, presets.values()))
    heights = [height] * -(-len(presets) // columns)
    parts = {
        "weights": ("C7", "weight_bytes"),
        "optimizer state": ("C0", "state_bytes"),
        "temporary, during a step": ("C1", "temporary_bytes"),
    }
    with panels(path, title, heights, columns, width=5.4 * columns) as every:
        for axes in every[len(presets) :]:
            axes.remove()
        for axes, (preset, rows) in zip(every, presets.items(), strict=False):
            small = max(row["weight_bytes"] for row in rows) < GIB // 20
            unit, size = ("MiB", 2**20) if small else ("GiB", GIB)
            names = [row["title"] for row in rows]
            parameters = f"{preset}: {rows[0]['parameters'] / 1e6:.1f} M parameters"
            name_lines(axes, parameters, unit, names)
            stacks = {
                part: (color, [row[key] / size for row in rows])
                for part, (color, key) in parts.items()
                if key in rows[0]
            }
            draw_stacks(axes, names, stacks)
            for card, line in zip(CARDS_GIB, ("--", ":"), strict=True):
                if (at := card * GIB / size) < axes.get_xlim()[1]:
                    axes.axvline(at, color="black", linestyle=line, label=f"{card} GiB")


def notes(command: Command, rows: Sequence[Row]) -> list[str]:
    """What a reader of the figures has to know."""
    found = [_OF_WEIGHTS_AND_STATE]
    if command.compile:
        backend = jax.default_backend()
        found.append(_OF_TEMPORARY.format(rows=_batch(command), backend=backend))
        if backend == "cpu" and any(row["precision"].startswith("bfloat16") for row in rows):
            found.append(_OF_BFLOAT16)
    return found


def _batch(command: Command) -> str:
    return "1 row" if command.rows == 1 else f"{command.rows} rows"


def _say_peak(row: Row, console: Console) -> None:
    peak, before = row["peak_bytes"], row["peak_bytes_before"]
    if peak is None:
        device = jax.local_devices()[0].device_kind
        text = f"the device ({device}) reports no memory, so that the peak is unknown"
    else:
        text = f"the device's peak was {peak / GIB:.2f} GiB, {before / GIB:.2f} before the step"
    console.print(f"One step was made, with loss {row['loss']:.3f}; {text}", soft_wrap=True)


def run(command: Command, console: Console) -> int:
    """Count, compile and report; return the exit code."""
    names = unique(command.optimizers)
    presets: dict[str, list[dict[str, Any]]] = {}
    for preset in unique(command.presets):
        presets[preset] = [measure(command, preset, name, console) for name in names]
        first = presets[preset][0]
        console.print(
            f"{preset}: {first['parameters'] / 1e6:.1f} M parameters, "
            f"{first['matrix_parameters'] / 1e6:.1f} M of them in the matrices of the layers; "
            f"weights {_gib(first['weight_bytes'] / GIB)} GiB ({first['precision']})",
            soft_wrap=True,
        )
    rows = [row for here in presets.values() for row in here]
    if command.run:
        _say_peak(rows[0], console)
    console.print(kept_table(rows), state_table(rows), sep="\n")
    if command.compile:
        console.print(step_table(rows))
    largest: list[dict[str, Any]] = []
    for preset in unique(command.largest):
        here: list[dict[str, Any]] = []
        for name in names:
            one = case(command, preset, name)
            about = {"preset": preset, "optimizer": name, "title": one.title}
            with console.status(f"looking for the largest {preset}, {one.title}"):
                found = deepest(one.experiment, one.row_length, CARDS_GIB, layerwise=one.layerwise)
            here += [about | size for size in found]
        console.print(largest_table(here))
        largest += here
    texts = notes(command, rows)
    console.print(*texts, sep="\n", soft_wrap=True)
    backend = jax.default_backend() if command.compile else None
    step = f": a step of {_batch(command)}, compiled for {backend}" if command.compile else ""
    draw(command.results.with_suffix(".png"), f"Memory of training{step}", presets)
    figures = {"rows": rows, "largest": largest, "batch_rows": command.rows}
    figures |= {"backend": backend, "notes": texts}
    write_results(command.results, figures, console, picture=True)
    return 0


main = functools.partial(run_command, "examples.measure.memory", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    end_quietly()
    sys.exit(main(None))
