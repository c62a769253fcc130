"""How long an update takes to trace, lower and compile for a model whose layers are not stacked.

The model has 84 matrices of three shapes, as twelve layers of a LLaMA have. The optimizers take
turns; of each, the fastest round counts. Caches are emptied before each.
"""

import itertools
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from examples.measure.tables import Table
from examples.measure.timing import REFERENCE
from examples.measure.updates import KERNEL, build

SHAPES = [(128, 128)] * 48 + [(128, 344)] * 24 + [(344, 128)] * 12
ROUNDS = 5
OPTIMIZERS = (REFERENCE, "sinkgd", "sinkgd-2", "swan", "muon")
STAGES = ("trace", "lower", "compile")


def seconds(name: str) -> list[float]:
    """The time of each stage."""
    optimizer = build(name, KERNEL)
    params = {str(n): jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in enumerate(SHAPES)}
    state = jax.eval_shape(optimizer.init, params)
    jax.clear_caches()
    times = [perf_counter()]
    traced = jax.jit(optimizer.update).trace(params, state, params)
    times.append(perf_counter())
    lowered = traced.lower()
    times.append(perf_counter())
    lowered.compile()
    times.append(perf_counter())
    return [end - start for start, end in itertools.pairwise(times)]


def measure(console: Console) -> dict[str, Any]:
    """One row for each optimizer, with its ratio to AdamW's."""
    seconds(REFERENCE)  # the first compilation of a process starts the compiler
    rounds = [{name: seconds(name) for name in OPTIMIZERS} for _ in range(ROUNDS)]
    best = {name: min((each[name] for each in rounds), key=sum) for name in OPTIMIZERS}
    rows = [
        {
            "optimizer": name,
            **dict(zip(STAGES, stages, strict=True)),
            "ratio": sum(stages) / sum(best[REFERENCE]),
        }
        for name, stages in best.items()
    ]
    console.print(make_table(rows))
    return {"rows": rows, "matrices": len(SHAPES), "rounds": ROUNDS}


def make_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The fastest round of each optimizer."""
    lines = [
        [row["optimizer"], *(f"{row[stage]:.2f} s" for stage in STAGES), f"{row['ratio']:.1f}"]
        for row in rows
    ]
    return Table(["", *STAGES, "over AdamW's"], lines)
