"""What each optimizer costs in memory: `python -m examples.measure.memory`."""

from examples.llama.run.stop import end_quietly

if __name__ == "__main__":
    end_quietly()

import dataclasses
import sys
from collections.abc import Mapping, Sequence
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
from examples.measure.footprint import GIB, CompiledStep, kept, with_model
from examples.measure.largest import largest, largest_table
from examples.measure.pictures import Stack, plot_stacks
from examples.measure.results import write_results
from examples.measure.tables import Table, unique

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
    "Temporary: what XLA's {backend} backend plans for one compiled step of {batch} besides "
    "weights and state, such as gradients, activations and logits. More rows need more."
)
_OF_BFLOAT16 = (
    "On a CPU, XLA multiplies bfloat16 matrices in float32, and holds a float32 copy of all "
    "weights (in a layer-wise step a 16-bit copy): --precision float32 shows the step without it."
)


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
    microbatch_rows: Count = 1
    """Rows for which the step is compiled. With few of them the optimizer is not hidden behind
    activations and logits, which are gone when it has its turn."""
    microbatches: Count = 1
    """Parts of the batch, each of that many rows. More than one add a float32 sum of the gradients,
    4 bytes a parameter, whatever the optimizer."""
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


def check(command: Command) -> None:
    """Refuse names that do not exist, and combinations that mean nothing."""
    for option in ("presets", "optimizers"):
        if not getattr(command, option):
            raise InputError(f"--{option} names none; leave the option out to take all")
    known = [*OPTIMIZERS, *(f"{n}-layerwise" for n, one in OPTIMIZERS.items() if one.layerwise)]
    if unknown := [name for name in command.optimizers if name not in known]:
        raise InputError(f"--optimizers: {', '.join(unknown)} is none of {', '.join(known)}")
    layerwise = [name for name in command.optimizers if _parts(name)[1]]
    if command.microbatches > 1 and len(layerwise) == len(command.optimizers):
        raise InputError("a layer-wise step has no microbatches; leave --microbatches out")
    if command.run and not (
        command.compile and len(command.presets) == len(command.optimizers) == 1
    ):
        raise InputError("--run needs one of --presets and one of --optimizers, compiled")


def _parts(name: str) -> tuple[str, bool, str]:
    """The name in the table of optimizers, whether the step is layer-wise, and a display name."""
    base = name.removesuffix("-layerwise")
    layerwise = base != name
    return base, layerwise, OPTIMIZERS[base].title + ", layer-wise" * layerwise


def experiment_of(command: Command, preset: PresetName, name: str) -> Experiment:
    """A preset's model with one optimizer, and a small batch of its own."""
    setup = PRESETS[preset].setup
    data = DataConfig(
        batch_size=command.microbatch_rows * command.microbatches,
        microbatches=command.microbatches,
        sequence_length=setup.data.sequence_length,
    )
    optimizer = resolve(OptimizerConfig(_parts(name)[0]), preset)
    return with_model(
        Experiment(optimizer, dataclasses.replace(setup, data=data)),
        precision=command.precision or setup.model.precision,
        vocabulary=command.vocabulary or setup.model.vocabulary,
    )


def _row_length(preset: PresetName) -> int:
    # where text is contiguous, a row has one token more than it predicts
    chosen = PRESETS[preset]
    return chosen.setup.data.sequence_length + (chosen.corpus.text == "python")


def measure(command: Command, preset: PresetName, name: str, console: Console) -> dict[str, Any]:
    """The row of one optimizer at one preset."""
    base, layerwise, title = _parts(name)
    experiment = experiment_of(command, preset, name)
    precision, memory = experiment.setup.model.precision, kept(experiment)
    # a state of float32 where the experiment's is bfloat16
    narrow = precision == "bfloat16"
    wide = kept(with_model(experiment, precision="bfloat16-weights")) if narrow else memory
    step, total = {}, None
    if command.compile:
        with console.status(f"compiling {preset}, {title}"):
            compiled = CompiledStep(experiment, _row_length(preset), layerwise=layerwise)
        step = compiled.plan()
        console.print(f"{preset}, {title}: compiled in {step['compile_seconds']:.0f} s")
        total = memory.total_bytes + step["temporary_bytes"]
        if command.run:
            step |= compiled.run()
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
        "published_gib": PUBLISHED.get(base, {}).get(preset) if narrow else None,
        **step,
        "total_bytes": total,
        "fits_gib": fitting(total),
    }


def fitting(total: int | None) -> int | None:
    """The smallest of the devices that holds so many bytes; None if none does, or unknown."""
    return next((c for c in CARDS_GIB if total is not None and total <= c * GIB), None)


def _unit(rows: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """The unit in which a preset's figures are readable: its name and its bytes."""
    small = max(row["weight_bytes"] for row in rows) < GIB // 20
    return ("MiB", 2**20) if small else ("GiB", GIB)


def memory_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One preset's rows."""
    first, (unit, size) = rows[0], _unit(rows)
    columns = {
        "state": lambda row: f"{row['state_bytes'] / size:.3f}",
        "and weights": lambda row: f"{(row['weight_bytes'] + row['state_bytes']) / size:.3f}",
    }
    if any(row["published_gib"] for row in rows):
        columns["papers"] = lambda row: (
            f"{row['published_gib']:.2f}" if row["published_gib"] else ""
        )
    if first["precision"] == "bfloat16":
        columns["state in float32"] = lambda row: (
            f"{row['weights_and_float32_state_gib'] * GIB / size:.3f}"
        )
    if first["total_bytes"] is not None:
        columns["temporary"] = lambda row: f"{row['temporary_bytes'] / size:.3f}"
        columns["total"] = lambda row: f"{row['total_bytes'] / size:.3f}"
        columns["fits"] = lambda row: f"{row['fits_gib']} GiB" if row["fits_gib"] else "none"
    title = (
        f"{first['preset']}: {first['parameters'] / 1e6:.1f} M parameters, "
        f"{first['matrix_parameters'] / 1e6:.1f} M of them in the matrices of the layers; "
        f"weights {first['weight_bytes'] / size:.3f} {unit} ({first['precision']})"
    )
    lines = [[row["title"], *(text(row) for text in columns.values())] for row in rows]
    return Table([unit, *columns], lines, title)


def state_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Bytes per weight: a line for each optimizer, a column for each preset."""
    presets, keys = (
        unique(row["preset"] for row in rows),
        ("matrix_state_per_weight", "state_per_weight"),
    )
    found = {(r["title"], r["preset"]): " / ".join(f"{r[key]:.2f}" for key in keys) for r in rows}
    lines = [
        [name, *(found[name, preset] for preset in presets)]
        for name in unique(row["title"] for row in rows)
    ]
    title = "Bytes of state per weight: of the layers' matrices / of the model"
    return Table(["", *presets], lines, title)


def _stack(rows: Sequence[Mapping[str, Any]]) -> Stack:
    """One preset's part of the picture."""
    unit, size = _unit(rows)
    keys = {"weights": "weight_bytes", "optimizer state": "state_bytes"}
    keys |= {"temporary, during a step": "temporary_bytes"} if "temporary_bytes" in rows[0] else {}
    return Stack(
        f"{rows[0]['preset']}: {rows[0]['parameters'] / 1e6:.1f} M parameters",
        unit,
        [row["title"] for row in rows],
        {name: [row[key] / size for row in rows] for name, key in keys.items()},
        [card * GIB / size for card in CARDS_GIB],
    )


def _batch(command: Command) -> str:
    """The batch for which steps are compiled, in words."""
    rows = "1 row" if command.microbatch_rows == 1 else f"{command.microbatch_rows} rows"
    return rows if command.microbatches == 1 else f"{command.microbatches} microbatches of {rows}"


def notes(command: Command, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader of the figures has to know."""
    found = [_OF_WEIGHTS_AND_STATE]
    if command.compile:
        backend = jax.default_backend()
        found.append(_OF_TEMPORARY.format(batch=_batch(command), backend=backend))
        if backend == "cpu" and any(row["precision"].startswith("bfloat16") for row in rows):
            found.append(_OF_BFLOAT16)
    return found


def _say_peak(row: Mapping[str, Any], console: Console) -> None:
    peak, before = row["peak_bytes"], row["peak_bytes_before"]
    if peak is None:
        device = jax.local_devices()[0].device_kind
        text = f"the device ({device}) reports no memory, so that the peak is unknown"
    else:
        text = f"the device's peak was {peak / GIB:.2f} GiB, {before / GIB:.2f} before the step"
    console.print(f"One step was made, with loss {row['loss']:.3f}; {text}", soft_wrap=True)


def run(command: Command, console: Console) -> int:
    """Count, compile and report; return the exit code."""
    check(command)
    names = unique(command.optimizers)
    if command.microbatches > 1 and any(_parts(name)[1] for name in names):
        console.print("Layer-wise steps are left out: they have no microbatches", soft_wrap=True)
        names = [name for name in names if not _parts(name)[1]]
    rows: list[dict[str, Any]] = []
    stacks = []
    for preset in unique(command.presets):
        here = [measure(command, preset, name, console) for name in names]
        console.print(memory_table(here))
        stacks.append(_stack(here))
        rows += here
    if command.run:
        _say_peak(rows[0], console)
    console.print(state_table(rows))
    found = []
    for preset in unique(command.largest):
        for name in names:
            _, layerwise, title = _parts(name)
            experiment = experiment_of(command, preset, name)
            with console.status(f"looking for the largest {preset}, {title}"):
                sizes = largest(experiment, _row_length(preset), CARDS_GIB, layerwise=layerwise)
            about = {"preset": preset, "optimizer": name, "title": title}
            found += [about | one for one in sizes]
        console.print(largest_table([row for row in found if row["preset"] == preset]))
    texts = notes(command, rows)
    console.print(*texts, sep="\n", soft_wrap=True)
    picture = command.results.with_suffix(".png")
    title = "Memory of training"
    if command.compile:
        title += f": a step of {_batch(command)}, compiled for {jax.default_backend()}"
    plot_stacks(picture, title, stacks)
    write_results(
        command.results,
        {
            "rows": rows,
            "largest": found,
            "microbatch_rows": command.microbatch_rows,
            "microbatches": command.microbatches,
            "backend": jax.default_backend() if command.compile else None,
            "notes": texts,
        },
    )
    console.print(f"Written: {command.results}, {picture}", soft_wrap=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.measure.memory", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
