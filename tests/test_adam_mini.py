"""Adam-mini against its literal reference, and against AdamW where the two are one."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import chex
import flax.serialization
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import multinorm_optax as mo
from examples.llama.model import llama_blocks
from multinorm_optax import Blocks, Fused
from multinorm_optax._baselines.adam_mini.blocks import resolve_blocks
from tests import reference
from tests.updates import updated

HEAD = 3
STEPS = 50


@dataclasses.dataclass(frozen=True)
class Case:
    """A weight's shape and blocks, and what it is to the paper."""

    shape: tuple[int, ...]
    blocks: mo.Blocks | mo.Fused | mo.MatrixAxes | optax.contrib.MuonDimensionNumbers
    matrices: Callable[[np.ndarray], Sequence[np.ndarray]]
    """The matrices (out, in) in it."""
    rows: int | Sequence[int]
    """How many rows of each share a second moment."""

    def parts(self, w):
        found = [np.array(each) for each in self.matrices(np.asarray(w))]
        return zip(found, np.broadcast_to(self.rows, len(found)), strict=True)


def transposed(w):
    """Of the last two axes, flax (in, out)."""
    return [each.T for each in w.reshape(-1, *w.shape[-2:])]


def with_heads(w):
    """DenseGeneral (d, heads, width)."""
    return [w.reshape(len(w), -1).T]


def split_last(*sizes):
    """A fused kernel's parts, layer by layer."""
    ends = np.cumsum(sizes)[:-1]
    return lambda w: [part for layer in transposed(w) for part in np.split(layer, ends)]


QUERY, NEURON = Blocks(whole=-2, groups={-1: HEAD}), Blocks(whole=-2)
CASES = {
    "kernel": Case((6, 4), NEURON, transposed, 1),
    "stacked_kernel": Case((3, 6, 4), NEURON, transposed, 1),
    "experts": Case((2, 3, 5, 4), NEURON, transposed, 1),
    "matrix_axes": Case((3, 6, 4), mo.MatrixAxes(output=-1, input=-2), transposed, 1),
    "muon_axes": Case((6, 4), optax.contrib.MuonDimensionNumbers(0, 1), transposed, 1),
    "stacked_heads": Case((2, 6, 2 * HEAD), QUERY, transposed, HEAD),
    "one_of_several_heads": Case((12, HEAD), QUERY, transposed, HEAD),
    "heads_narrower_than_the_model": Case((10, 2 * HEAD), QUERY, transposed, HEAD),
    "heads_of_experts": Case((2, 2, 4, 2 * HEAD), QUERY, transposed, HEAD),
    "dense_general": Case((5, 2, HEAD), Blocks(whole=(-3, -1)), with_heads, HEAD),
    "dense_general_value": Case((5, 2, HEAD), Blocks(whole=-3), with_heads, 1),
    "dense_general_out": Case(
        (2, HEAD, 5), Blocks(whole=(-3, -2)), lambda w: [w.reshape(-1, 5).T], 1
    ),
    "stacked_dense_general": Case(
        (2, 5, 4, HEAD),
        Blocks(whole=(-3, -1)),
        lambda w: [part for layer in w for part in with_heads(layer)],
        HEAD,
    ),
    "whole_value": Case((3, 4, 6), Blocks(whole=(-2, -1)), transposed, 6),
    "fused": Case(
        (2, 5, 8 * HEAD),
        Fused(-1, [(4 * HEAD, QUERY), (2 * HEAD, QUERY), (2 * HEAD, NEURON)]),
        split_last(4 * HEAD, 2 * HEAD, 2 * HEAD),
        [HEAD, HEAD, 1, HEAD, HEAD, 1],
    ),
    "fused_axis": Case(
        (5, 3, 2, HEAD),
        Fused(-3, [(1, Blocks(whole=(-4, -1))), (1, Blocks((-4, -1))), (1, Blocks(-4))]),
        lambda w: [part for i in range(3) for part in with_heads(w[:, i])],
        [HEAD, HEAD, 1],
    ),
    "fused_whole": Case(
        (4, 5),
        Fused(1, [(2, Blocks(whole=(0, 1))), (3, mo.MatrixAxes(output=1, input=0))]),
        split_last(2, 3),
        [2, 1],
    ),
    "embedding": Case((7, 4), Blocks(whole=-1), lambda w: [w], 1),
    "gain": Case((5,), Blocks(whole=-1), lambda w: [w[:, None]], 5),
    "stacked_gains": Case((3, 5), Blocks(whole=-1), lambda w: [each[:, None] for each in w], 5),
    "full_adam": Case((3, 4), Blocks(), lambda w: [w.reshape(-1, 1)], 1),
}


def fit(tx, params, gradients):
    """The parameters after each gradient."""

    def step(carry, gradient):
        params, state = carry
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[1])(params, gradients)


def draws(rng, *shape):
    """Gradients whose sizes differ from entry to entry and from step to step."""
    return rng.standard_normal(shape) * np.exp(rng.standard_normal(shape))


def rate(t):
    return 0.1 * 0.97 ** (t - 1)


@functools.cache
def trajectories():
    """Of all cases at once: weights, gradients, and the weights after each of them."""
    rng = np.random.default_rng(0)
    weights = {name: draws(rng, *case.shape) for name, case in CASES.items()}
    gradients = {name: draws(rng, STEPS, *case.shape) for name, case in CASES.items()}
    blocks = {name: case.blocks for name, case in CASES.items()}
    tx = mo.adam_mini(
        lambda count: rate(count + 1), blocks=blocks, weight_decay=0.1, weight_decay_mask=True
    )
    return weights, gradients, jax.tree.map(np.asarray, fit(tx, weights, gradients))


@pytest.mark.parametrize("name", CASES)
def test_fifty_steps_are_those_of_the_reference(float64, name):
    case = CASES[name]
    weights, gradients, trajectory = (each[name] for each in trajectories())
    starts, *gradients = (case.parts(each) for each in (weights, *gradients))
    for part, ((start, rows), *pieces) in enumerate(zip(starts, *gradients, strict=True)):
        step = functools.partial(reference.adam_mini_step, rate=rate, rows=rows, decay=0.1)
        want = reference.fit(step, start, [gradient for gradient, _ in pieces])
        got = [list(case.parts(each))[part][0] for each in trajectory]
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@st.composite
def shapes_and_blocks(draw):
    """A shape with blocks that fit it."""
    kinds = draw(st.lists(st.sampled_from(["whole", "own", 1, 2, 3]), min_size=1, max_size=4))
    counts = [draw(st.integers(1, 3)) for _ in kinds]
    lengths = [kind if isinstance(kind, int) else 1 for kind in kinds]
    sign = draw(st.sampled_from([0, -len(kinds)]))
    whole = [axis + sign for axis, kind in enumerate(kinds) if kind == "whole"]
    groups = {axis + sign: kind for axis, kind in enumerate(kinds) if isinstance(kind, int)}
    shape = tuple(np.multiply(counts, lengths))
    return (
        shape,
        Blocks(whole, groups),
        [
            count * length if kind == "whole" else length
            for kind, count, length in zip(kinds, counts, lengths, strict=True)
        ],
    )


@hypothesis.given(shapes_and_blocks())
def test_second_moment_is_the_mean_square_of_each_block(drawn):
    shape, blocks, runs = drawn
    g = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    tx = mo.scale_by_adam_mini(b2=0.0, blocks=blocks)
    nu = np.asarray(jax.jit(lambda g: tx.update(g, tx.init(g))[1].nu)(g))
    assert nu.shape == blocks.moment_shape(shape)
    for index in np.ndindex(nu.shape):
        block = tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, runs, strict=True))
        np.testing.assert_allclose(nu[index], np.mean(g[block] ** 2), rtol=1e-6)


PARAMS = {
    "attention": {"query": {"kernel": (2, 6, 4)}, "value": {"kernel": (2, 6, 4), "bias": (2, 4)}},
    "norm": {"scale": (6,)},
}


def tree_of(rng, shapes, dtype=jnp.float32):
    return jax.tree.map(
        lambda shape: jnp.asarray(draws(rng, *shape), dtype),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=lambda dtype: dtype.__name__)
def test_blocks_of_one_entry_are_adamw(float64, rng, dtype):
    options = {"b1": 0.8, "b2": 0.95, "eps": 1e-6, "weight_decay": 0.1}
    adamw = optax.adamw(0.1, **options)
    mini = mo.adam_mini(0.1, blocks=Blocks(), weight_decay_mask=True, **options)
    got = want = w = jnp.asarray(draws(rng, 3, 4), dtype)
    state, adam_state = mini.init(w), adamw.init(w)
    # Not compiled, because XLA rounds otherwise in other programs: the arithmetic is the same.
    for gradient in map(jnp.asarray, np.asarray(draws(rng, 5, 3, 4), dtype)):
        updates, state = mini.update(gradient, state, got)
        expected, adam_state = adamw.update(gradient, adam_state, want)
        got, want = optax.apply_updates(got, updates), optax.apply_updates(want, expected)
        np.testing.assert_array_equal(got, want)


def test_one_block_per_tensor_is_momentum_with_one_step_size(rng):
    params = tree_of(rng, PARAMS)
    blocks = jax.tree.map(lambda leaf: Blocks(whole=range(leaf.ndim)), params)
    tx = mo.scale_by_adam_mini(blocks=blocks)
    state = tx.init(params)
    for _ in range(3):
        updates, state = jax.jit(tx.update)(tree_of(rng, PARAMS), state)
    for update, mu, nu in zip(*map(jax.tree.leaves, (updates, state.mu, state.nu)), strict=True):
        assert nu.size == 1
        size = np.sqrt(nu.item() / (1 - 0.999**3))
        np.testing.assert_allclose(update, mu / (1 - 0.9**3) / size, rtol=1e-5)


class TestWeightDecay:
    @pytest.mark.parametrize(
        ("mask", "decayed"),
        [
            (None, {"attention/query/kernel", "attention/value/kernel"}),
            (True, None),
            (lambda params: jax.tree.map(lambda leaf: leaf.ndim == 1, params), {"norm/scale"}),
        ],
        ids=["default", "everything", "function"],
    )
    def test_mask(self, rng, mask, decayed):
        params = tree_of(rng, PARAMS)
        tx = mo.adam_mini(0.5, blocks=Blocks(), weight_decay=0.1, weight_decay_mask=mask)
        updates = updated(tx, optax.tree.zeros_like(params), params)
        for (path, _), update, leaf in zip(
            resolve_blocks(Blocks(), params),
            *map(jax.tree.leaves, (updates, params)),
            strict=True,
        ):
            factor = -0.05 if decayed is None or path in decayed else 0.0
            np.testing.assert_allclose(update, factor * leaf, rtol=1e-6)


class TestDtypes:
    def test_bfloat16_weights_have_a_float32_second_moment_that_moves(self):
        params = {"kernel": jnp.ones((4, 3), jnp.bfloat16)}
        tx = mo.adam_mini(1e-3, blocks=Blocks(whole=-2))
        state = tx.init(params)
        update = jax.jit(tx.update)
        for _ in range(100):
            updates, state = update(params, state)
        moments = state[0]
        assert updates["kernel"].dtype == moments.mu["kernel"].dtype == jnp.bfloat16
        assert moments.nu["kernel"].dtype == jnp.float32
        # A hundred sums, each rounded to half a unit in the last place.
        np.testing.assert_allclose(moments.nu["kernel"], 1 - 0.999**100, rtol=100 * 2**-24)

    @pytest.mark.parametrize(
        ("dtype", "mu_dtype", "mu", "nu"),
        [
            (jnp.float32, None, jnp.float32, jnp.float32),
            (jnp.float32, jnp.bfloat16, jnp.bfloat16, jnp.float32),
            (jnp.bfloat16, jnp.float32, jnp.float32, jnp.float32),
            (jnp.float64, None, jnp.float64, jnp.float64),
            (jnp.complex64, None, jnp.complex64, jnp.float32),
            (jnp.complex64, jnp.bfloat16, jnp.complex64, jnp.float32),
        ],
        ids=str,
    )
    def test_state(self, float64, rng, dtype, mu_dtype, mu, nu):
        w = jnp.asarray(rng.standard_normal((4, 6)), dtype)
        tx = mo.scale_by_adam_mini(blocks=Blocks(whole=-2, groups={-1: 3}), mu_dtype=mu_dtype)
        state = tx.init(w)
        updates, new = jax.jit(tx.update)(w, state)
        assert (state.mu.dtype, state.nu.dtype) == (mu, nu)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
        assert updates.dtype == dtype

    def test_first_moment_is_used_before_it_is_rounded(self, rng):
        w = jnp.asarray(rng.standard_normal((4, 6)), jnp.float32)
        tx = mo.scale_by_adam_mini(blocks=Blocks(whole=-2), mu_dtype=jnp.bfloat16)
        want = updated(mo.scale_by_adam_mini(blocks=Blocks(whole=-2)), w)
        np.testing.assert_array_equal(updated(tx, w), want)

    def test_integers_are_an_error_that_names_them(self):
        tx = mo.adam_mini(blocks=Blocks())
        with pytest.raises(
            TypeError, match=r"layers/step \(3,\): int32 has no gradient.*optax.masked"
        ):
            tx.init({"layers": {"step": jnp.arange(3)}})


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def nbytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def llama(layers, d, mlp, vocabulary, dtype=jnp.float32):
    """Shapes of the weights of the LLaMA of the examples."""

    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    square = {"kernel": leaf(layers, d, d)}
    return {
        "embed": {"embedding": leaf(vocabulary, d)},
        "layers": {
            "attention_norm": {"scale": leaf(layers, d)},
            "attention": dict.fromkeys(("query", "key", "value", "out"), square),
            "mlp_norm": {"scale": leaf(layers, d)},
            "mlp": {
                "gate": {"kernel": leaf(layers, d, mlp)},
                "up": {"kernel": leaf(layers, d, mlp)},
                "down": {"kernel": leaf(layers, mlp, d)},
            },
        },
        "final_norm": {"scale": leaf(d)},
        "head": {"kernel": leaf(d, vocabulary)},
    }


class TestBytes:
    def test_llama_2_7b(self):
        params = llama(32, 4096, 11008, 32000)
        state = jax.eval_shape(mo.adam_mini(blocks=llama_blocks(128)).init, params)
        per_layer = 2 * 32 + 2 * 4096 + 2 * 11008 + 4096 + 2
        assert size(state[0].nu) == 32 * per_layer + 2 * 32000 + 1 == 1_163_841
        assert size(params) == 6_738_415_616
        assert nbytes(state) == 4 * (size(params) + 1_163_841 + 1)
        assert round(nbytes(state) / 1e9, 2) == 26.96
        assert round(nbytes(jax.eval_shape(optax.adamw(1e-3).init, params)) / 1e9, 1) == 53.9

    def test_one_block_for_the_values(self):
        params = llama(2, 8, 12, 20)
        neuron, whole = (
            jax.eval_shape(mo.scale_by_adam_mini(blocks=llama_blocks(4, value=value)).init, params)
            for value in ("neuron", "whole")
        )
        assert neuron.nu["layers"]["attention"]["value"]["kernel"].shape == (2, 1, 8)
        assert whole.nu["layers"]["attention"]["value"]["kernel"].shape == (2, 1, 1)
        assert size(neuron) - size(whole) == 2 * 7

    def test_bfloat16(self):
        params = llama(2, 8, 12, 20, jnp.bfloat16)
        state = jax.eval_shape(mo.scale_by_adam_mini(blocks=llama_blocks(4)).init, params)
        assert nbytes(state) == 2 * size(params) + 4 * size(state.nu) + 4

    @pytest.mark.parametrize("name", CASES)
    def test_of_every_layout(self, name):
        case = CASES[name]
        state = mo.scale_by_adam_mini(blocks=case.blocks).init(jnp.zeros(case.shape))
        blocks = sum(len(part) // rows for part, rows in case.parts(np.zeros(case.shape)))
        assert size(state.nu) == blocks
        assert nbytes(state) == 4 * (np.prod(case.shape) + blocks + 1)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from equations(value.jaxpr)


MOVES = {"reshape", "transpose", "broadcast_in_dim", "concatenate", "slice", "split", "gather"}


@pytest.mark.parametrize("name", CASES)
def test_nothing_of_the_size_of_a_weight_is_moved(name):
    case = CASES[name]
    tx = mo.scale_by_adam_mini(blocks=case.blocks)
    w = jnp.zeros(case.shape)
    for equation in equations(jax.make_jaxpr(tx.update)(w, tx.init(w)).jaxpr):
        if equation.primitive.name in MOVES:
            assert all(out.aval.size < w.size for out in equation.outvars), equation


MIXED = {"qkv": (2, 5, 8 * HEAD), "norm": (2, 5), "bias": (2, 4)}
MIXED_BLOCKS = (
    ("qkv", CASES["fused"].blocks),
    ("norm", Blocks(whole=-1)),
    ("bias", Blocks()),
)


def test_a_state_that_was_saved_goes_on_alike(rng):
    params, gradients = tree_of(rng, MIXED), [tree_of(rng, MIXED) for _ in range(6)]
    tx = mo.adam_mini(optax.linear_schedule(0.1, 0, 6), blocks=MIXED_BLOCKS, weight_decay=0.1)
    step = jax.jit(tx.update)
    state = want = tx.init(params)
    for number, gradient in enumerate(gradients):
        if number == 3:
            state = flax.serialization.from_bytes(
                tx.init(params), flax.serialization.to_bytes(state)
            )
        updates, state = step(gradient, state, params)
        expected, want = step(gradient, want, params)
        chex.assert_trees_all_equal(updates, expected)


class TestInsideOthers:
    def test_chain_masked_and_partition(self, rng):
        tree, tx = tree_of(rng, MIXED), mo.scale_by_adam_mini(blocks=MIXED_BLOCKS)
        want = updated(tx, tree)
        chained = optax.chain(optax.clip(1e9), tx, optax.scale(-1.0))
        close = functools.partial(chex.assert_trees_all_close, rtol=1e-6)
        close(updated(chained, tree), optax.tree.scale(-1.0, want))
        mask = {"qkv": True, "norm": True, "bias": False}
        kept = {**want, "bias": tree["bias"]}
        close(updated(optax.masked(tx, mask), tree), kept)
        labels = {name: "mini" if inside else "rest" for name, inside in mask.items()}
        parts = optax.partition({"mini": tx, "rest": optax.identity()}, labels)
        close(updated(parts, tree), kept)

    def test_inject_hyperparams(self, rng):
        tree = tree_of(rng, MIXED)
        rules = [(".*", lambda path, shape: dict(MIXED_BLOCKS)[path])]
        make = optax.inject_hyperparams(mo.adam_mini, static_args=("blocks",))
        rate = optax.linear_schedule(0.1, 0.0, 10)
        for tx in (
            make(rate, blocks=lambda params: dict(MIXED_BLOCKS), weight_decay=0.1),
            optax.inject_hyperparams(mo.adam_mini)(rate, blocks=rules, weight_decay=0.1),
        ):
            state = tx.init(tree)
            updates, state = jax.jit(tx.update)(tree, state, tree)
            plain = mo.adam_mini(0.1, blocks=MIXED_BLOCKS, weight_decay=0.1)
            # A traced b2 is rounded before 1 - b2 is taken, of which that is up to 3e-5.
            chex.assert_trees_all_close(updates, updated(plain, tree, tree), rtol=2e-5)
            _, state = jax.jit(tx.update)(tree, state, tree)
            assert float(state.hyperparams["learning_rate"]) == pytest.approx(0.09)

    def test_nnx_optimizer(self, rng):
        attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
        model = nnx.Dict(attention=attention, norm=nnx.LayerNorm(8, rngs=nnx.Rngs(0)))
        tx = mo.adam_mini(1e-2, blocks=mo.flax_blocks(None), weight_decay=0.1)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        x = jnp.asarray(rng.standard_normal((3, 5, 8)), jnp.float32)

        def loss(model):
            return jnp.mean((model["norm"](model["attention"](x)) - x) ** 2)

        @nnx.jit
        def step(model, optimizer):
            value, gradient = nnx.value_and_grad(loss)(model)
            optimizer.update(model, gradient)
            return value

        losses = [float(step(model, optimizer)) for _ in range(60)]
        assert losses[-1] < 0.5 * losses[0]


def test_every_leaf_needs_a_rule(rng):
    with pytest.raises(ValueError, match=r"bias \(2, 4\)\nno rule.*`blocks`"):
        mo.adam_mini(blocks=MIXED_BLOCKS[:2]).init(tree_of(rng, MIXED))
    tx = mo.adam_mini(blocks=MIXED_BLOCKS)
    with pytest.raises(ValueError, match=r"other \(2,\)\nno rule"):
        tx.update({"other": jnp.ones(2)}, tx.init(tree_of(rng, MIXED)))
    with pytest.raises(TypeError, match="blocks"):
        mo.adam_mini()


@pytest.mark.parametrize("shape", [(0, 4, 6), (3, 0, 6), (3, 4, 0)], ids=str)
def test_empty_stacks(shape):
    tx = mo.adam_mini(blocks=Blocks(whole=-2, groups={-1: 3}))
    w = jnp.zeros(shape)
    updates, state = jax.jit(tx.update)(w, tx.init(w))
    assert updates.shape == shape
    chex.assert_tree_all_finite(state)
