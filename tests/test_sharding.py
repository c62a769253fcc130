"""Sharded weights: the result of one device, and what the devices send one another for it."""

import collections
import contextlib
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import multinorm_optax as mo
from examples.measure.exchanges import Collective
from examples.measure.exchanges import collectives as exchanges
from multinorm_optax._baselines.adam_mini.blocks import resolve_blocks
from multinorm_optax._baselines.adam_mini.means import common_axes

KERNEL = mo.MatrixAxes(output=-1, input=-2)
HEADS = mo.MatrixAxes(output=(-2, -1), input=-3)
HEADS_OUT = mo.MatrixAxes(output=-1, input=(-3, -2))


@dataclasses.dataclass(frozen=True)
class Case:
    """A weight and how it is spread over a mesh of 4 x 2 devices."""

    shape: tuple[int, ...]
    spec: P
    axes: mo.MatrixAxes = KERNEL

    @property
    def batch(self):
        return math.prod(self.shape[i] for i in self.axes.batch(len(self.shape)))

    @property
    def sides(self):
        return sorted(self.axes.matrix_shape(self.shape))


CASES = {
    "input": Case((64, 32), P("fsdp", None)),
    "output": Case((64, 32), P(None, "fsdp")),
    "both": Case((64, 32), P("fsdp", "tensor")),
    "both-wide": Case((32, 64), P("fsdp", "tensor")),
    "one-axis-of-both": Case((64, 32), P(("fsdp", "tensor"), None)),
    "stacked": Case((3, 64, 32), P(None, "fsdp", "tensor")),
    "stacked-evenly": Case((8, 64, 32), P(None, "fsdp", "tensor")),
    "layers": Case((4, 64, 32), P("fsdp", None, None)),
    "layers-and-output": Case((8, 64, 32), P("fsdp", None, "tensor")),
    "two-stacks": Case((2, 6, 32, 16), P("tensor", None, "fsdp", None)),
    "heads": Case((64, 8, 4), P("fsdp", "tensor", None), HEADS),
    "within-heads": Case((64, 8, 4), P("fsdp", None, "tensor"), HEADS),
    "heads-out": Case((8, 4, 64), P("tensor", None, "fsdp"), HEADS_OUT),
    "tall": Case((4096, 16), P(("fsdp", "tensor"), None)),
    "indivisible": Case((64, 33), P("fsdp", None)),
}
SWEEPS = [(name, None) for name in CASES] + [(name, 1e-4) for name in ("both", "stacked", "heads")]
pytestmark = pytest.mark.devices(8)
MODES = [AxisType.Auto, AxisType.Explicit]
every_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


def mesh_of(mode):
    return jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(mode, mode))


def run_sharded(function, mesh, tree, specs):
    """The results and their shardings, and what the devices send one another."""
    with jax.set_mesh(mesh):
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        compiled = jax.jit(function).lower(jax.device_put(tree, shardings)).compile()
        result = compiled(jax.device_put(tree, shardings))
    return result, exchanges(compiled.as_text())


@functools.cache
def direction(make, *arguments):
    """One function for all meshes, so that it is compiled for one device once."""
    tx = make(*arguments)
    return lambda G: tx.update(G, tx.init(G))[0]


def assert_sums_of_vectors(
    sent: list[Collective], matrices: int, longest: int, stack: int, once: int = 5
):
    """The sweeps of a loop send two vectors each, and beside the loops there are at most `once`.

    Numbers, one to each of `stack` matrices, come with them.
    """
    assert {each.kind for each in sent} <= {"all-reduce"}
    assert max((array.size for each in sent for array in each.arrays), default=0) <= longest
    vectors = collections.Counter()
    for each in sent:
        vectors[each.loop] += sum(array.size > stack for array in each.arrays)
    # Outside: the first sweep sums at three powers of two, then at two.
    assert vectors.pop(None, 0) <= once * matrices
    assert max(vectors.values(), default=0) <= 2
    assert len(vectors) <= matrices


class TestSinkGD:
    @every_mode
    @pytest.mark.parametrize(("case", "tol"), SWEEPS, ids=lambda each: each)
    def test_sends_sums_of_vectors_only(self, rng, case, mode, tol):
        case = CASES[case]
        G = np.float32(rng.standard_normal(case.shape))
        step = direction(mo.scale_by_sinkhorn, case.axes, 7, tol)
        result, sent = run_sharded(step, mesh_of(mode), G, case.spec)
        assert result.sharding.is_equivalent_to(NamedSharding(mesh_of(mode), case.spec), G.ndim)
        np.testing.assert_allclose(result, jax.jit(step)(G), atol=1e-5)
        # With a tolerance the extremes of rows and columns tell which are zero (4), and the first
        # sum after the first sweep stands before the loop.
        once = 5 if tol is None else 10
        assert_sums_of_vectors(sent, 1, case.batch * case.sides[1], case.batch, once)
        # One sweep is outside the loop.
        trips = {each.trips for each in sent if each.loop}
        assert trips <= ({6} if tol is None else {None})

    @every_mode
    def test_whole_matrices_need_nothing(self, rng, mode):
        case = CASES["layers"]
        G = np.float32(rng.standard_normal(case.shape))
        step = direction(mo.scale_by_sinkhorn, case.axes)
        _, sent = run_sharded(step, mesh_of(mode), G, case.spec)
        assert all(array.size == 1 for each in sent for array in each.arrays)

    @every_mode
    @pytest.mark.parametrize("momentum", [None, 0.9], ids=["stateless", "momentum"])
    def test_optimizer(self, rng, mode, momentum):
        def weight(*shape):
            return np.float32(rng.standard_normal(shape))

        layers = {"up": {"kernel": weight(3, 16, 32)}, "down": {"kernel": weight(3, 32, 16)}}
        spread = {
            "up": {"kernel": P(None, "fsdp", "tensor")},
            "down": {"kernel": P(None, "tensor", "fsdp")},
        }
        tree = {
            "layers": {**layers, "norm": {"scale": weight(3, 16)}},
            "query": {"kernel": weight(16, 8, 4)},
            "embed": {"embedding": weight(64, 16)},
        }
        specs = {
            "layers": {**spread, "norm": {"scale": P()}},
            "query": {"kernel": P("fsdp", "tensor", None)},
            "embed": {"embedding": P(("fsdp", "tensor"), None)},
        }
        axes = [("query/kernel", HEADS), ("layers/.*/kernel", KERNEL), *mo.FLAX_RULES]
        step = direction(lambda: mo.sinkgd(1e-2, axes=axes, momentum=momentum))
        result, sent = run_sharded(step, mesh_of(mode), tree, specs)
        for found, want in zip(*map(jax.tree.leaves, (result, jax.jit(step)(tree))), strict=True):
            np.testing.assert_allclose(found, want, atol=1e-6)
        assert_sums_of_vectors(sent, matrices=3, longest=3 * 32, stack=3)


# What one rounding may become: polar factors of these well-conditioned matrices have errors of
# about the epsilon times the condition number; SWAN's iteration never settles, and each of its ten
# steps multiplies an error by up to two.
ORTHOGONALIZERS = {
    "polar_express": (mo.polar_express(), 1e-4, 12),
    "newton_schulz": (mo.newton_schulz(8), 1e-4, 8),
    "muon_quintic": (mo.muon_quintic(), 1e-3, 5),
    "swan_whitening": (mo.swan_whitening(), 2e-3, 1),
    "exact_svd": (mo.exact_svd(), 1e-4, None),
}

# The layouts are the same for all: one iteration goes through every case.
PAIRS = [("muon_quintic", case) for case in CASES] + [
    (name, case)
    for name in ORTHOGONALIZERS
    if name != "muon_quintic"
    for case in ("both", "stacked-evenly", "heads")
]


def swan(axes, centered=False):
    return mo.scale_by_swan(axes, centered=centered)


def spectral(case, orthogonalizer):
    return direction(mo.normalize_spectral, case.axes, orthogonalizer)


class TestSpectral:
    @every_mode
    @pytest.mark.parametrize(("name", "case"), PAIRS)
    def test_result_of_one_device(self, rng, name, case, mode):
        case = CASES[case]
        orthogonalizer, atol, grams = ORTHOGONALIZERS[name]
        G = np.float32(rng.standard_normal(case.shape))
        step = spectral(case, orthogonalizer)
        result, sent = run_sharded(step, mesh_of(mode), G, case.spec)
        np.testing.assert_allclose(result, jax.jit(step)(G), atol=atol)
        if mode == AxisType.Auto:
            return
        assert result.sharding.is_equivalent_to(NamedSharding(mesh_of(mode), case.spec), G.ndim)
        if grams is None or case == CASES["indivisible"]:
            return
        # Weights are exchanged there and back, the products X X^T summed, and nothing is gathered.
        assert {each.kind for each in sent} <= {"all-reduce", "all-to-all"}
        for each in sent:
            if each.kind == "all-to-all":
                assert each.loop is None
                assert each.bytes * 8 == G.nbytes * (8 // devices(case.spec))
        gram = case.sides[0] ** 2
        reduced = [
            (each.trips, array.size)
            for each in sent
            for array in each.arrays
            if each.kind == "all-reduce"
        ]
        sums = [(trips, size) for trips, size in reduced if size >= gram]
        # Beside them, vectors tell which rows and columns are zero.
        assert all(size <= case.batch * max(case.sides) for _, size in reduced if size < gram)
        assert all(size % gram == 0 and size <= case.batch * gram for _, size in sums)
        assert sum(trips * size for trips, size in sums) <= grams * case.batch * gram

    @every_mode
    @pytest.mark.parametrize(
        ("case", "centered"),
        [
            *((case, False) for case in ("both", "stacked-evenly", "layers", "tall")),
            *((case, True) for case in ("both", "within-heads")),
        ],
    )
    def test_swan(self, rng, case, mode, centered):
        case = CASES[case]
        G = np.float32(rng.standard_normal(case.shape))
        step = direction(swan, case.axes, centered)
        result, sent = run_sharded(step, mesh_of(mode), G, case.spec)
        np.testing.assert_allclose(result, jax.jit(step)(G), atol=2e-3)
        if mode == AxisType.Explicit:
            assert {each.kind for each in sent} <= {"all-reduce", "all-to-all"}

    @pytest.mark.parametrize("case", ["both", "layers-and-output", "within-heads"])
    def test_norm_and_dual_norm(self, rng, case):
        case = CASES[case]
        G = np.float32(rng.standard_normal(case.shape))

        def values(G):
            norm = mo.SpectralNorm()
            return norm.norm(G, case.axes), norm.dual_norm(G, case.axes)

        result, _ = run_sharded(values, mesh_of(AxisType.Explicit), G, case.spec)
        for found, want in zip(result, jax.jit(values)(G), strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-5)

    @pytest.mark.parametrize("context", [True, False], ids=["mesh-set", "no-mesh-set"])
    @pytest.mark.parametrize("compiled", [True, False], ids=["jit", "eager"])
    def test_explicit_weights_bring_their_mesh(self, rng, context, compiled):
        case, mesh = CASES["stacked"], mesh_of(AxisType.Explicit)
        G = np.float32(rng.standard_normal(case.shape))
        step = spectral(case, mo.muon_quintic())
        with jax.set_mesh(mesh) if context else contextlib.nullcontext():
            sharded = jax.device_put(jnp.asarray(G), NamedSharding(mesh, case.spec))
            result = (jax.jit(step) if compiled else step)(sharded)
        assert result.sharding == sharded.sharding
        np.testing.assert_allclose(result, jax.jit(step)(G), atol=1e-3)

    def test_explicit_axes_for_the_update_alone(self, rng):
        case, mesh = CASES["stacked-evenly"], mesh_of(AxisType.Auto)
        G = np.float32(rng.standard_normal(case.shape))
        step = direction(swan, case.axes)
        told = jax.sharding.explicit_axes(step, in_sharding=(case.spec,))
        result, sent = run_sharded(told, mesh, G, case.spec)
        assert {each.kind for each in sent} == {"all-reduce", "all-to-all"}
        assert result.sharding.is_equivalent_to(NamedSharding(mesh, case.spec), G.ndim)
        np.testing.assert_allclose(result, jax.jit(step)(G), atol=2e-3)

    def test_other_axes_of_the_mesh_may_be_of_other_kinds(self, rng):
        G = np.float32(rng.standard_normal((4, 32, 16)))
        step = spectral(CASES["stacked"], mo.muon_quintic())
        want = jax.jit(step)(G)
        kinds = (AxisType.Explicit, AxisType.Auto)
        mixed = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=kinds)
        result, _ = run_sharded(step, mixed, G, P(None, "fsdp", None))
        np.testing.assert_allclose(result, want, atol=1e-3)
        manual = jax.shard_map(
            step,
            in_specs=P("fsdp"),
            out_specs=P("fsdp"),
            axis_names={"fsdp"},
            check_vma=False,
        )
        result, _ = run_sharded(manual, mesh_of(AxisType.Explicit), G, P("fsdp", None, "tensor"))
        np.testing.assert_allclose(result, want, atol=1e-3)

    def test_vmap_and_derivative(self, rng):
        case, mesh = CASES["stacked"], mesh_of(AxisType.Explicit)
        G = np.float32(rng.standard_normal(case.shape))
        step = direction(mo.normalize_spectral, KERNEL, mo.newton_schulz(8))

        def slope(G):
            return jax.grad(lambda G: jnp.sum(step(G) ** 3))(G)

        for function in (jax.vmap(step), slope):
            result, _ = run_sharded(function, mesh, G, case.spec)
            want = jax.jit(function)(G)
            np.testing.assert_allclose(result, want, atol=1e-4 * np.max(np.abs(want)))


HEAD_BLOCKS = mo.Blocks(whole=-2, groups={-1: 8})
ROW_BLOCKS = mo.Blocks(whole=-2)
FUSED_BLOCKS = mo.Fused(-1, [(32, HEAD_BLOCKS), (16, HEAD_BLOCKS), (16, ROW_BLOCKS)])
FUSED_AXIS = mo.Fused(
    -3, [(1, mo.Blocks(whole=(-4, -1))), (1, mo.Blocks(whole=(-4, -1))), (1, mo.Blocks(whole=-4))]
)
BLOCKS = {
    "rows": ((3, 64, 32), P(None, "fsdp", "tensor"), ROW_BLOCKS),
    "input-over-all": ((64, 32), P(("fsdp", "tensor"), None), ROW_BLOCKS),
    "gain": ((4, 64), P(None, "fsdp"), mo.Blocks(whole=-1)),
    "entries": ((64, 32), P("fsdp", "tensor"), mo.Blocks()),
    "tokens": ((128, 32), P("tensor", "fsdp"), mo.Blocks(whole=-1)),
    "heads": ((3, 64, 32), P(None, "fsdp", "tensor"), HEAD_BLOCKS),
    "heads-and-layers": ((4, 64, 32), P("fsdp", None, "tensor"), HEAD_BLOCKS),
    "within-heads": ((64, 16), P("tensor", "fsdp"), HEAD_BLOCKS),
    "within-heads-over-all": ((3, 64, 32), P(None, None, ("fsdp", "tensor")), HEAD_BLOCKS),
    "axis-of-heads": ((64, 4, 8), P("tensor", "fsdp", None), mo.Blocks(whole=(-3, -1))),
    "axis-within-heads": ((64, 4, 8), P("fsdp", None, "tensor"), mo.Blocks(whole=(-3, -1))),
    "fused": ((3, 64, 64), P(None, "fsdp", "tensor"), FUSED_BLOCKS),
    "fused-over-all": ((64, 64), P(None, ("fsdp", "tensor")), FUSED_BLOCKS),
    "fused-axis": ((64, 3, 4, 8), P("fsdp", None, "tensor", None), FUSED_AXIS),
}


@functools.cache
def adam_mini_steps(case):
    tx = mo.scale_by_adam_mini(b2=0.9, blocks=BLOCKS[case][2])

    def steps(gradients):
        return jax.lax.scan(
            lambda state, gradient: tx.update(gradient, state)[::-1],
            tx.init(gradients[0]),
            gradients,
        )

    return steps


class TestAdamMini:
    @every_mode
    @pytest.mark.parametrize("case", BLOCKS)
    def test_sends_no_more_than_vectors(self, rng, case, mode):
        shape, spec, blocks = BLOCKS[case]
        gradients = np.float32(rng.standard_normal((2, *shape)))
        steps = adam_mini_steps(case)
        place = P(None, *spec)
        (state, updates), sent = run_sharded(steps, mesh_of(mode), gradients, place)
        with jax.enable_x64(True):
            exact, terms = (jax.jit(steps)(np.float64(g)) for g in (gradients, np.abs(gradients)))
        for array, where in ((updates, place), (state.mu, spec)):
            expected = NamedSharding(mesh_of(mode), where)
            assert array.sharding.is_equivalent_to(expected, array.ndim)
        # Sixteen roundings, each of the size of the terms, which may cancel in the first moment.
        leaves = map(jax.tree.leaves, ((state, updates), exact, terms))
        for found, want, size in zip(*(map(np.asarray, each) for each in leaves), strict=True):
            assert np.all(np.abs(found - want) <= 16 * 2**-24 * size)
        # Sums over the axes that every block spans, and numbers of blocks.
        [(_, found)] = resolve_blocks(blocks, gradients[0])
        longest = math.prod(n for axis, n in enumerate(shape) if axis not in common_axes(found))
        assert max((array.size for each in sent for array in each.arrays), default=0) <= longest
        assert common_axes(found) or not sent

    @pytest.mark.parametrize("case", ["within-heads", "fused"])
    def test_explicit_weights_bring_their_mesh(self, rng, case):
        shape, spec, blocks = BLOCKS[case]
        G = np.float32(rng.standard_normal(shape))
        step = direction(lambda: mo.scale_by_adam_mini(blocks=blocks))
        sharded = jax.device_put(G, NamedSharding(mesh_of(AxisType.Explicit), spec))
        result = step(sharded)
        assert result.sharding == sharded.sharding
        np.testing.assert_allclose(result, jax.jit(step)(G), rtol=1e-5)


class TestLDAdamState:
    @pytest.mark.parametrize("compiled", [True, False], ids=["jit", "eager"])
    @pytest.mark.parametrize("feedback", [True, False])
    def test_explicit_weights_bring_their_mesh(self, rng, compiled, feedback):
        tx = mo.scale_by_ldadam(KERNEL, rank=2, error_feedback=feedback)
        G = np.float32(rng.standard_normal((16, 32)))
        sharding = NamedSharding(mesh_of(AxisType.Explicit), P("fsdp", "tensor"))
        sharded = jax.device_put(G, sharding)
        init = jax.jit(tx.init) if compiled else tx.init
        result, _ = jax.jit(tx.update)(sharded, init(sharded))
        assert result.sharding == sharding
        np.testing.assert_allclose(result, jax.jit(tx.update)(G, tx.init(G))[0], atol=1e-4)


def devices(spec):
    """Over how many devices a weight is spread."""
    names = [name for part in spec if part for name in ([part] if isinstance(part, str) else part)]
    return math.prod({"fsdp": 4, "tensor": 2}[name] for name in names)


FUSED = mo.Fused(-1, [(32, KERNEL), (16, KERNEL), (16, KERNEL)])
INDIVISIBLE = mo.Fused(-1, [(44, KERNEL), (10, KERNEL), (10, KERNEL)])


class TestFused:
    @every_mode
    @pytest.mark.parametrize("spec", [P(None, "fsdp", None), P("tensor", "fsdp", None)], ids=str)
    def test_parts_that_no_mesh_axis_divides_send_vectors(self, rng, mode, spec):
        G = np.float32(rng.standard_normal((2, 64, 64)))
        step = direction(mo.scale_by_sinkhorn, FUSED)
        result, sent = run_sharded(step, mesh_of(mode), G, spec)
        assert result.sharding.is_equivalent_to(NamedSharding(mesh_of(mode), spec), G.ndim)
        np.testing.assert_allclose(result, jax.jit(step)(G), atol=1e-5)
        assert_sums_of_vectors(sent, 3, 2 * 64, 2)

    @every_mode
    @pytest.mark.parametrize("fused", [FUSED, INDIVISIBLE], ids=["divisible", "indivisible"])
    @pytest.mark.parametrize(
        "make",
        [
            mo.scale_by_sinkhorn,
            lambda axes: mo.normalize_spectral(axes, mo.newton_schulz(8)),
            lambda axes: mo.sinkgd(0.1, axes=axes, momentum=0.9, step_scale="muon"),
        ],
        ids=["sinkhorn", "spectral", "sinkgd"],
    )
    def test_parts_that_are_spread(self, rng, mode, fused, make):
        spec, G = P(None, "tensor", "fsdp"), np.float32(rng.standard_normal((2, 64, 64)))
        step = direction(make, fused)
        result, _ = run_sharded(step, mesh_of(mode), G, spec)
        assert result.sharding.is_equivalent_to(NamedSharding(mesh_of(mode), spec), G.ndim)
        want = jax.jit(step)(G)
        np.testing.assert_allclose(result, want, atol=1e-4 * np.max(np.abs(want)))
