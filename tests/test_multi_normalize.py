"""The combinator: sweeps, dead rows and columns, tolerance, foreign members, bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import multinorm_optax as mo
from tests import reference
from tests.layouts import LAYOUTS, ROWS_FIRST
from tests.updates import updated

ROWS, COLUMNS = mo.normalize_rows(ROWS_FIRST), mo.normalize_columns(ROWS_FIRST)
SPECTRAL = mo.normalize_spectral(ROWS_FIRST)
FROBENIUS, MAX = (
    mo.normalize(mo.FrobeniusNorm(), ROWS_FIRST),
    mo.normalize(mo.MaxNorm(), ROWS_FIRST),
)
COMBINATIONS = {
    "row": (ROWS,),
    "row_column": (ROWS, COLUMNS),
    "column_row": (COLUMNS, ROWS),
    "row_spectral": (ROWS, SPECTRAL),
    "column_max": (COLUMNS, MAX),
    "row_column_frobenius": (ROWS, COLUMNS, FROBENIUS),
    "row_spectral_column": (ROWS, SPECTRAL, COLUMNS),
}
every_combination = pytest.mark.parametrize("name", COMBINATIONS)


def names(name):
    return [reference.NORMS[each].project for each in name.split("_")]


@every_combination
@pytest.mark.parametrize("num_iters", [1, 4])
def test_matches_reference(float64, rng, name, num_iters):
    G = rng.standard_normal((5, 8))
    tx = mo.multi_normalize(*COMBINATIONS[name], num_iters=num_iters)
    want = reference.multi_norm(G, names(name), num_iters)
    np.testing.assert_allclose(updated(tx, G), want, atol=1e-10)


@pytest.mark.parametrize(
    "second", [mo.ColumnNorm(), mo.SpectralNorm(mo.exact_svd())], ids=["column", "spectral"]
)
def test_layouts(rng, second):
    layouts = {
        key: LAYOUTS[key] for key in ("flax", "stack_middle", "scanned_query", "split_sides")
    }
    rules = [(key, layout.axes) for key, layout in layouts.items()]
    tx = mo.multi_normalize(mo.normalize_rows(rules), mo.normalize(second, rules), num_iters=3)
    weights = {key: rng.standard_normal(layout.shape) for key, layout in layouts.items()}
    result = updated(tx, jax.tree.map(np.float32, weights))
    other = "column" if isinstance(second, mo.ColumnNorm) else "spectral"
    project = [reference.project_rows, reference.NORMS[other].project]
    for key, layout in layouts.items():
        want = [reference.multi_norm(W, project, 3) for W in layout.matrices(weights[key])]
        np.testing.assert_allclose(result[key], layout.weight(want), atol=2e-4, err_msg=key)


def with_dead_part(rng, shape, rows, columns):
    G = rng.standard_normal(shape)
    G[rng.permutation(shape[0])[:rows]] = 0
    G[:, rng.permutation(shape[1])[:columns]] = 0
    return G


class TestDeadRowsAndColumns:
    @pytest.mark.parametrize("name", ["row_column", "row_spectral", "row_spectral_column"])
    def test_live_part_is_treated_as_if_alone(self, float64, rng, name):
        G = with_dead_part(rng, (9, 14), 2, 3)
        result = updated(mo.multi_normalize(*COMBINATIONS[name], num_iters=4), G)
        want = reference.on_live_part(lambda X: reference.multi_norm(X, names(name), 4), G)
        np.testing.assert_allclose(result, want, atol=1e-10)
        np.testing.assert_array_equal(np.asarray(result)[want == 0], 0)

    def test_counted_for_each_matrix_of_a_stack(self, float64, rng):
        G = np.stack([with_dead_part(rng, (6, 9), k, 2 * k) for k in range(3)])
        axes = mo.MatrixAxes(output=1, input=2)
        result = updated(mo.scale_by_sinkhorn(axes), G)
        want = [reference.on_live_part(lambda X: reference.sr_sinkhorn(X, 5), each) for each in G]
        np.testing.assert_allclose(result, want, atol=1e-10)

    def test_dead_matrix_of_a_stack_stays_zero_beside_live_ones(self, rng):
        G = np.float32(rng.standard_normal((3, 6, 9)))
        G[1] = 0
        for tol in (None, 1e-4):
            tx = mo.scale_by_sinkhorn(mo.MatrixAxes(1, 2), tol=tol)
            result = np.asarray(updated(tx, G))
            np.testing.assert_array_equal(result[1], 0)
            assert reference.rms(result[[0, 2]]) == pytest.approx(1, abs=1e-5)

    @given(seed=st.integers(0, 2**32 - 1))
    def test_sparse_patterns_never_give_nan_and_never_wake_the_dead(self, seed):
        rng = np.random.default_rng(seed)
        G = np.float32(rng.standard_normal((9, 14)) * (rng.random((9, 14)) < 0.15))
        result = np.asarray(SPARSE(G))
        assert np.all(np.isfinite(result))
        np.testing.assert_array_equal(result != 0, G != 0)
        alive = np.any(G != 0, axis=0)
        if alive.any():
            live_rows = np.count_nonzero(np.any(G != 0, axis=1))
            energy = np.sum(result.astype(float)[:, alive] ** 2, axis=0) / live_rows
            np.testing.assert_allclose(energy, 1, rtol=1e-5)


SPARSE = jax.jit(lambda G: mo.scale_by_sinkhorn(ROWS_FIRST).update(G, ())[0])


class TestTolerance:
    @pytest.mark.parametrize("name", ["row_column", "row_spectral", "row_spectral_column"])
    def test_equals_the_run_with_that_many_sweeps(self, float64, rng, name):
        G = rng.standard_normal((20, 9))
        members, tol = COMBINATIONS[name], 1e-2
        trace = jax.jit(lambda G: mo.trace_multi_normalize(G, *members, num_iters=12))(G)
        residuals = np.max(trace.residuals[:, :-1], axis=1)
        sweeps = 1 + int(np.argmax(residuals <= tol))
        assert 1 < sweeps < 12
        result = updated(mo.multi_normalize(*members, num_iters=12, tol=tol), G)
        np.testing.assert_allclose(result, trace.iterates[sweeps * len(members)], atol=1e-9)

    def test_num_iters_is_a_cap(self, rng):
        G = np.float32(np.triu(rng.standard_normal((9, 9))))
        result = updated(mo.multi_normalize(ROWS, COLUMNS, num_iters=7, tol=1e-9), G)
        want = updated(mo.multi_normalize(ROWS, COLUMNS, num_iters=7), G)
        np.testing.assert_allclose(result, want, atol=1e-6)

    def test_every_matrix_of_a_stack_stops_by_itself(self, rng):
        easy, hard = rng.standard_normal((2, 9, 12))
        hard = np.triu(hard)
        G = np.float32(np.stack([easy, hard, np.zeros_like(easy)]))
        result = updated(mo.scale_by_sinkhorn(mo.MatrixAxes(1, 2), num_iters=50, tol=1e-2), G)
        alone = jax.jit(
            lambda G: mo.scale_by_sinkhorn(ROWS_FIRST, num_iters=50, tol=1e-2).update(G, ())[0]
        )
        for stacked, each in zip(result, G, strict=True):
            np.testing.assert_allclose(stacked, alone(each), atol=1e-6)
        more = updated(mo.scale_by_sinkhorn(mo.MatrixAxes(1, 2), num_iters=50), G)
        assert np.max(np.abs(result[0] - more[0])) > 1e-4

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_non_finite_matrices_terminate_and_spare_the_others(self, rng, bad):
        G = np.float32(rng.standard_normal((2, 9, 12)))
        want = updated(mo.scale_by_sinkhorn(mo.MatrixAxes(1, 2), 10**6, 1e-5), G)
        G[0, 1, 1] = bad
        result = updated(mo.scale_by_sinkhorn(mo.MatrixAxes(1, 2), 10**6, 1e-5), G)
        assert not np.all(np.isfinite(result[0]))
        np.testing.assert_allclose(result[1], want[1], atol=1e-6)

    def test_residual_is_within_it(self, gaussian):
        result = updated(mo.scale_by_sinkhorn(ROWS_FIRST, 50, 1e-3), np.float32(gaussian))
        assert 1e-5 < reference.row_residual(np.asarray(result, float)) <= 1e-3


class TestForeignMembers:
    def test_chain_of_stateless_members(self, rng):
        G = {"kernel": np.float32(rng.standard_normal((6, 9)))}
        members = (optax.chain(mo.normalize_rows(), mo.normalize_columns()),)
        result = updated(mo.multi_normalize(*members, num_iters=3), G)["kernel"]
        want = reference.sr_sinkhorn(G["kernel"].T.astype(float), 3).T
        np.testing.assert_allclose(result, want, atol=1e-5)

    def test_whole_tree_norm_in_the_loop(self, float64, rng):
        G = {"a": rng.standard_normal((5, 8)), "b": rng.standard_normal((3, 3))}
        unit = optax.normalize_by_update_norm()
        result = updated(mo.multi_normalize(ROWS, unit, num_iters=2), G)
        want = jax.tree.map(reference.project_rows, G)
        total = np.sqrt(sum(np.sum(each**2) for each in want.values()))
        for key in G:
            np.testing.assert_allclose(result[key], want[key] / total, rtol=1e-6)

    @pytest.mark.parametrize("tol", [None, 1e-4])
    def test_bfloat16_and_tolerance(self, rng, tol):
        G = jnp.asarray(rng.standard_normal((6, 9)), jnp.bfloat16)
        tx = mo.multi_normalize(ROWS, COLUMNS, optax.identity(), num_iters=50, tol=tol)
        result = updated(tx, G)
        assert result.dtype == jnp.bfloat16
        want = reference.sr_sinkhorn(np.asarray(G, float), 50)
        np.testing.assert_allclose(np.asarray(result, float), want, rtol=5e-3, atol=1e-3)

    def test_params_reach_members(self):
        tx = mo.multi_normalize(optax.add_decayed_weights(0.5), num_iters=2)
        params = {"w": jnp.full((2, 2), 2.0)}
        result, _ = tx.update({"w": jnp.zeros((2, 2))}, tx.init(params), params)
        np.testing.assert_allclose(result["w"], 2.0)

    @pytest.mark.parametrize(
        "member", [optax.trace(0.9), optax.scale_by_adam(), optax.scale_by_schedule(lambda t: t)]
    )
    def test_state_is_refused_by_position(self, member):
        tx = mo.multi_normalize(ROWS, member)
        params = {"w": jnp.ones((2, 3))}
        with pytest.raises(ValueError, match=r"stateless.* projection 1 "):
            tx.init(params)
        with pytest.raises(ValueError, match=r"stateless.* projection 1 "):
            tx.update(params, optax.EmptyState())


class TestBadArguments:
    def test_no_projection(self):
        with pytest.raises(ValueError, match="at least one projection"):
            mo.multi_normalize()

    @pytest.mark.parametrize("num_iters", [0, -1, np.int64(0)], ids=repr)
    def test_too_few_sweeps(self, num_iters):
        with pytest.raises(ValueError, match="num_iters must be at least 1"):
            mo.multi_normalize(ROWS, num_iters=num_iters)

    @pytest.mark.parametrize("num_iters", [5.0, "5", None], ids=repr)
    def test_sweeps_that_are_no_integer(self, num_iters):
        with pytest.raises(TypeError, match="num_iters must be an integer"):
            mo.multi_normalize(ROWS, num_iters=num_iters)

    @pytest.mark.parametrize("num_iters", [jnp.float32(5), jnp.ones(1, int)], ids=str)
    def test_sweeps_of_an_array(self, num_iters):
        with pytest.raises(TypeError, match="num_iters must be an integer, got"):
            mo.multi_normalize(ROWS, num_iters=num_iters)

    def test_a_norm_instead_of_its_transformation(self):
        with pytest.raises(TypeError, match=r"write normalize\(RowNorm\(\)\)"):
            mo.multi_normalize(mo.RowNorm())
        with pytest.raises(TypeError, match="not a transformation"):
            mo.multi_normalize(lambda x: x)

    @pytest.mark.parametrize("tol", [-1e-3, float("nan"), np.float32(-1)], ids=repr)
    def test_negative_tolerance(self, tol):
        with pytest.raises(ValueError, match="tol must be at least 0"):
            mo.multi_normalize(ROWS, tol=tol)


@pytest.mark.parametrize("tol", [None, 1e-3])
def test_traced_numbers_of_sweeps(rng, tol):
    G = np.float32(rng.standard_normal((6, 9)))
    run = jax.jit(
        lambda G, n: mo.scale_by_sinkhorn(ROWS_FIRST, num_iters=n, tol=tol).update(G, ())[0]
    )
    for sweeps in (1, 3):
        want = updated(mo.scale_by_sinkhorn(ROWS_FIRST, sweeps, tol), G)
        np.testing.assert_allclose(run(G, sweeps), want, atol=1e-6)
        np.testing.assert_allclose(run(G, jnp.uint8(sweeps)), want, atol=1e-6)


class Scaled(mo.RowNorm):
    """A plain subclass: its equality ignores the factor."""

    def __init__(self, factor):
        object.__setattr__(self, "factor", factor)

    def project(self, x, axes, size):
        return x * self.factor


class AllColumns(mo.RowNorm):
    """Zero columns count in the size of a row."""

    def size(self, x, axes):
        return axes.matrix_shape(x.shape)


class TestNormsOfUsers:
    @pytest.mark.parametrize("tol", [None, 0.0])
    def test_may_be_subclasses_that_count_otherwise(self, rng, tol):
        G = np.float32(rng.standard_normal((4, 6)))
        G[0] = G[:, 1] = 0
        rows = mo.normalize(AllColumns(), ROWS_FIRST)
        tx = mo.multi_normalize(COLUMNS, rows, num_iters=1, tol=tol)
        want = updated(rows, updated(COLUMNS, G))
        np.testing.assert_allclose(updated(tx, G), want, rtol=1e-6)

    @pytest.mark.parametrize("factor", [2.0, 3.0])
    def test_are_told_apart(self, factor):
        tx = mo.multi_normalize(mo.normalize(Scaled(factor), ROWS_FIRST), num_iters=1)
        np.testing.assert_array_equal(tx.update(jnp.ones((2, 3)), ())[0], factor)

    def test_may_have_traced_fields(self):
        def run(factor):
            tx = mo.multi_normalize(mo.normalize(Scaled(factor), ROWS_FIRST), num_iters=1)
            return tx.update(jnp.ones((2, 3)), ())[0]

        for factor in (2.0, 3.0):
            np.testing.assert_array_equal(jax.jit(run)(factor), factor)


def test_a_rebuilt_transformation_gives_the_same_numbers(rng):
    G = np.float32(rng.standard_normal((6, 9)))
    rebuilt = jax.tree.map(lambda x: x, ROWS)
    want = updated(mo.multi_normalize(ROWS, COLUMNS), G)
    np.testing.assert_allclose(updated(mo.multi_normalize(rebuilt, COLUMNS), G), want, atol=1e-5)


def test_extra_arguments_reach_members():
    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: g * value, updates), state

    member = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    tx = mo.multi_normalize(member, num_iters=2)
    result, _ = tx.update(jnp.ones(3), tx.init(jnp.ones(3)), value=3.0)
    np.testing.assert_array_equal(result, 9)


def test_steep_matrices_after_the_frobenius_norm():
    G = jnp.array([[1e-20, 1.0], [1.0, 1e20]])
    members = FROBENIUS, ROWS, COLUMNS
    wrapped = optax.chain(FROBENIUS), ROWS, COLUMNS
    results = [updated(mo.multi_normalize(*each), G) for each in (members, wrapped)]
    assert np.all(np.isfinite(results[0]))
    np.testing.assert_allclose(*results, atol=1e-5)


def test_second_derivatives_beside_a_dead_row():
    G = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.0, 0.0]])
    tx = mo.scale_by_sinkhorn(ROWS_FIRST, num_iters=2)
    hessian = jax.hessian(lambda g: jnp.sum(jnp.sin(tx.update(g, ())[0])))(G)
    assert np.all(np.isfinite(hessian))
