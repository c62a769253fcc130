"""How long an update takes to trace, lower and compile for a model whose layers are not stacked.

    python -m examples.benchmark.compilation

The model has 84 matrices of three shapes, as twelve layers of a LLaMA have. The optimizers take
turns; of each, the fastest round counts. Caches are emptied before each.
"""

from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import optax

import multinorm_optax as mo
from examples.llama.run.environment import machine, versions
from examples.llama.run.records import write_json

RESULTS = Path(__file__).parent / "results" / "compilation.json"
SHAPES = [(128, 128)] * 48 + [(128, 344)] * 24 + [(344, 128)] * 12
ROUNDS = 5
OPTIMIZERS = {
    "optax.adamw": optax.adamw(1e-3),
    "sinkgd": mo.sinkgd(),
    "sinkgd, 2 sweeps": mo.sinkgd(num_iters=2),
    "swan": mo.swan(),
    "optax.contrib.muon": optax.contrib.muon(1e-3),
}


def seconds(optimizer: optax.GradientTransformation) -> dict[str, float]:
    """The time of each stage."""
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
    return {
        "trace": after_trace - start,
        "lower": after_lowering - after_trace,
        "compile": perf_counter() - after_lowering,
    }


def measure() -> list[dict[str, Any]]:
    """One row for each optimizer, with its ratio to AdamW's."""
    seconds(OPTIMIZERS["optax.adamw"])  # the first compilation of a process starts the compiler
    found: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for name, optimizer in OPTIMIZERS.items():
            stages = seconds(optimizer)
            if name not in found or sum(stages.values()) < sum(found[name].values()):
                found[name] = stages
    adamw = sum(found["optax.adamw"].values())
    return [
        {"optimizer": name, **stages, "ratio": sum(stages.values()) / adamw}
        for name, stages in found.items()
    ]


if __name__ == "__main__":
    rows = measure()
    for row in rows:
        times = ", ".join(f"{stage} {row[stage]:.2f} s" for stage in ("trace", "lower", "compile"))
        print(f"{row['optimizer']:20} {times}: {row['ratio']:.1f} x AdamW")
    about = {"matrices": len(SHAPES), "rounds": ROUNDS}
    write_json(RESULTS, {"rows": rows, **about, "versions": versions(), "machine": machine()})
