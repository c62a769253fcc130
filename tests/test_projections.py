"""Each projection as a transformation of trees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo
from multinorm_optax._optimizers.swan import CenteredRows
from tests import reference
from tests.layouts import LAYOUTS
from tests.updates import updated

PROJECTIONS = {
    "row": mo.normalize_rows,
    "column": mo.normalize_columns,
    "spectral": mo.normalize_spectral,
    "max": lambda axes=None: mo.normalize(mo.MaxNorm(), axes),
    "frobenius": lambda axes=None: mo.normalize(mo.FrobeniusNorm(), axes),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_tree_of_layouts(rng, name):
    layouts = {key: LAYOUTS[key] for key in ("flax", "torch", "stack_last", "attention_out")}
    weights = {key: rng.standard_normal(layout.shape) for key, layout in layouts.items()}
    rules = [(key, layout.axes) for key, layout in layouts.items()]
    result = updated(PROJECTIONS[name](rules), jax.tree.map(np.float32, weights))
    for key, layout in layouts.items():
        project = reference.NORMS[name].project
        want = layout.weight([project(W) for W in layout.matrices(weights[key])])
        np.testing.assert_allclose(result[key], want, rtol=1e-4, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_equals_the_norm_itself(rng, name):
    norm = {"row": mo.RowNorm, "column": mo.ColumnNorm, "spectral": mo.SpectralNorm}
    norm |= {"max": mo.MaxNorm, "frobenius": mo.FrobeniusNorm}
    W = np.float32(rng.standard_normal((6, 4)))
    for tx in (PROJECTIONS[name](), mo.normalize(norm[name]())):
        np.testing.assert_allclose(updated(tx, W), norm[name]()(jnp.asarray(W)), atol=1e-5)


def test_rows_are_output_features(rng):
    kernel = np.float32(rng.standard_normal((6, 4)))
    result = updated(mo.normalize_rows(), {"kernel": kernel})["kernel"]
    np.testing.assert_allclose(np.mean(np.square(result), axis=0), 1, rtol=1e-5)
    assert np.ptp(np.mean(np.square(result), axis=1)) > 0.1


def test_center_rows(rng):
    kernel = np.float32(rng.standard_normal((6, 4)) + 3)
    result = updated(mo.normalize(CenteredRows()), kernel)
    np.testing.assert_allclose(result, reference.grad_norm(kernel.T.astype(float)).T, atol=2e-5)


def test_max_norm_serves_leaves_of_any_rank_and_role():
    tree = {"embedding": jnp.array([[-2.0, 0.0]]), "bias": jnp.array([3.0]), "t": jnp.array(-1.0)}
    tree["layers"] = jnp.full((2, 2, 2), -0.5)
    result = updated(mo.normalize(mo.MaxNorm()), tree)
    for key, leaf in tree.items():
        np.testing.assert_array_equal(result[key], np.sign(leaf))


def test_orthogonalizer_is_passed_on(rng):
    W = np.float32(rng.standard_normal((4, 6)))
    result = updated(mo.normalize_spectral(orthogonalizer=lambda x: x), W)
    np.testing.assert_allclose(result, np.sqrt(6) * W / reference.frobenius(W), rtol=1e-5)


def test_state_is_empty():
    for make in (
        *PROJECTIONS.values(),
        lambda axes=None: mo.normalize(CenteredRows(), axes),
        mo.scale_by_sinkhorn,
        mo.scale_by_swan,
    ):
        assert make().init({"kernel": jnp.ones((2, 3))}) == optax.EmptyState()


@pytest.mark.parametrize("tree", [{}, None, (), {"a": None, "b": optax.MaskedNode()}])
def test_trees_without_leaves(tree):
    for make in (
        *PROJECTIONS.values(),
        lambda axes=None: mo.normalize(CenteredRows(), axes),
        mo.scale_by_sinkhorn,
        mo.scale_by_swan,
    ):
        tx = make()
        result, _ = tx.update(tree, tx.init(tree))
        assert jax.tree.structure(result) == jax.tree.structure(tree)
