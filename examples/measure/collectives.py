"""What devices send one another for one update: `python -m examples.measure.collectives`.

Nothing is allocated and no accelerator is needed: the update is compiled for a mesh of simulated
devices, and the compiled program says what is sent.
"""

import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AxisType, Mesh
from rich.console import Console

import multinorm_optax as mo
from examples.llama.config import (
    InputError,
    ModelConfig,
    OptimizerConfig,
    OptimizerName,
    PresetName,
    Setup,
)
from examples.llama.mesh import Placement
from examples.llama.model import LLAMA_RULES, Params, abstract_llama
from examples.llama.optimizers import MATRIX, OPTIMIZERS
from examples.llama.presets import PRESETS, resolve
from examples.llama.run.command import run_command
from examples.llama.run.options import check_names
from examples.llama.schedule import make_optimizer
from examples.measure.exchanges import KINDS, Collective, collectives
from examples.measure.results import check_results, write_results
from examples.measure.tables import Table, table, unique

_NOTE = (
    "MiB that each device sends for one update of all matrices: with a group of n devices, of an "
    "array that all of them have afterwards, (n - 1)/n where it is gathered or exchanged, twice as "
    "much where it is summed. SinkGD's includes the sums at several powers of two that its first "
    "sweep takes."
)


@dataclass(frozen=True)
class Command:
    """Count the bytes that devices send one another for one update of a model's matrices.

    The update is compiled for a mesh of simulated devices, with gradients, weights and optimizer
    state spread as in training; nothing is allocated. Embedding, head and norms are left out: Adam
    updates them without sending anything.
    """

    preset: PresetName = "7b"
    """The model whose matrices are updated."""
    mesh: tuple[int, int] = (8, 8)
    """Devices along fsdp and tensor."""
    optimizers: tuple[OptimizerName, ...] = ("sinkgd", "swan", "swan-paper", "muon")
    """Optimizers to compile, each with its default options. SWAN comes twice: with Auto mesh axes,
    as in training, and with Explicit ones, where it knows how its weights are spread."""
    results: Path = Path("runs/collectives.json")
    """The file of all figures."""


def total(found: Sequence[Collective]) -> dict[str, dict[str, int]]:
    """Add up exchanges by kind: how often, the arrays' bytes, and the bytes that a device sends."""
    if any(each.trips is None for each in found):
        raise InputError("the number of rounds of a loop is not known before it runs")
    kinds = {}
    for kind in KINDS:
        if here := [(each.trips or 0, each) for each in found if each.kind == kind]:
            kinds[kind] = {
                "count": sum(times for times, _ in here),
                "bytes": sum(times * each.bytes for times, each in here),
                "sent_bytes": round(sum(times * each.sent_bytes for times, each in here)),
            }
    return kinds


def simulated_mesh(shape: tuple[int, int], axis_type: AxisType) -> Mesh:
    """A mesh of simulated CPU devices; an error if JAX has made its devices already, too few."""
    count = math.prod(shape) if min(shape) > 0 else 0
    with contextlib.suppress(RuntimeError):  # there are devices already
        jax.config.update("jax_num_cpu_devices", max(1, count))
        jax.config.update("jax_platforms", "cpu")
    devices = jax.devices("cpu")
    if not 0 < count <= len(devices):
        raise InputError(
            f"--mesh {shape[0]} {shape[1]} is for {count} devices, but there are {len(devices)}; "
            f"run the command in a process of its own, with positive numbers"
        )
    names, types = ("fsdp", "tensor"), (axis_type,) * 2
    return jax.make_mesh(shape, names, axis_types=types, devices=devices[:count])


def matrices_of(model: ModelConfig) -> Params:
    """The shapes and dtypes of the matrices of a model, in a tree like its parameters."""
    _, params = abstract_llama(model)
    labels = flatten_dict(mo.group_labels(LLAMA_RULES)(params))
    leaves = flatten_dict(params).items()
    return unflatten_dict({path: leaf for path, leaf in leaves if labels[path] == MATRIX})


def compiled_update(
    name: OptimizerName, setup: Setup, matrices: Params, placement: Placement
) -> Any:
    """Compile an optimizer's update of these matrices; results are sharded like the inputs."""
    optimizer = make_optimizer(resolve(OptimizerConfig(name), setup.preset), setup)
    with placement.mesh_context():
        params = placement.abstract(lambda: matrices)
        state = jax.eval_shape(optimizer.init, params)
        state = placement.abstract(lambda: {"optimizer_state": state})["optimizer_state"]
        shardings = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
        update = jax.jit(optimizer.update, out_shardings=shardings)
        return update.lower(params, state, params).compile()


def measure(command: Command, console: Console) -> dict[str, Any]:
    """Compile every update and add up what it sends."""
    setup = PRESETS[command.preset].setup
    model = dataclasses.replace(setup.model, precision="float32")
    setup = dataclasses.replace(setup, model=model)
    matrices, rows = matrices_of(model), []
    for name in unique(command.optimizers):
        for axis_type in (AxisType.Auto, AxisType.Explicit)[: 2 if name.startswith("swan") else 1]:
            placement = Placement(simulated_mesh(command.mesh, axis_type))
            title = OPTIMIZERS[name].title + ", Explicit" * (axis_type == AxisType.Explicit)
            with console.status(f"compiling {command.preset}, {title}"):
                compiled = compiled_update(name, setup, matrices, placement)
            kinds = total(collectives(compiled.as_text()))
            about = {"optimizer": name, "title": title, "axis_type": axis_type.name}
            sent = sum(kind["sent_bytes"] for kind in kinds.values())
            rows.append({**about, "kinds": kinds, "sent_bytes": sent})
    size = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(matrices))
    devices = math.prod(command.mesh)
    text = f"{command.preset}: {size / 2**20:,.1f} MiB of float32 matrices on {devices} devices"
    console.print(make_table(rows, text), _NOTE, sep="\n", soft_wrap=True)
    return {
        "preset": command.preset,
        "mesh": list(command.mesh),
        "precision": "float32",
        "matrix_bytes": size,
        "matrix_bytes_per_device": size // devices,
        "rows": rows,
        "note": _NOTE,
    }


def make_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """How often and how much each optimizer sends, by kind."""

    def sent(kind: str) -> Callable[[Mapping[str, Any]], str]:
        def cell(row: Mapping[str, Any]) -> str:
            found = row["kinds"].get(kind)
            return f"{found['sent_bytes'] / 2**20:,.1f} ({found['count']})" if found else ""

        return cell

    kinds = [kind for kind in KINDS if any(kind in row["kinds"] for row in rows)]
    return table(
        rows,
        {
            "MiB (times)": lambda row: row["title"],
            **{kind: sent(kind) for kind in kinds},
            "together": lambda row: f"{row['sent_bytes'] / 2**20:,.1f}",
        },
        title,
    )


def run(command: Command, console: Console) -> int:
    """Measure and report; return the exit code."""
    check_names("--optimizers", command.optimizers, OPTIMIZERS)
    check_results(command.results)
    write_results(command.results, measure(command, console), console)
    return 0


main = functools.partial(run_command, "examples.measure.collectives", Command, run)
"""Run the command line with these arguments; return the exit code."""

if __name__ == "__main__":
    sys.exit(main(None))
