"""Sharded weights: no gathered matrix, and the result of one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import multinorm_optax as mo

AXES = mo.MatrixAxes(output=-1, input=-2)
HEADS = mo.MatrixAxes(output=(1, 2), input=0)
CASES = {
    "input": ((64, 32), P("fsdp", None), AXES),
    "output": ((64, 32), P(None, "fsdp"), AXES),
    "both": ((64, 32), P("fsdp", "tp"), AXES),
    "stacked": ((3, 64, 32), P(None, "fsdp", "tp"), AXES),
    "layers": ((4, 64, 32), P("fsdp", None, "tp"), AXES),
    "heads": ((64, 8, 4), P("fsdp", "tp", None), HEADS),
}


@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit], ids=lambda mode: mode.name)
@pytest.mark.parametrize("tol", [None, 1e-4])
@pytest.mark.parametrize("name", CASES)
def test_sinkhorn_gathers_nothing(rng, name, tol, mode):
    shape, spec, axes = CASES[name]
    mesh = jax.make_mesh((4, 2), ("fsdp", "tp"), axis_types=(mode, mode))
    G = np.float32(rng.standard_normal(shape))
    tx = mo.scale_by_sinkhorn(axes, tol=tol)
    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, spec)
        sharded = jax.device_put(jnp.asarray(G), sharding)
        step = jax.jit(lambda G: tx.update(G, tx.init(G))[0]).lower(sharded).compile()
        result = step(sharded)
    assert result.sharding.is_equivalent_to(sharding, len(shape))
    hlo = step.as_text()
    assert "all-gather" not in hlo
    assert "all-to-all" not in hlo
    sizes = [
        int(np.prod([int(d) for d in dims.split(",") if d]))
        for dims in re.findall(r"f32\[([\d,]*)\][^=\n]* all-reduce\(", hlo)
    ]
    assert all(size <= G.size // min(shape[-2:]) for size in sizes)
    alone = jax.jit(lambda G: tx.update(G, tx.init(G))[0])(G)
    np.testing.assert_allclose(result, alone, atol=1e-5)
