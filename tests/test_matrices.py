"""Weights as stacks of wide matrices, part by part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import multinorm_optax as mo
from examples.measure.exchanges import collectives
from multinorm_optax._matrices import stacks
from multinorm_optax._matrices.stacks import map_wide_matrices, reduce_wide_matrices
from tests.layouts import LAYOUTS, Layout

LAST_TWO = mo.MatrixAxes(output=-2, input=-1)
STACKS = {
    **LAYOUTS,
    "one_of_each_device": Layout((8, 6, 4), (2,), (1,)),
    "two_of_each_device": Layout((16, 6, 4), (2,), (1,)),
    "odd_and_even": Layout((3, 6, 6, 4), (1,), (3,)),
    "scattered": Layout((4, 3, 5, 10, 2), (1,), (3, 4)),
    "of_one": Layout((1, 6, 4, 1), (2,), (1,)),
}


@pytest.fixture
def in_parts(monkeypatch):
    """As few matrices at a time as devices allow."""
    monkeypatch.setattr(stacks, "_ENTRIES_ON_CPU", 1)
    monkeypatch.setattr(stacks, "_ENTRIES", 1)


def cubed(seen):
    """X X^T X, which is no function of single entries, noting what is asked for."""

    def function(x):
        seen.append(x.shape)
        return x @ jnp.swapaxes(x, -1, -2) @ x

    return function


@pytest.mark.parametrize("layout", STACKS.values(), ids=STACKS)
def test_every_matrix_has_its_turn(float64, in_parts, rng, layout):
    w = rng.standard_normal(layout.shape)
    matrices = layout.matrices(w)
    seen = []
    result = jax.jit(lambda w: map_wide_matrices(cubed(seen), w, layout.axes))(w)
    want = layout.weight([X @ X.T @ X for X in matrices])
    np.testing.assert_allclose(result, want, rtol=1e-12, atol=1e-12)
    m, n = sorted(matrices.shape[1:])
    for shape in seen:
        assert shape[-2:] == (m, n)
        # no more than may lie on different ones of the eight devices
        assert np.prod(shape[:-2]) <= np.prod([np.gcd(layout.shape[i], 8) for i in layout.batch])
        assert 1 not in shape[:-2]


@pytest.mark.devices(8)
@pytest.mark.parametrize(
    ("shape", "on_cpu", "elsewhere"),
    [
        ((9, 512, 512), (512, 512), (9, 512, 512)),
        ((9, 64, 128), (9, 64, 128), (9, 64, 128)),
        ((9, 256, 512), (3, 256, 512), (9, 256, 512)),
        ((5, 9, 256, 512), (3, 256, 512), (5, 9, 256, 512)),
        ((3, 3, 64, 512), (3, 3, 64, 512), (3, 3, 64, 512)),
        ((24, 512, 512), (8, 512, 512), (24, 512, 512)),
        ((27, 1024, 4096), (1024, 4096), (3, 1024, 4096)),
        ((5, 4096, 11008), (4096, 11008), (4096, 11008)),
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_as_many_matrices_at_a_time_as_fit(monkeypatch, shape, on_cpu, elsewhere, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    seen = []
    jax.eval_shape(
        lambda w: map_wide_matrices(cubed(seen), w, LAST_TWO.resolve(w.shape)),
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )
    assert set(seen) == {on_cpu if backend == "cpu" else elsewhere}


@pytest.mark.parametrize(
    "orthogonalizer",
    [mo.polar_express(), mo.newton_schulz(), mo.muon_quintic(), mo.swan_whitening()],
    ids=["polar_express", "newton_schulz", "muon_quintic", "swan_whitening"],
)
@pytest.mark.parametrize(("backend", "platform", "loops"), [("cpu", "cpu", 2), ("gpu", "cuda", 1)])
def test_a_gpu_takes_a_whole_stack_and_a_cpu_takes_turns(
    monkeypatch, orthogonalizer, backend, platform, loops
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    tx = mo.normalize_spectral(LAST_TWO, orthogonalizer)
    # Three matrices for each of eight devices; one loop is that over the steps.
    weight = jax.ShapeDtypeStruct((24, 512, 1376), jnp.float32)
    traced = jax.jit(lambda g: tx.update(g, ())[0]).trace(weight)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.while") == loops
    assert "stablehlo.case" not in text
    assert "stablehlo.if" not in text


@pytest.mark.parametrize(
    "orthogonalizer", [mo.swan_whitening(), mo.muon_quintic()], ids=["swan", "muon"]
)
@pytest.mark.parametrize("axes", [(-1, -2), (-2, -1)], ids=["flax", "torch"])
def test_memory_is_that_of_one_matrix(orthogonalizer, axes):
    """And of an array of the weight's size, in whose place the result comes to lie."""
    weight = jax.ShapeDtypeStruct((27, 256, 1024), jnp.float32)
    tx = mo.scale_by_swan(mo.MatrixAxes(*axes), orthogonalizer=orthogonalizer)
    compiled = jax.jit(lambda g: tx.update(g, ())[0], donate_argnums=0).lower(weight).compile()
    plan = compiled.memory_analysis()
    one = 4 * 256 * 1024
    assert plan.temp_size_in_bytes <= (27 + 6) * one


def test_reverse_mode_goes_through(float64, in_parts, rng):
    w = rng.standard_normal((3, 4, 6))
    axes = mo.MatrixAxes(output=1, input=2)

    def value(w):
        return jnp.sum(jnp.sin(map_wide_matrices(cubed([]), w, axes)))

    def plain(w):
        return jnp.sum(jnp.sin(cubed([])(w)))

    gradient = jax.jit(jax.grad(value))(w)
    np.testing.assert_allclose(gradient, jax.grad(plain)(w), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", STACKS.values(), ids=STACKS)
def test_reduce(float64, rng, layout):
    w = rng.standard_normal(layout.shape)
    traces = reduce_wide_matrices(
        lambda x: jnp.sum(x**2, axis=(-1, -2)), jnp.asarray(w), layout.axes
    )
    assert traces.shape == tuple(
        size if axis in layout.batch else 1 for axis, size in enumerate(layout.shape)
    )
    want = [np.sum(X**2) for X in layout.matrices(w)]
    np.testing.assert_allclose(np.ravel(traces), want, rtol=1e-12)


@pytest.mark.devices(8)
@pytest.mark.parametrize(
    ("shape", "spec", "part"),
    [
        ((16, 16, 32), P(None, "fsdp", "tensor"), (8, 16, 32)),
        ((12, 16, 32), P(None, "fsdp", "tensor"), (4, 16, 32)),
        ((6, 16, 32), P(None, "fsdp", "tensor"), (2, 16, 32)),
        ((3, 16, 32), P(None, "fsdp", "tensor"), (16, 32)),
        ((16, 16, 32), P("tensor", None, "fsdp"), (8, 16, 32)),
        ((4, 6, 16, 32), P("fsdp", None, None, "tensor"), (4, 2, 16, 32)),
    ],
    ids=str,
)
def test_devices_share_a_stack_in_whole_matrices(float64, in_parts, rng, shape, spec, part):
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 2)
    w = rng.standard_normal(shape)
    seen = []
    with jax.set_mesh(mesh):
        sharded = jax.device_put(w, NamedSharding(mesh, spec))
        function = jax.jit(lambda w: map_wide_matrices(cubed(seen), w, LAST_TWO.resolve(w.shape)))
        compiled = function.lower(sharded).compile()
        result = compiled(sharded)
    np.testing.assert_allclose(result, cubed([])(w), rtol=1e-12, atol=1e-12)
    assert result.sharding == sharded.sharding
    assert set(seen) == {part}
    sent = collectives(compiled.as_text())
    assert {each.kind for each in sent} <= {"all-to-all", "all-reduce"}
    assert all(each.loop is None for each in sent if each.kind == "all-to-all")
