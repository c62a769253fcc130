"""Traces are pinned to what trains; residuals are measured inside optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo
from tests import reference
from tests.layouts import ROWS_FIRST
from tests.updates import updated

ROWS, COLUMNS = mo.normalize_rows(ROWS_FIRST), mo.normalize_columns(ROWS_FIRST)
SPECTRAL = mo.normalize_spectral(ROWS_FIRST)
MEMBERS = {
    "row_column": (ROWS, COLUMNS),
    "row_spectral": (ROWS, SPECTRAL),
    "one": (ROWS,),
    "foreign": (ROWS, optax.scale(0.5), COLUMNS),
}


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_last_iterate_is_the_update(rng, name, dtype):
    G = {"a": jnp.asarray(rng.standard_normal((5, 8)), dtype)}
    trace = jax.jit(lambda G: mo.trace_multi_normalize(G, *MEMBERS[name], num_iters=3))(G)
    update = updated(mo.multi_normalize(*MEMBERS[name], num_iters=3), G)["a"]
    assert trace.iterates["a"].dtype == jnp.float32
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(trace.iterates["a"][-1], np.float32(update), atol=tolerance)
    np.testing.assert_array_equal(trace.iterates["a"][0], np.float32(G["a"]))


def test_residuals_and_dual_values_are_what_they_say(float64, rng):
    G = rng.standard_normal((2, 5, 8))
    rules = mo.MatrixAxes(output=1, input=2)
    members = mo.normalize_rows(rules), mo.normalize_columns(rules)
    trace = jax.jit(lambda G: mo.trace_multi_normalize(G, *members, num_iters=3))(G)
    assert trace.residuals.shape == (3, 2, 2)
    assert trace.dual_values.shape == (6, 2)
    for i, W in enumerate(G):
        X = W
        for sweep in range(3):
            want = reference.NORMS["row"].dual_norm(X)
            assert trace.dual_values[2 * sweep, i] == pytest.approx(want)
            X = reference.project_rows(X)
            want = reference.NORMS["column"].dual_norm(X)
            assert trace.dual_values[2 * sweep + 1, i] == pytest.approx(want)
            X = reference.project_columns(X)
            np.testing.assert_allclose(trace.iterates[2 * sweep + 2, i], X, atol=1e-12)
            rows = reference.row_residual(X)
            np.testing.assert_allclose(trace.residuals[sweep, :, i], [rows, 0], atol=1e-12)


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least one projection"):
        mo.trace_multi_normalize({"w": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match="num_iters"):
        mo.trace_multi_normalize({"w": jnp.ones((2, 3))}, ROWS, num_iters=0)
    with pytest.raises(ValueError, match=r"b \(3,\)"):
        mo.trace_multi_normalize({"b": jnp.ones(3)}, mo.normalize_rows())


class TestMeasureResiduals:
    def test_does_not_depend_on_scale(self, float64, rng):
        W = rng.standard_normal((5, 8))
        measure = jax.jit(mo.measure_residuals(ROWS, COLUMNS))
        unit = W / reference.rms(W)
        columns = reference.column_norms(unit) / np.sqrt(5)
        want = [reference.row_residual(unit), np.max(np.abs(columns - 1))]
        for scale in (1.0, -1e-3, 1e-200):
            np.testing.assert_allclose(measure({"w": scale * W})["w"], want, rtol=1e-9)

    def test_does_not_depend_on_the_other_projections(self, rng):
        # MaxNorm takes a whole stack for one matrix, whatever the axes of the others
        W = jnp.asarray(rng.standard_normal((2, 6, 4)), jnp.float32) * jnp.array([[[1]], [[100]]])
        rows, entries = mo.normalize_rows(mo.MatrixAxes(-1, -2)), mo.normalize(mo.MaxNorm())
        alone = [jnp.max(mo.measure_residuals(each)({"w": W})["w"]) for each in (rows, entries)]
        both = mo.measure_residuals(rows, entries)({"w": W})["w"]
        swapped = mo.measure_residuals(entries, rows)({"w": W})["w"]
        np.testing.assert_allclose(both, alone, rtol=1e-6)
        np.testing.assert_allclose(swapped, both[::-1], rtol=1e-6)

    def test_only_live_groups_count(self, rng):
        W = np.float32(rng.standard_normal((5, 8)))
        W[2] = W[:, 3] = 0
        result = updated(mo.scale_by_sinkhorn(ROWS_FIRST, 30), W)
        assert np.all(jax.jit(mo.measure_residuals(ROWS, COLUMNS))({"w": result})["w"] < 1e-5)

    def test_other_leaves_are_passed_over(self, rng):
        tree = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4), "rest": optax.MaskedNode()}
        assert list(mo.measure_residuals(mo.normalize_rows())(tree)) == ["kernel"]

    @pytest.mark.parametrize("arguments", [(), (optax.scale(1.0),), (ROWS, optax.identity())])
    def test_only_projections(self, arguments):
        with pytest.raises(TypeError, match="projections made by"):
            mo.measure_residuals(*arguments)

    def test_snapshot_behind_an_optimizer_in_a_scan(self, rng):
        params = {
            "kernel": jnp.asarray(rng.standard_normal((8, 5)), jnp.float32),
            "bias": jnp.ones(5),
        }
        measure = mo.measure_residuals(mo.normalize_rows(), mo.normalize_columns())
        tx = optax.chain(mo.sinkgd(0.1, num_iters=1), optax.snapshot("residuals", measure))

        def step(carry, gradient):
            params, state = carry
            updates, state = tx.update({"kernel": gradient, "bias": params["bias"]}, state, params)
            seen = optax.tree.get(state, "residuals")["kernel"]
            return (optax.apply_updates(params, updates), state), seen

        gradients = np.float32(rng.standard_normal((4, 8, 5)))
        _, seen = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), gradients))()
        want = [reference.row_residual(reference.sr_sinkhorn(G.T, 1)) for G in gradients]
        np.testing.assert_allclose(seen[:, 0], want, rtol=1e-3)
        np.testing.assert_allclose(seen[:, 1], 0, atol=1e-5)

    def test_snapshot_inside_partition(self, rng):
        params = {"kernel": jnp.asarray(rng.standard_normal((8, 5)), jnp.float32)}
        params["bias"] = jnp.ones(5)
        measured = optax.snapshot("rows", mo.measure_residuals(mo.normalize_rows()))
        groups = {"matrix": optax.chain(mo.scale_by_sinkhorn(), measured), "adam": optax.adam(1.0)}
        tx = optax.partition(groups, mo.group_labels())
        _, state = jax.jit(tx.update)(params, tx.init(params), params)
        [residual] = optax.tree.get(state, "rows")["kernel"]
        assert 0 < residual < 1e-2
