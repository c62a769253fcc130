"""How long an update takes to trace, lower and compile for a model whose layers are not stacked.

The model has 84 matrices of three shapes, as twelve layers of a LLaMA have. The optimizers take
turns; of each, the fastest round counts. Caches are emptied before each.
"""

from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from examples.measure.bench.updates import KERNEL, build
from examples.measure.tables import Table

SHAPES = [(128, 128)] * 48 + [(128, 344)] * 24 + [(344, 128)] * 12
ROUNDS = 5
OPTIMIZERS = ("adamw", "sinkgd", "sinkgd-2", "swan", "muon")
STAGES = ("trace", "lower", "compile")


def seconds(name: str) -> dict[str, float]:
    """The time of each stage."""
    optimizer = build(name, KERNEL)
    params = {
        f"layer_{number}": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
        for number, shape in enumerate(SHAPES)
    }
    state = jax.eval_shape(optimizer.init, params)
    jax.clear_caches()
    start = perf_counter()
    traced = jax.jit(optimizer.update).trace(params, state, params)
    after_trace = perf_counter()
    lowered = traced.lower()
    after_lowering = perf_counter()
    lowered.compile()
    ends = after_trace, after_lowering, perf_counter()
    return {
        stage: end - begin
        for stage, begin, end in zip(STAGES, (start, *ends[:2]), ends, strict=True)
    }


def measure(console: Console) -> dict[str, Any]:
    """One row for each optimizer, with its ratio to AdamW's."""
    seconds("adamw")  # the first compilation of a process starts the compiler
    rounds = [{name: seconds(name) for name in OPTIMIZERS} for _ in range(ROUNDS)]
    best = {
        name: min((each[name] for each in rounds), key=lambda stages: sum(stages.values()))
        for name in OPTIMIZERS
    }
    adamw = sum(best["adamw"].values())
    rows = [
        {"optimizer": name, **stages, "ratio": sum(stages.values()) / adamw}
        for name, stages in best.items()
    ]
    console.print(make_table(rows))
    return {"rows": rows, "matrices": len(SHAPES), "rounds": ROUNDS}


def make_table(rows: list[dict[str, Any]]) -> Table:
    """The fastest round of each optimizer."""
    lines = [
        [
            row["optimizer"],
            *(f"{row[stage]:.2f} s" for stage in STAGES),
            f"{row['ratio']:.1f}",
        ]
        for row in rows
    ]
    return Table(["", *STAGES, "over AdamW's"], lines)
