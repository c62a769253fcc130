"""What each optimizer costs in memory: `python -m examples.measure.memory`."""

import contextlib
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
from examples.llama.presets import PRESETS, resolved
from examples.llama.run.command import run_command
from examples.llama.run.options import Checked, Count, check_names
from examples.measure.absent import H100, compiling_for
from examples.measure.footprint import GIB, CompiledStep, deepest, kept, with_model
from examples.measure.pictures import draw_stacks, name_lines, panels
from examples.measure.results import check_results, write_results
from examples.measure.tables import Table, pivot, table, unique

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

NOTES = (
    "Weights and state follow from shapes alone. Papers: their sum as arXiv 2502.06742 and "
    "2412.13148 (GaLore: 2403.03507) print it. State in float32: the sum with --precision "
    "bfloat16-weights.",
    "Temporary: what XLA plans for the compiled step besides weights and state, such as gradients, "
    "activations and logits.",
    "On a CPU, XLA multiplies bfloat16 matrices in float32, and holds a "
    "float32 copy of all weights (in a layer-wise step a 16-bit copy): --precision float32 shows "
    "the step without it.",
)
"""Of what is counted, of the compiled step, and of one that is compiled for a CPU."""

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
        "sinkgd-tokens",
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
    compile: bool = True
    """Compile the train step, for one row: with few rows the optimizer is not hidden behind
    activations and logits, which are gone when it has its turn. Without it only weights and state
    are shown, which takes moments."""
    run: bool = False
    """Also make one real step, and report the peak of the device's memory, which it counts for the
    whole process: of one preset with one optimizer."""
    h100: bool = False
    """Compile for an NVIDIA H100 that need not be there; needs "jax[cuda12]" installed."""
    largest: tuple[PresetName, ...] = ()
    """Models whose layers to stack, as many as fit: with each optimizer, the deepest model whose
    weights, state and compiled step fit into 24 and 80 GiB."""
    results: Path = Path("runs/memory/memory.json")
    """The file of all figures; the picture is written beside it, as .png."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("--presets", self.presets, PRESETS)
        check_names("--optimizers", self.optimizers, _NAMES)
        if self.run and self.h100:
            raise InputError("--run needs a device that is there; leave out --h100")
        if self.run and not (self.compile and len(self.presets) == len(self.optimizers) == 1):
            raise InputError("--run needs one of --presets and one of --optimizers, compiled")


def experiment_of(command: Command, preset: PresetName, name: str) -> Experiment:
    """A preset's model with one optimizer, and a batch of one row."""
    setup = PRESETS[preset].setup
    data = DataConfig(batch_size=1, sequence_length=setup.data.sequence_length)
    optimizer = OptimizerConfig(name.removesuffix(_LAYERWISE))
    return with_model(
        resolved(Experiment(optimizer, dataclasses.replace(setup, data=data))),
        precision=command.precision or setup.model.precision,
        vocabulary=command.vocabulary or setup.model.vocabulary,
    )


def title_of(name: str) -> str:
    """The display name."""
    base = name.removesuffix(_LAYERWISE)
    return OPTIMIZERS[base].title + ", layer-wise" * (base != name)


def measure(command: Command, preset: PresetName, name: str, console: Console) -> dict[str, Any]:
    """The row of one optimizer at one preset."""
    experiment, title = experiment_of(command, preset, name), title_of(name)
    precision, memory = experiment.setup.model.precision, kept(experiment)
    # a state of float32 where the experiment's is bfloat16
    narrow = precision == "bfloat16"
    wide = kept(with_model(experiment, precision="bfloat16-weights")) if narrow else memory
    step: dict[str, Any] = {"total_bytes": None}
    if command.compile:
        with console.status(f"compiling {preset}, {title}"):
            compiled = CompiledStep(experiment, layerwise=name.endswith(_LAYERWISE))
        step = compiled.plan()
        console.print(f"{preset}, {title}: compiled in {step['compile_seconds']:.0f} s")
        step["total_bytes"] = memory.total_bytes + step["temporary_bytes"]
        if command.run:
            step |= compiled.run()
    published = PUBLISHED.get(experiment.optimizer.name, {})
    return {
        "preset": preset,
        "optimizer": name,
        "title": title,
        "precision": precision,
        **vars(memory),
        "state_per_weight": round(memory.state_bytes / memory.parameters, 4),
        "matrix_state_per_weight": round(memory.matrix_state_bytes / memory.matrix_parameters, 4),
        "weights_and_state_gib": round(memory.total_bytes / GIB, 6),
        "weights_and_float32_state_gib": round(wide.total_bytes / GIB, 6),
        "published_gib": published.get(preset) if narrow else None,
        **step,
    }


def largest(command: Command, preset: PresetName, name: str) -> list[dict[str, Any]]:
    """The deepest models with one optimizer that fit into `CARDS_GIB`."""
    experiment = experiment_of(command, preset, name)
    about = {"preset": preset, "optimizer": name, "title": title_of(name)}
    found = deepest(experiment, CARDS_GIB, layerwise=name.endswith(_LAYERWISE))
    return [about | size for size in found]


Row = Mapping[str, Any]


def memory_table(rows: Sequence[Row]) -> Table:
    """One preset's rows."""
    first, (unit, size) = rows[0], _unit(rows)

    def amount(count: Callable[[Row], float]) -> Callable[[Row], str]:
        return lambda row: f"{count(row) / size:.3f}"

    columns: dict[str, Callable[[Row], str]] = {
        unit: lambda row: row["title"],
        "state": amount(lambda row: row["state_bytes"]),
        "and weights": amount(lambda row: row["weight_bytes"] + row["state_bytes"]),
        "bytes a weight": lambda row: f"{row['state_per_weight']:.2f}",
        "in matrices": lambda row: f"{row['matrix_state_per_weight']:.2f}",
    }
    if any(row["published_gib"] for row in rows):
        columns["papers"] = lambda row: str(row["published_gib"] or "")
    if first["precision"] == "bfloat16":
        wide = "weights_and_float32_state_gib"
        columns["state in float32"] = amount(lambda row: row[wide] * GIB)
    if first["total_bytes"] is not None:
        columns["temporary"] = amount(lambda row: row["temporary_bytes"])
        columns["total"] = amount(lambda row: row["total_bytes"])
    title = (
        f"{first['preset']}: {first['parameters'] / 1e6:.1f} M parameters, "
        f"{first['matrix_parameters'] / 1e6:.1f} M of them in the matrices of the layers; "
        f"weights {first['weight_bytes'] / size:.3f} {unit} ({first['precision']})"
    )
    return table(rows, columns, title)


def _unit(rows: Sequence[Row]) -> tuple[str, int]:
    """The unit in which a preset's figures are readable: its name and its bytes."""
    small = max(row["weight_bytes"] for row in rows) < GIB // 20
    return ("MiB", 2**20) if small else ("GiB", GIB)


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
            (unit, size), names = _unit(rows), [row["title"] for row in rows]
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


def real_step(row: Row) -> str:
    """What the real step said."""
    text = f"One step was made, with loss {row['loss']:.3f}; the device "
    if row["peak_bytes"] is None:
        return f"{text}reports no memory, so that the peak is unknown"
    peak, before = (row[key] / GIB for key in ("peak_bytes", "peak_bytes_before"))
    return f"{text}had a peak of {peak:.2f} GiB, {before:.2f} before the step"


def run(command: Command, console: Console) -> int:
    """Count, compile and report; return the exit code."""
    check_results(command.results, ".png")
    compiles = command.compile or command.largest
    names, models = unique(command.optimizers), []
    presets: dict[str, list[dict[str, Any]]] = {}
    with compiling_for(H100) if command.h100 and compiles else contextlib.nullcontext():
        device = jax.devices()[0].device_kind if compiles else None
        for preset in unique(command.presets):
            presets[preset] = [measure(command, preset, name, console) for name in names]
            console.print(memory_table(presets[preset]))
        if command.run:
            console.print(real_step(presets[command.presets[0]][0]), soft_wrap=True)
        for preset in unique(command.largest):
            with console.status(f"looking for the largest {preset}"):
                here = [one for name in names for one in largest(command, preset, name)]
            console.print(largest_table(here))
            models += here
    notes = NOTES[: 1 if device is None else 3 if device == "cpu" else 2]
    console.print(*notes, sep="\n", soft_wrap=True)
    step = f": a step of one row, compiled for {device}" if command.compile else ""
    draw(command.results.with_suffix(".png"), f"Memory of training{step}", presets)
    rows = [row for here in presets.values() for row in here]
    figures = {"rows": rows, "largest": models, "compiled_for": device, "notes": notes}
    write_results(command.results, figures, console, picture=True)
    return 0


main = functools.partial(run_command, "examples.measure.memory", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    sys.exit(main(None))
