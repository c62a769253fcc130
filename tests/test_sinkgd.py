"""SR-Sinkhorn: the measured rates, the definition, and what dead rows and columns must not do."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo
from tests import reference
from tests.layouts import ROWS_FIRST
from tests.updates import updated

SWEEPS = 12


def trace(G, num_iters=SWEEPS):
    """Residuals of the rows after each sweep and the last iterate."""
    rows, columns = mo.normalize_rows(ROWS_FIRST), mo.normalize_columns(ROWS_FIRST)
    found = jax.jit(lambda G: mo.trace_multi_normalize(G, rows, columns, num_iters=num_iters))(G)
    return np.asarray(found.residuals)[:, 0], np.asarray(found.iterates[-1])


@pytest.mark.parametrize("num_iters", [1, 2, 5, 50])
def test_matches_definition(gaussian, num_iters):
    result = updated(mo.scale_by_sinkhorn(ROWS_FIRST, num_iters), np.float32(gaussian))
    np.testing.assert_allclose(result, reference.sr_sinkhorn(gaussian, num_iters), atol=5e-6)


@pytest.mark.parametrize(
    ("num_iters", "residual"), [(1, 2.5e-2), (2, 1.3e-3), (3, 6.9e-5), (5, 2.8e-7)]
)
def test_residual_of_a_gaussian(float64, gaussian, num_iters, residual):
    result = np.asarray(updated(mo.scale_by_sinkhorn(ROWS_FIRST, num_iters), gaussian))
    assert reference.row_residual(result) == pytest.approx(residual, rel=0.05)
    columns = reference.column_norms(result) / np.sqrt(len(result))
    np.testing.assert_allclose(columns, 1, rtol=1e-13)
    assert reference.frobenius(result) == pytest.approx(np.sqrt(result.size), rel=1e-13)


def test_asymptotic_rate_is_the_second_singular_value_squared(float64, gaussian):
    residuals, balanced = trace(gaussian, 9)
    m, n = balanced.shape
    predicted = reference.singular_values(balanced**2 / np.sqrt(m * n))[1] ** 2
    rate = (residuals[7] / residuals[4]) ** (1 / 3)
    assert rate == pytest.approx(predicted, rel=0.1)


def test_ill_scaled_low_rank_converges_more_slowly(float64, rng):
    G = rng.standard_normal((64, 4)) @ rng.standard_normal((4, 160))
    G *= 10 ** rng.uniform(-2, 2, (64, 1)) * 10 ** rng.uniform(-2, 2, (1, 160))
    residuals, balanced = trace(G, 25)
    predicted = reference.singular_values(balanced**2 / np.sqrt(G.size))[1] ** 2
    rate = (residuals[11] / residuals[7]) ** (1 / 4)
    assert rate == pytest.approx(predicted, rel=0.1)
    assert residuals[4] > 100 * 2.8e-7  # the Gaussian's


def test_triangular_matrices_converge_like_one_over_l(float64, rng):
    residuals, _ = trace(np.tril(rng.standard_normal((32, 32))), 25)
    assert np.all(np.diff(residuals) < 0)
    assert residuals[-1] > 0.02


def test_positive_diagonal_scaling_of_the_gradient(float64, rng):
    G = rng.standard_normal((6, 9))
    ratio = np.asarray(updated(mo.scale_by_sinkhorn(ROWS_FIRST), G)) / G
    assert np.all(ratio > 0)
    values = reference.singular_values(ratio)
    assert values[1] < 1e-12 * values[0]


class TestDeadRowsAndColumns:
    def test_hundred_dead_rows_leave_live_ones_at_unit_rms(self, rng):
        G = rng.standard_normal((512, 64))
        G[rng.permutation(512)[:100]] = 0
        result = np.asarray(updated(mo.scale_by_sinkhorn(ROWS_FIRST), np.float32(G)), float)
        alive = np.any(G != 0, axis=1)
        rows = np.sqrt(np.mean(result**2, axis=1))
        np.testing.assert_allclose(rows[alive], 1, atol=1e-5)
        np.testing.assert_array_equal(result[~alive], 0)

    def test_a_dead_column_does_not_stall_the_rows(self, float64, rng):
        G = rng.standard_normal((64, 160))
        G[:, 7] = 0
        result = np.asarray(updated(mo.scale_by_sinkhorn(ROWS_FIRST), G))
        assert reference.row_residual(np.delete(result, 7, axis=1)) < 1e-6
        result = np.asarray(updated(mo.scale_by_sinkhorn(ROWS_FIRST, 6), G))
        assert reference.row_residual(np.delete(result, 7, axis=1)) < 1e-7
        np.testing.assert_array_equal(result[:, 7], 0)


def test_single_entry():
    G = jnp.zeros((3, 4)).at[1, 2].set(-1e-20)
    result = updated(mo.scale_by_sinkhorn(), G)
    np.testing.assert_array_equal(result, jnp.zeros((3, 4)).at[1, 2].set(-1))


@pytest.mark.parametrize("tol", [None, 1e-3])
@pytest.mark.parametrize("shape", [(8, 1024, 2736), (1, 2048, 5461)])
def test_an_update_allocates_vectors_only(shape, tol):
    G = jax.ShapeDtypeStruct(shape, jnp.float32)
    tx = mo.scale_by_sinkhorn(mo.MatrixAxes(output=-1, input=-2), tol=tol)

    def step(W, G):
        return optax.apply_updates(W, jax.tree.map(lambda u: -1e-3 * u, tx.update(G, ())[0]))

    memory = jax.jit(step, donate_argnums=0).lower(G, G).compile().memory_analysis()
    vectors = 4 * shape[0] * (shape[1] + shape[2])
    # An older XLA on a CPU writes one array of the weight's size.
    limit = 8 * vectors if jax.__version_info__ >= (0, 10) else 1.2 * 4 * G.size
    assert memory.temp_size_in_bytes < limit


@pytest.mark.parametrize("axes", [ROWS_FIRST, mo.MatrixAxes(output=1, input=0)], ids=str)
@pytest.mark.parametrize("shape", [(128, 8193), (100, 8200)], ids=str)
def test_long_rows(rng, shape, axes):
    G = rng.standard_normal(shape) * 10 ** rng.uniform(-2, 2, shape)
    result = np.asarray(updated(mo.scale_by_sinkhorn(axes, 3), np.float32(G)))
    # The reference's own projections would multiply by diagonal matrices of 8193 x 8193.
    projections = [
        lambda W: np.sqrt(W.shape[1]) * W / reference.row_norms(W)[:, None],
        lambda W: np.sqrt(W.shape[0]) * W / reference.column_norms(W),
    ]
    if axes == ROWS_FIRST:
        expected = reference.multi_norm(G, projections, 3)
    else:
        expected = reference.multi_norm(G.T, projections, 3).T
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_steep_rows_and_columns(rng):
    # Row and column scales that multiply to squares far below and above float32's range.
    G = np.float32(rng.standard_normal((24, 40)))
    tx = mo.scale_by_sinkhorn(ROWS_FIRST)
    for exponents in (30, 60):
        rows = 2.0 ** rng.integers(-exponents, exponents, (24, 1))
        columns = 2.0 ** rng.integers(-exponents, exponents, (1, 40))
        steep = np.float32(G * rows * columns)
        assert np.all(steep != 0)
        result = updated(tx, steep)
        expected = reference.sr_sinkhorn(G.astype(float) * rows * columns, 5)
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=1e-6)


def arrow(m, n):
    """One full row, and all other rows in one column: in the limit their crossing is zero."""
    G = np.zeros((m, n), np.float32)
    G[:, 0] = G[-1] = 1
    return G


class TestScalesThatGrowForEver:
    """Matrices without total support: scales drift, and their product with the matrix does not."""

    @pytest.mark.parametrize("power", [-110, -60, 0, 60, 115])
    @pytest.mark.parametrize(
        ("shape", "num_iters"), [((256, 256), 5), ((3, 512), 7), ((65, 160), 8)]
    )
    def test_few_sweeps_at_any_size(self, shape, num_iters, power):
        tx = mo.scale_by_sinkhorn(ROWS_FIRST, num_iters)
        result = updated(tx, arrow(*shape) * np.float32(2.0**power))
        expected = reference.sr_sinkhorn(arrow(*shape).astype(float), num_iters)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("power", [-110, 0, 105, 115])
    @pytest.mark.parametrize("tol", [None, 1e-3])
    @pytest.mark.parametrize("num_iters", [20, 300])
    @pytest.mark.parametrize("shape", [(3, 2), (65, 160), (256, 256)])
    def test_many_sweeps(self, shape, num_iters, tol, power):
        tx = mo.scale_by_sinkhorn(ROWS_FIRST, num_iters, tol)
        result = updated(tx, arrow(*shape) * np.float32(2.0**power))
        expected = reference.sr_sinkhorn(arrow(*shape).astype(float), min(num_iters, 100))
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 if tol is None else 1e-2)

    def test_sparse_matrices_keep_the_last_iterate_within_range(self, rng):
        G = np.float32(rng.standard_normal((64, 160)) * (rng.random((64, 160)) < 0.01))
        iterates = [
            reference.on_live_part(functools.partial(reference.sr_sinkhorn, L=L), G.astype(float))
            for L in range(50, 120)
        ]
        result = updated(mo.scale_by_sinkhorn(ROWS_FIRST, 1000), G)
        assert min(np.abs(result - each).max() for each in iterates) < 1e-4

    def test_the_guard_is_no_branch_of_a_gpu(self, rng):
        tx = mo.scale_by_sinkhorn(ROWS_FIRST, 12)
        traced = jax.jit(lambda G: tx.update(G, ())[0]).trace(np.float32(rng.random((8, 9))))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert not re.search(r"stablehlo\.(case|if)\b", text)

    def test_a_trace_ends_alike(self):
        residuals, last = trace(arrow(65, 160), 40)
        assert np.all(np.isfinite(residuals))
        expected = reference.sr_sinkhorn(arrow(65, 160).astype(float), 40)
        np.testing.assert_allclose(last, expected, atol=1e-5)

    @pytest.mark.parametrize("tol", [None, 1e-4])
    @pytest.mark.parametrize("power", [-100, 105])
    def test_matrices_with_support_are_invariant(self, rng, tol, power):
        steep = np.exp2(rng.integers(-4, 5, (64, 1)) + rng.integers(-4, 5, (1, 48)))
        for G in (rng.standard_normal((64, 48)), np.abs(rng.standard_normal((64, 48))) * steep):
            tx, G = mo.scale_by_sinkhorn(ROWS_FIRST, 50, tol), np.float32(G)
            scaled = updated(tx, np.float32(G * 2.0**power))
            np.testing.assert_array_equal(scaled, updated(tx, G))

    @pytest.mark.parametrize("tol", [None, 1e-6])
    def test_others_of_a_stack_go_on(self, rng, tol):
        other = np.float32(np.tril(rng.standard_normal((65, 160))) + 1e-3)
        tx = mo.scale_by_sinkhorn(mo.MatrixAxes(output=-2, input=-1), 100, tol)
        result = updated(tx, np.stack([arrow(65, 160), other]))
        np.testing.assert_array_equal(result[1], updated(tx, other))

    def test_parts_of_a_fused_weight_go_on(self, rng):
        other = np.float32(np.tril(rng.standard_normal((65, 160))) + 1e-3)
        fused = mo.Fused(1, [(160, ROWS_FIRST), (80, ROWS_FIRST), (80, ROWS_FIRST)])
        tx = mo.scale_by_sinkhorn([(".*", fused)], 100)
        weight = np.concatenate([arrow(65, 160), other], axis=1)
        alone = mo.scale_by_sinkhorn(ROWS_FIRST, 100)
        parts = arrow(65, 160), other[:, :80], other[:, 80:]
        expected = np.concatenate([updated(alone, each) for each in parts], axis=1)
        np.testing.assert_allclose(updated(tx, weight), expected, rtol=1e-4, atol=1e-5)
