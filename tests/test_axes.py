"""Which axes are rows and columns."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo
from tests.layouts import LAYOUTS


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(layout):
    matrices = layout.matrices(np.zeros(layout.shape))
    assert layout.axes.matrix_shape(layout.shape) == matrices.shape[1:]
    assert layout.axes.batch(len(layout.shape)) == layout.batch
    m, n = layout.axes.oriented(layout.shape).matrix_shape(layout.shape)
    assert (m, n) == tuple(sorted(matrices.shape[1:]))


def test_integers_of_numpy_are_integers():
    axes = mo.MatrixAxes(output=np.int64(1), input=[np.int32(0)])
    assert repr(axes) == "MatrixAxes(output=(1,), input=(0,))"


def test_integers_and_sequences_say_the_same():
    assert mo.MatrixAxes(output=1, input=0) == mo.MatrixAxes(output=[1], input=range(1))
    assert hash(mo.MatrixAxes(1, 0)) == hash(mo.MatrixAxes((1,), (0,)))


def test_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        mo.MatrixAxes(1, 0).output = (0,)


def test_negative_axes_count_from_the_end():
    axes = mo.MatrixAxes(output=-1, input=(-3, -2))
    assert axes.resolve((7, 2, 3, 4)) == mo.MatrixAxes(output=3, input=(1, 2))
    assert axes.matrix_shape((7, 2, 3, 4)) == (4, 6)
    assert axes.batch(4) == (0,)


def test_empty_side_has_size_one():
    assert mo.MatrixAxes(output=(0,), input=()).matrix_shape((5,)) == (5, 1)
    assert mo.MatrixAxes(output=(), input=()).matrix_shape((5,)) == (1, 1)


def test_square_matrix_is_not_turned():
    axes = mo.MatrixAxes(output=1, input=0)
    assert axes.oriented((5, 5)) == axes


@pytest.mark.parametrize("bad", [1.0, "1", (0, 1.5), None, True, (0, True), np.array(0)])
def test_axes_are_integers(bad):
    with pytest.raises(TypeError, match=r"MatrixAxes\.output must be integers, got"):
        mo.MatrixAxes(output=bad, input=0)


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        (mo.MatrixAxes(2, 0), (4, 5)),
        (mo.MatrixAxes(-3, 0), (4, 5)),
        (mo.MatrixAxes(1, 0), (4,)),
        (mo.MatrixAxes(0, 0), (4, 5)),
        (mo.MatrixAxes(-1, 1), (4, 5)),
        (mo.MatrixAxes((0, 0), 1), (4, 5)),
    ],
    ids=str,
)
def test_misfits_name_path_and_shape(axes, shape):
    with pytest.raises(ValueError, match="layer/w") as error:
        mo.resolve_axes([(".*", axes)], {"layer": {"w": jnp.zeros(shape)}})
    assert str(shape) in str(error.value)


def test_two_leaves_of_one_path_are_refused():
    params = {"a/w": jnp.zeros((2, 3, 4)), "a": {"w": jnp.zeros((2, 3))}}
    with pytest.raises(ValueError, match="2 leaves have the path a/w"):
        mo.resolve_axes([(".*", None)], params)


class TestMuonDimensionNumbers:
    def test_single(self):
        spec = optax.contrib.MuonDimensionNumbers(reduction_axis=(1, 2), output_axis=(-1,))
        [(_, axes)] = mo.resolve_axes(spec, {"w": jnp.zeros((6, 2, 3, 4))})
        assert axes == mo.MatrixAxes(output=3, input=(1, 2))
        assert axes.batch(4) == (0,)

    def test_default_is_a_flax_kernel(self):
        [(_, axes)] = mo.resolve_axes(
            optax.contrib.MuonDimensionNumbers(), {"w": jnp.zeros((3, 4))}
        )
        assert axes == mo.MatrixAxes(output=1, input=0)

    def test_norms_take_it(self, rng):
        w = jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)
        spec = optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1)
        np.testing.assert_array_equal(mo.RowNorm()(w, spec), mo.RowNorm()(w))
