"""Fused weights against their parts as weights of their own, split by hand."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import multinorm_optax as mo
from tests.updates import updated

KERNEL = mo.MatrixAxes(output=-1, input=-2)
MUON = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
QKV = mo.Fused(-1, [(8, KERNEL), (4, MUON), (4, KERNEL)])


@dataclasses.dataclass(eq=False)
class Unhashable(mo.Projection):
    """A projection as a user may write it."""

    __hash__ = None

    def project(self, x, axes, size):
        return x / jnp.sqrt(jnp.mean(x**2, axis=axes.matrix, keepdims=True))


ROUNDING = {"rtol": 2e-5, "atol": 2e-5}
TRANSFORMATIONS = {
    "rows": mo.normalize_rows,
    "spectral": mo.normalize_spectral,
    "frobenius": lambda axes: mo.normalize(mo.FrobeniusNorm(), axes),
    "sinkhorn": mo.scale_by_sinkhorn,
    "sinkhorn_tol": lambda axes: mo.scale_by_sinkhorn(axes, 9, 1e-3),
    "swan": mo.scale_by_swan,
    "swan_centered": lambda axes: mo.scale_by_swan(axes, centered=True),
    "rows_and_signs": lambda axes: mo.multi_normalize(
        mo.normalize_rows(axes), mo.normalize(mo.MaxNorm())
    ),
    "rows_and_foreign": lambda axes: mo.multi_normalize(mo.normalize_rows(axes), optax.scale(0.5)),
    "rows_and_unhashable": lambda axes: mo.multi_normalize(
        mo.normalize_rows(axes), mo.normalize(Unhashable(), axes)
    ),
    "tokens": mo.scale_by_token_sinkhorn,
    "operator_norm": mo.scale_by_operator_norm,
    "ldadam": lambda axes: mo.scale_by_ldadam(axes, rank=2),
}
OPTIMIZERS = {
    "sinkgd": lambda axes: mo.sinkgd(
        axes=axes, momentum=0.9, nesterov=True, weight_decay=0.1, cautious_weight_decay=True
    ),
    "sinkgd_muon": lambda axes: mo.sinkgd(axes=axes, step_scale="muon"),
    "swan_operator": lambda axes: mo.swan(axes=axes, step_scale="operator"),
    "mngd": lambda axes: mo.mngd(0.1, [mo.RowNorm(), mo.SpectralNorm()], axes=axes, num_iters=1),
    "ldadam": lambda axes: mo.ldadam(axes=axes, rank=2),
}


def separated(leaf, axis, sizes):
    *ends, _ = itertools.accumulate(sizes)
    names = map(str, range(len(sizes)))
    return dict(zip(names, np.split(np.asarray(leaf), ends, axis), strict=True))


def run(tx, gradients, params):
    """The update after each of the gradients."""
    state, step, found = tx.init(params), jax.jit(tx.update), []
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        found.append(updates)
    return found


def check(make, leaves, axis, parts, **tolerance):
    """The updates of a fused kernel are those of its parts; a bias beside it does not matter."""
    sizes = [size for size, _ in parts]
    bias = {} if make in TRANSFORMATIONS.values() else {"bias": jnp.ones(3)}
    fused = [{"qkv": jnp.asarray(leaf), **bias} for leaf in leaves]
    apart = [{"qkv": separated(leaf, axis, sizes), **bias} for leaf in leaves]
    rules = [(f"qkv/{index}", spec) for index, (_, spec) in enumerate(parts)]
    found = run(make([("qkv", mo.Fused(axis, parts)), ("bias", None)]), fused, fused[0])
    wanted = run(make([*rules, ("bias", None)]), apart, apart[0])
    for one, other in zip(found, wanted, strict=True):
        assert one["qkv"].dtype == fused[0]["qkv"].dtype
        for name, part in separated(one["qkv"], axis, sizes).items():
            want = np.asarray(other["qkv"][name])
            if tolerance:
                np.testing.assert_allclose(np.float64(part), np.float64(want), **tolerance)
            else:
                np.testing.assert_array_equal(part, want)


@pytest.mark.parametrize("name", [*TRANSFORMATIONS, *OPTIMIZERS])
def test_every_optimizer_treats_parts_as_weights(rng, name):
    leaves = np.float32(rng.standard_normal((3, 2, 6, 16)))
    check((TRANSFORMATIONS | OPTIMIZERS)[name], leaves, -1, QKV.parts, **ROUNDING)


@pytest.mark.parametrize("name", ["rows", "swan"])
def test_without_compilation_nothing_differs(rng, name):
    """The arithmetic is that of the parts, operation by operation."""
    with jax.disable_jit():
        check(TRANSFORMATIONS[name], np.float32(rng.standard_normal((1, 6, 16))), -1, QKV.parts)


@st.composite
def fused_weights(draw):
    """(shape, axis, sizes, axes of a part): stacks anywhere, parts along any axis."""
    ndim = draw(st.integers(2, 4))
    order = draw(st.permutations(range(ndim)))
    rows = draw(st.integers(1, ndim - 1))
    columns = draw(st.integers(1, ndim - rows))
    axes = mo.MatrixAxes(output=order[:rows], input=order[rows : rows + columns])
    axis = draw(st.integers(0, ndim - 1))
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    shape = draw(st.lists(st.integers(1, 5), min_size=ndim, max_size=ndim))
    shape[axis] = sum(sizes)
    return tuple(shape), axis - ndim * draw(st.booleans()), sizes, axes


@settings(max_examples=12, deadline=None)
@given(fused_weights(), st.sampled_from(["sinkhorn", "rows", "frobenius"]), st.integers(0, 2**31))
def test_any_layout(weight, name, seed):
    shape, axis, sizes, axes = weight
    leaf = np.float32(np.random.default_rng(seed).standard_normal(shape))
    leaf.flat[:: max(1, leaf.size // 3)] = 0
    check(TRANSFORMATIONS[name], [leaf], axis, [(size, axes) for size in sizes], **ROUNDING)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", ["sinkhorn", "swan", "sinkgd"])
def test_half_precisions(rng, name, dtype):
    leaves = jnp.asarray(rng.standard_normal((2, 6, 16)), dtype)
    unit = float(jnp.finfo(dtype).eps)
    check((TRANSFORMATIONS | OPTIMIZERS)[name], leaves, -1, QKV.parts, rtol=unit, atol=unit / 100)


def test_parts_with_axes_of_their_own(rng):
    """A down-projection stored transposed beside an up-projection, in a stack in the middle."""
    up, down = mo.MatrixAxes(output=2, input=0), mo.MatrixAxes(output=0, input=2)
    leaf = np.float32(rng.standard_normal((1, 5, 2, 9)))
    check(mo.scale_by_swan, leaf, 2, [(6, up), (3, down)], **ROUNDING)


def test_nan_stays_in_its_part(rng):
    leaf = jnp.asarray(rng.standard_normal((6, 16)), jnp.float32).at[0, 9].set(jnp.nan)
    updates, _ = mo.scale_by_sinkhorn(QKV).update(leaf, optax.EmptyState())
    finite = [bool(np.all(np.isfinite(x))) for x in separated(updates, -1, (8, 4, 4)).values()]
    assert finite == [True, False, True]


def test_vmap(rng):
    leaves = jnp.asarray(rng.standard_normal((3, 6, 16)), jnp.float32)
    tx = mo.scale_by_sinkhorn(QKV)
    found = jax.vmap(lambda g: tx.update(g, tx.init(g))[0])(leaves)
    want, _ = tx.update(leaves, tx.init(leaves))
    np.testing.assert_allclose(found, want, **ROUNDING)


def temporary(tx, shape, dtype=jnp.float32):
    """Bytes of temporary memory, in weights."""
    gradient = {"qkv": jax.ShapeDtypeStruct(shape, dtype)}
    compiled = jax.jit(lambda g: tx.update(g, tx.init(g), g)[0]).lower(gradient).compile()
    weight = jnp.dtype(dtype).itemsize * math.prod(shape)
    return compiled.memory_analysis().temp_size_in_bytes / weight


LAYOUTS = [((512, 1536), -1), ((1536, 512), -2), ((4, 256, 768), -1)]


def grouped(shape, axis):
    size = shape[axis]
    return mo.Fused(axis, [(n, KERNEL) for n in (size * 2 // 3, size // 6, size // 6)])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("make", [mo.scale_by_sinkhorn, mo.sinkgd])
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS, ids=str)
def test_no_part_is_copied_where_scales_are_iterated(make, shape, axis, dtype):
    fused = temporary(make(axes=[("qkv", grouped(shape, axis))]), shape, dtype)
    assert fused - temporary(make(axes=[("qkv", KERNEL)]), shape, dtype) < 0.04


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="XLA of older versions copies all parts")
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS, ids=str)
def test_one_norm_copies_all_parts_but_the_first_at_most(shape, axis):
    """A concatenation as such would take the whole weight more."""
    fused = temporary(mo.normalize_rows(axes=[("qkv", grouped(shape, axis))]), shape)
    assert fused - temporary(mo.normalize_rows(axes=[("qkv", KERNEL)]), shape) < 0.36


@pytest.mark.parametrize(
    "parts",
    [
        [(64, KERNEL), (65, KERNEL)],  # 129 blocks of one column
        [(96, KERNEL), (33, mo.MatrixAxes(output=-2, input=-1))],
    ],
    ids=["no_common_divisor", "other_axes"],
)
def test_parts_that_share_no_blocks(rng, parts):
    leaf = np.float32(rng.standard_normal((1, 2, 6, 129)))
    check(mo.scale_by_sinkhorn, leaf, -1, parts, **ROUNDING)


@pytest.mark.parametrize("parts", [(2, 4), (3, 3), (1, 5)], ids=str)
def test_parts_along_a_stack_with_zeros(rng, parts):
    """Matrices of a part are apart: zeros of one do not count in another."""
    leaf = np.float32(rng.standard_normal((1, 6, 8, 10)))
    leaf[0, 4] = 0
    leaf[0, 1, 2] = leaf[0, 1, :, 3] = 0
    check(mo.scale_by_sinkhorn, leaf, 0, [(size, KERNEL) for size in parts], **ROUNDING)


@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.complex64], ids=lambda d: d.__name__
)
def test_dtypes_with_float64_enabled(float64, rng, dtype):
    gradient = {"qkv": jnp.asarray(rng.standard_normal((6, 16)), dtype)}
    for make in (mo.scale_by_sinkhorn, mo.normalize_columns):
        tx = make([("qkv", QKV)])
        updates, _ = jax.eval_shape(tx.update, gradient, tx.init(gradient))
        assert updates["qkv"].dtype == dtype


def test_dead_rows_and_columns_of_one_part(rng):
    """They do not count in that part, whatever the same row has in others."""
    leaf = np.float32(rng.standard_normal((1, 6, 16)))
    leaf[0, 2, 8:12] = 0
    leaf[0, :, 5] = 0
    leaf[0, :, 12:] = 0
    check(mo.scale_by_sinkhorn, leaf, -1, QKV.parts, **ROUNDING)


def test_diagnostics(rng):
    gradient = {"qkv": jnp.asarray(rng.standard_normal((2, 6, 16)), jnp.float32)}
    projections = [
        normalize([("qkv", QKV)]) for normalize in (mo.normalize_rows, mo.normalize_columns)
    ]
    trace = jax.jit(lambda g: mo.trace_multi_normalize(g, *projections, num_iters=3))(gradient)
    update = updated(mo.multi_normalize(*projections, num_iters=3), gradient)
    assert trace.iterates["qkv"].shape == (7, 2, 6, 16)
    np.testing.assert_array_equal(trace.iterates["qkv"][0], gradient["qkv"])
    np.testing.assert_allclose(trace.iterates["qkv"][-1], update["qkv"], **ROUNDING)
    measured = jax.jit(mo.measure_residuals(*projections))(update)
    assert list(measured) == ["qkv/0", "qkv/1", "qkv/2"]
    for index, part in separated(update["qkv"], -1, (8, 4, 4)).items():
        assert trace.residuals["qkv"][int(index)].shape == (3, 2, 2)
        assert trace.dual_values["qkv"][int(index)].shape == (6, 2)
        rms = np.sqrt(np.mean(np.square(part, dtype=float), axis=1))
        np.testing.assert_allclose(
            measured[f"qkv/{index}"][0], np.max(np.abs(rms - 1), 1), atol=1e-5
        )


def test_groups_and_audit():
    params = {"qkv": jnp.zeros((2, 6, 16)), "bias": jnp.zeros(3)}
    axes = [("qkv", QKV), *mo.FLAX_RULES]
    assert mo.group_labels(axes)(params) == {"qkv": "matrix", "bias": "adam"}
    audit = mo.audit(params, mo.sinkgd(axes=axes), axes)
    row = {row.path: row for row in audit.rows}["qkv"]
    assert row.matrices == ((2, (8, 6)), (2, (4, 6)), (2, (4, 6)))
    assert "2 x (8, 6) + 2 x (4, 6) + 2 x (4, 6)" in str(audit)
    audit = mo.audit(params, mo.ldadam(axes=axes, rank=2, error_feedback=False), axes)
    assert {row.path: row for row in audit.rows}["qkv"].state_bytes == 4 * 2 * 2 * sum(
        min(m, 6) + 2 * max(m, 6) for m in (8, 4, 4)
    )
    resolved = dict(mo.resolve_axes(axes, params))["qkv"]
    own = mo.MatrixAxes(output=2, input=1)
    assert resolved == mo.Fused(2, [(8, own), (4, own), (4, own)])


def test_one_description_serves_axes_and_blocks():
    params = {"qkv": jnp.zeros((6, 16))}
    state = mo.scale_by_adam_mini(blocks=QKV).init(params)
    assert [x.shape for x in state.nu["qkv"]] == [(1, 8), (1, 4), (1, 4)]
    mo.scale_by_sinkhorn(QKV).init(params)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (mo.Fused(2, [(16, KERNEL)]), "names an axis that the weight does not have"),
        (mo.Fused(-1, [(8, KERNEL), (4, KERNEL)]), r"\[8, 4\] along axis -1; .* whose sum is 16"),
        (mo.Fused(-1, [(17, KERNEL), (-1, KERNEL)]), "positive numbers"),
        (mo.Fused(-1, []), "positive numbers"),
        (mo.Fused(-1, [(16, mo.MatrixAxes(5, 0))]), "names an axis that the weight does not have"),
    ],
    ids=str,
)
def test_misfits_name_the_path(axes, message):
    with pytest.raises(ValueError, match=r"^qkv \(6, 16\): .*" + message):
        mo.scale_by_sinkhorn([("qkv", axes)]).init({"qkv": jnp.zeros((6, 16))})


def test_blocks_are_not_axes():
    with pytest.raises(TypeError, match="expected MatrixAxes"):
        mo.scale_by_sinkhorn(mo.Fused(-1, [(16, mo.Blocks())])).init(jnp.zeros((6, 16)))


def test_projections_have_to_agree_on_the_parts():
    gradient = {"qkv": jnp.ones((6, 16))}
    for other in (KERNEL, mo.Fused(-1, [(8, KERNEL), (8, KERNEL)])):
        tx = mo.multi_normalize(mo.normalize_rows(QKV), mo.normalize_columns(other))
        with pytest.raises(ValueError, match=r"^qkv: the projections disagree on the parts"):
            tx.update(gradient, tx.init(gradient))


def test_rank_of_a_fused_weight_is_that_of_each_part():
    with pytest.raises(ValueError, match=r"qkv \(6, 4\): rank 5 of matrices 4 x 6"):
        mo.scale_by_ldadam([("qkv", QKV)], rank=5).init({"qkv": jnp.zeros((6, 16))})
