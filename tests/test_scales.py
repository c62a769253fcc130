"""One path for the scales: its range, its graph, and where it runs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import multinorm_optax as mo
from tests import reference
from tests.catalogue import TRANSFORMATIONS, every_entry, kernels
from tests.layouts import ROWS_FIRST
from tests.updates import updated

STACK = mo.MatrixAxes(output=-2, input=-1)
ENTRIES = every_entry()
WITH_TOL = ("scale_by_sinkhorn_tol", "sinkgd_tol", "row_spectral")
WITHOUT_TOL = [name for name in TRANSFORMATIONS if name not in WITH_TOL]
without_tol = pytest.mark.parametrize("name", WITHOUT_TOL)


@functools.cache
def sinkhorn(num_iters=5):
    tx = mo.scale_by_sinkhorn(ROWS_FIRST, num_iters)
    return jax.jit(lambda g: tx.update(g, ())[0])


@pytest.fixture(params=["cpu", "gpu"], scope="class")
def backend(request):
    """As on another backend, which sums at all powers of two at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: request.param)
        jax.clear_caches()
        sinkhorn.cache_clear()
        yield request.param
    jax.clear_caches()
    sinkhorn.cache_clear()


@pytest.mark.usefixtures("backend")
class TestRange:
    def test_rows_near_the_smallest_number(self):
        # Columns are scaled down: were they first, the small rows would be flushed to zero.
        G = np.float32([[1, 8], [1.3e-38, 1.43e-38], [1.3e-38, 1.43e-38]])
        want = reference.sr_sinkhorn(G.astype(float), 1)
        np.testing.assert_allclose(sinkhorn(1)(G), want, rtol=1e-5)

    @given(seed=st.integers(0, 2**32 - 1), rows=st.floats(0, 36), columns=st.floats(0, 24))
    def test_rows_and_columns_of_any_size(self, seed, rows, columns):
        rng = np.random.default_rng(seed)
        G = rng.standard_normal((6, 9))
        G *= 10 ** rng.uniform(-rows, 0, (6, 1)) * 10 ** rng.uniform(-columns, 0, (1, 9))
        G = np.float32(G * 10 ** rng.uniform(0, 36))
        G[np.abs(G) < 2.0**-126] = 0
        want = reference.on_live_part(lambda X: reference.sr_sinkhorn(X, 5), G.astype(float))
        np.testing.assert_allclose(sinkhorn()(G), want, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("order", ["row_column", "column_row", "frobenius_column_row"])
    def test_any_order_at_any_scale(self, rng, order):
        norms = {"row": mo.RowNorm(), "column": mo.ColumnNorm(), "frobenius": mo.FrobeniusNorm()}
        members = [mo.normalize(norms[name], ROWS_FIRST) for name in order.split("_")]
        G = rng.standard_normal((6, 9))
        G[1] = G[:, 4] = 0
        projections = [reference.NORMS[name].project for name in order.split("_")]
        want = reference.on_live_part(lambda X: reference.multi_norm(X, projections, 3), G)
        tx = mo.multi_normalize(*members, num_iters=3)
        run = jax.jit(lambda g: tx.update(g, tx.init(g))[0])
        for scale in (1e-35, 1e-30, 1.0, 1e30, 1e37):
            found = run(np.float32(G * scale))
            np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-4, err_msg=f"{scale:g}")

    @pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)], ids=str)
    @pytest.mark.parametrize("value", [0.0, 1.2e-38, 3.0, 3e38])
    def test_single_rows_and_columns(self, shape, value):
        result = sinkhorn()(np.full(shape, value, np.float32))
        np.testing.assert_allclose(result, np.full(shape, np.sign(value)), rtol=1e-5)

    @pytest.mark.parametrize("scale", [2.0**-1000, 2.0**-900, 2.0**900, 2.0**1000])
    def test_all_of_float64(self, float64, rng, scale):
        G = rng.standard_normal((6, 9))
        result = sinkhorn()(G * scale)
        np.testing.assert_allclose(result, reference.sr_sinkhorn(G, 5), rtol=1e-12)

    def test_derivatives_stay_finite(self, rng):
        G = np.float32(rng.standard_normal((6, 9)))
        G[2] = 0
        gradient = jax.jit(jax.grad(lambda g: jnp.sum(jnp.sin(sinkhorn()(g)))))
        for scale in (1e-30, 1.0, 1e30):
            assert np.all(np.isfinite(gradient(G * np.float32(scale))))

    @pytest.mark.parametrize(
        "name", ["scale_by_sinkhorn", "scale_by_token_sinkhorn", "scale_by_swan"]
    )
    def test_a_gradient_that_xla_knows_to_be_zero(self, name):
        """An unused parameter has one: nothing may be folded to zero times infinity."""
        tx = getattr(mo, name)(STACK)
        shapes = [(1, 1), (1, 7), (7, 1), (4, 6), (3, 1, 7), (3, 7, 1), (2, 64, 96)]

        @jax.jit
        def update():
            return [tx.update(zero, tx.init(zero))[0] for zero in map(jnp.zeros, shapes)]

        for found in update():
            np.testing.assert_array_equal(found, 0)


class TestOneMeaningOfZeroRowsAndColumns:
    """A projection sees a matrix without them, wherever it stands."""

    @pytest.mark.parametrize("wrap", [optax.chain, optax.with_extra_args_support])
    @pytest.mark.parametrize("second", [mo.ColumnNorm(), mo.SpectralNorm(), mo.FrobeniusNorm()])
    def test_wrapped_members_give_the_same_numbers(self, rng, wrap, second):
        G = np.float32(rng.standard_normal((8, 12)))
        G[3] = G[:, 5] = 0
        rows, other = mo.normalize_rows(), mo.normalize(second)
        want = updated(mo.multi_normalize(rows, other, num_iters=4), G)
        for members in ((wrap(rows), other), (rows, wrap(other)), (wrap(rows), wrap(other))):
            result = updated(mo.multi_normalize(*members, num_iters=4), G)
            np.testing.assert_allclose(result, want, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("name", ["row", "column", "frobenius", "spectral", "max"])
    def test_a_norm_alone(self, float64, rng, name):
        norm = {
            "row": mo.RowNorm(),
            "column": mo.ColumnNorm(),
            "frobenius": mo.FrobeniusNorm(),
            "spectral": mo.SpectralNorm(mo.exact_svd()),
            "max": mo.MaxNorm(),
        }[name]
        W = rng.standard_normal((5, 8))
        W[2] = W[:, 3] = W[:, 6] = 0
        P_W = np.asarray(jax.jit(lambda w: norm(w, ROWS_FIRST))(W))
        want = reference.on_live_part(reference.NORMS[name].project, W)
        np.testing.assert_allclose(P_W, want, atol=1e-10)
        np.testing.assert_allclose(updated(mo.normalize(norm, ROWS_FIRST), W), want, atol=1e-10)
        assert float(norm.norm(jnp.asarray(P_W), ROWS_FIRST)) == pytest.approx(1, rel=1e-10)
        assert float(norm.dual_norm(jnp.asarray(W), ROWS_FIRST)) == pytest.approx(
            np.sum(W * P_W), rel=1e-10
        )


def equations(jaxpr):
    """The number of equations, those of inner jaxprs included."""
    inner = [value for each in jaxpr.eqns for value in jax.tree.leaves(list(each.params.values()))]
    found = [getattr(value, "jaxpr", value) for value in inner]
    return len(jaxpr.eqns) + sum(equations(each) for each in found if hasattr(each, "eqns"))


class TestGraph:
    @pytest.mark.parametrize("num_iters", [1, 2, 5, 16, 100])
    def test_at_most_120_equations_a_leaf(self, num_iters):
        tx = mo.scale_by_sinkhorn(STACK, num_iters)
        jaxpr = jax.make_jaxpr(lambda g: tx.update(g, ())[0])(jnp.ones((3, 64, 96)))
        assert equations(jaxpr.jaxpr) <= 120

    @pytest.mark.parametrize("name", [name for name in ENTRIES if name not in WITH_TOL])
    def test_no_branch_in_what_a_gpu_runs(self, rng, name):
        tx, tree = ENTRIES[name], kernels(rng)
        state = jax.eval_shape(tx.init, tree)
        traced = jax.jit(tx.update).trace(tree, state, tree)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        # LDAdam's first basis is that of a singular value decomposition, which no fixed number of
        # products reaches. One in every step would cost min(m, n) / rank times the other products.
        branches = len(tree) if name == "ldadam" else 0
        assert text.count("stablehlo.case") == branches
        assert "stablehlo.if" not in text

    def test_no_loop_in_what_a_gpu_runs(self, monkeypatch):
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        jax.clear_caches()
        traced = jax.jit(lambda g: mo.scale_by_sinkhorn(STACK).update(g, ())[0]).trace(
            jnp.ones((8, 64, 96))
        )
        assert "stablehlo.while" not in traced.lower(lowering_platforms=("cuda",)).as_text()
        jax.clear_caches()

    @pytest.mark.parametrize("shape", [(8, 64, 96), (128, 9000)])
    def test_no_barrier_keeps_a_conversion_from_the_sums_of_a_gpu(self, shape, monkeypatch):
        # `sinkgd` converts half precision first; behind a barrier XLA would store the result.
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        jax.clear_caches()
        tx, params = mo.sinkgd(axes=STACK), {"w": jnp.ones(shape, jnp.bfloat16)}
        text = jax.jit(tx.update).lower(params, tx.init(params)).as_text()
        behind = re.findall(r"stablehlo.optimization_barrier.*", text)
        assert behind
        whole = "tensor<" + "x".join(map(str, shape))
        assert not [line for line in behind if whole in line]
        jax.clear_caches()

    @pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="JAX 0.8 copies it on a CPU")
    def test_the_result_overwrites_a_donated_gradient(self):
        tx, shape = mo.scale_by_sinkhorn(ROWS_FIRST), (1024, 2736)
        update = jax.jit(lambda g: tx.update(g, ())[0], donate_argnums=0)
        plan = update.lower(jax.ShapeDtypeStruct(shape, jnp.float32)).compile().memory_analysis()
        assert plan.temp_size_in_bytes < 0.02 * 4 * np.prod(shape)

    def test_vmap_over_matrices_costs_what_the_stack_costs(self):
        stack = jax.ShapeDtypeStruct((8, 64, 96), jnp.float32)
        one = lambda g: mo.scale_by_sinkhorn(ROWS_FIRST).update(g, ())[0]  # noqa: E731
        all_ = lambda g: mo.scale_by_sinkhorn(STACK).update(g, ())[0]  # noqa: E731
        costs = [
            jax.jit(each).lower(stack).compile().cost_analysis() for each in (jax.vmap(one), all_)
        ]
        for quantity in ("flops", "bytes accessed"):
            assert costs[0][quantity] <= 1.2 * costs[1][quantity]


@without_tol
def test_a_gradient_of_its_own_on_every_device(rng, name):
    """Local SGD: inside `jax.shard_map` each device updates a model of its own."""
    tx = TRANSFORMATIONS[name]
    devices = min(4, jax.device_count())
    mesh = jax.make_mesh((devices,), ("replica",), axis_types=(AxisType.Auto,))
    trees = [kernels(rng) for _ in range(devices)]

    def own(stacked):
        tree = jax.tree.map(lambda x: x[0], stacked)
        return jax.tree.map(lambda x: x[None], tx.update(tree, tx.init(tree), tree)[0])

    mapped = jax.shard_map(own, mesh=mesh, in_specs=P("replica"), out_specs=P("replica"))
    result = jax.jit(mapped)(jax.tree.map(lambda *each: jnp.stack(each), *trees))
    alone = jax.jit(lambda tree: tx.update(tree, tx.init(tree), tree)[0])
    for index, tree in enumerate(trees):
        jax.tree.map(
            lambda found, want, index=index: np.testing.assert_allclose(
                found[index], want, rtol=1e-4, atol=1e-5
            ),
            result,
            alone(tree),
        )
