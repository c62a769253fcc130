"""The layer-wise step, against the ordinary step written out."""

import dataclasses
import functools
import re
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import multinorm_optax as mo
from multinorm_optax import LayerwiseModel, layerwise_training
from multinorm_optax._training.layerwise import LayerwiseState

LAYERS, VOCABULARY, WIDTH, INNER = 3, 11, 6, 10


RULES = (
    (r"layers/.*kernel", mo.MatrixAxes(output=-1, input=-2)),
    (r"embed|.*(scale|norm)|head", None),
)


def embed(part, batch):
    tokens = batch[:, :-1]
    return {"x": jnp.take(part["embed"], tokens, axis=0), "row": jnp.arange(tokens.shape[1])}


def block(layer, state):
    x = state["x"] * layer["scale"] + 0.01 * state["row"][:, None]
    x = state["x"] + jax.nn.silu(x @ layer["up"]["kernel"]) @ layer["down"]["kernel"]
    return {"x": x, "row": state["row"]}


def head(part, state, batch):
    logits = (state["x"] * part["norm"]) @ part["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()


def tied_head(part, state, batch):
    return head({"norm": part["norm"], "head": part["embed"].T}, state, batch)


MODEL = LayerwiseModel(embed, block, head, head_names=("norm", "head"))
TIED = LayerwiseModel(embed, block, tied_head, head_names=("norm", "embed"))


def draw(rng, dtype=None, layers=LAYERS, width=WIDTH, inner=INNER, vocabulary=VOCABULARY):
    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[-2]), dtype)

    return {
        "embed": normal(vocabulary, width),
        "layers": {
            "up": {"kernel": normal(layers, width, inner)},
            "down": {"kernel": normal(layers, inner, width)},
            "scale": jnp.ones((layers, width), dtype),
        },
        "norm": jnp.ones(width, dtype),
        "head": normal(width, vocabulary),
    }


def tied_params(params):
    return {name: value for name, value in params.items() if name != "head"}


@pytest.fixture
def batches(rng):
    return jnp.asarray(rng.integers(0, VOCABULARY, (3, 4, 8)))


def layers_of(stack):
    """The layers of a stack, or of a list, one by one."""
    if isinstance(stack, list):
        return stack
    leaves, structure = jax.tree.flatten(stack)
    return [jax.tree.unflatten(structure, layer) for layer in zip(*leaves, strict=True)]


def mean_loss(model, params, batch):
    """The loss by a loop over the layers, no scan."""
    x = model.embed({name: params[name] for name in model.embed_names}, batch)
    for layer in layers_of(params[model.stack]):
        x = model.block(layer, x)
    return model.head({name: params[name] for name in model.head_names}, x, batch)


@functools.cache
def loss_and_gradient(model):
    return jax.jit(jax.value_and_grad(lambda params, batch: mean_loss(model, params, batch)))


def applied(tx):
    @jax.jit
    def apply(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return apply


def ordinary(model, tx):
    apply = applied(tx)

    def step(params, state, batch):
        loss, gradient = loss_and_gradient(model)(params, batch)
        return *apply(params, state, gradient), loss

    return tx.init, step


def compiled(model, tx, rest=None):
    training = layerwise_training(model, tx, rest)
    return training.init, jax.jit(training.step, donate_argnums=(0, 1))


def run(training, params, batches):
    init, step = training
    params, losses = jax.tree.map(jnp.copy, params), []
    state = init(params)
    for batch in batches:
        params, state, loss = step(params, state, batch)
        losses.append(loss)
    return params, state, losses


def adam_mask(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


RATE = optax.cosine_decay_schedule(0.1, 5)
NEURON = mo.Blocks(whole=-2)
BLOCKS = (
    (r"layers/up/kernel", mo.Blocks(whole=-2, groups={-1: 5})),
    (r"layers/down/kernel", mo.Fused(-1, [(2, NEURON), (4, mo.Blocks(whole=(-2, -1)))])),
    (r"embed|norm|layers/scale", mo.Blocks(whole=-1)),
    (r"head", NEURON),
)
STATIC = ("num_iters", "tol", "axes", "momentum", "nesterov", "weight_decay_mask")
OPTIMIZERS = {
    "sinkgd": mo.sinkgd(RATE, axes=RULES, alpha=0.5),
    "sinkgd_momentum_decay": mo.sinkgd(
        0.1, axes=RULES, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "swan": mo.swan(RATE, axes=RULES),
    "ldadam": mo.ldadam(RATE, axes=RULES, rank=2, weight_decay=0.1),
    "sgd": optax.sgd(0.1),
    "sgd_momentum": optax.sgd(RATE, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(RATE, weight_decay=0.1),
    "adamw_masked": optax.adamw(0.1, weight_decay=0.1, mask=lambda p: dict.fromkeys(p, True)),
    "injected_sinkgd": optax.inject_hyperparams(mo.sinkgd, static_args=STATIC)(RATE, axes=RULES),
    "injected_adamw": optax.inject_hyperparams(optax.adamw)(RATE, weight_decay=0.1),
    "muon": optax.contrib.muon(
        RATE,
        muon_weight_dimension_numbers=lambda params: jax.tree.map_with_path(
            lambda path, leaf: (
                optax.contrib.MuonDimensionNumbers(-2, -1) if "kernel" in str(path) else None
            ),
            params,
        ),
    ),
    "frozen": optax.partition(
        {"matrix": optax.adam(RATE), "adam": optax.set_to_zero()}, mo.group_labels(RULES)
    ),
    "accumulating": optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "clipped_by_entry": optax.chain(optax.clip(1e-2), optax.sgd(0.1)),
    "stateful_schedule_free": optax.contrib.schedule_free_adamw(0.1),
    "tolerance": mo.sinkgd(0.1, axes=RULES, tol=1e-9, num_iters=20),
    "adam_mini": mo.adam_mini(RATE, blocks=BLOCKS, weight_decay=0.1),
    "foreign_members": mo.auxiliary_adam(
        lambda axes: mo.multi_normalize(mo.normalize_rows(axes), optax.scale(0.5)),
        RATE,
        axes=RULES,
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_and_loss_are_those_of_the_ordinary_step(float64, rng, batches, name):
    tx, params = OPTIMIZERS[name], draw(rng)
    want, _, want_losses = run(ordinary(MODEL, tx), params, batches)
    got, _, losses = run(compiled(MODEL, tx), params, batches)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    chex.assert_trees_all_close((got, losses), (want, want_losses), rtol=1e-7, atol=1e-10)
    assert np.max(np.abs(got["layers"]["up"]["kernel"] - params["layers"]["up"]["kernel"])) > 0


TIED_OPTIMIZERS = {
    "sinkgd": mo.sinkgd(RATE, axes=[("embed", None), *RULES]),
    **{name: OPTIMIZERS[name] for name in ("swan", "sgd", "adamw", "ldadam", "adam_mini", "muon")},
}


@pytest.mark.parametrize("name", TIED_OPTIMIZERS)
def test_tied_embeddings_get_both_gradients(float64, rng, batches, name):
    tx, params = TIED_OPTIMIZERS[name], tied_params(draw(rng))
    want, _, want_losses = run(ordinary(TIED, tx), params, batches)
    got, state, losses = run(compiled(TIED, tx), params, batches)
    chex.assert_trees_all_close((got, losses), (want, want_losses), rtol=1e-7, atol=1e-10)
    assert not [leaf for leaf in jax.tree.leaves(state.head) if leaf.shape == params["embed"].shape]


@pytest.mark.parametrize("box", [lambda x: {"embedding": x}, lambda x: [x], lambda x: (x,)])
def test_tied_embeddings_may_be_trees(float64, rng, batches, box):
    def boxed(part):
        return {name: box(value) if name == "embed" else value for name, value in part.items()}

    def unboxed(part):
        return {name: jax.tree.leaves(x)[0] if name == "embed" else x for name, x in part.items()}

    nested = LayerwiseModel(
        lambda part, batch: TIED.embed(unboxed(part), batch),
        TIED.block,
        lambda part, state, batch: TIED.head(unboxed(part), state, batch),
        head_names=TIED.head_names,
    )
    tx, params = optax.sgd(RATE), tied_params(draw(rng))
    want, _, want_losses = run(compiled(TIED, tx), params, batches)
    got, _, losses = run(compiled(nested, tx), boxed(params), batches)
    chex.assert_trees_all_close((unboxed(got), losses), (want, want_losses), rtol=1e-12)


def unstacked(params):
    layers = [jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(LAYERS)]
    return {**params, "layers": layers}


def pieces(model, params):
    untied = [name for name in model.head_names if name not in model.embed_names]
    return [
        {name: params[name] for name in model.embed_names},
        *({"layers": layer} for layer in params["layers"]),
        {name: params[name] for name in untied},
    ]


def joined(found):
    embed, *layers, head = found
    return {**embed, "layers": [layer["layers"] for layer in layers], **head}


def by_piece(model, tx):
    """Training of a model whose layers are not stacked, piece by piece."""

    apply = applied(tx)

    def init(params):
        return [tx.init(piece) for piece in pieces(model, params)]

    def step(params, states, batch):
        loss, gradient = loss_and_gradient(model)(params, batch)
        found = map(apply, pieces(model, params), states, pieces(model, gradient))
        new, states = zip(*found, strict=True)
        return joined(new), list(states), loss

    return init, step


def adalomo(rate):
    return optax.adafactor(
        rate,
        min_dim_size_to_factor=1,
        decay_rate=0.8,
        clipping_threshold=1.0,
        momentum=None,
        weight_decay_rate=None,
        multiply_by_parameter_scale=True,
    )


OF_PIECES = {
    "adalomo": adalomo(0.1),
    "adalomo_schedule": adalomo(RATE),
    "muon_of_everything": optax.contrib.muon(RATE),
    "factored": optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=4),
        optax.clip_by_block_rms(0.5),
        optax.scale_by_param_block_rms(),
        optax.scale_by_learning_rate(RATE),
    ),
    "global_norm": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
    "group_norm": mo.sinkgd(0.1, axes=RULES, adam_clip_norm=0.1),
    "norm_of_the_step_before": optax.GradientTransformation(
        lambda params: {"norm": jnp.zeros(())},
        lambda g, s, p: (optax.tree.scale(-s["norm"], g), {"norm": optax.tree.norm(g)}),
    ),
    "finite": optax.apply_if_finite(optax.sgd(0.1), 3),
}
NOISY = {"noise": lambda: jax.random.key(0), "noise_of_a_seed": lambda: 0}  # keys are donated


def of_pieces(name):
    if name not in NOISY:
        return OF_PIECES[name]
    return optax.chain(optax.add_noise(0.1, 0.5, NOISY[name]()), optax.sgd(0.1))


@pytest.mark.parametrize(
    ("name", "tied"),
    [
        *((name, False) for name in (*OF_PIECES, *NOISY)),
        *((name, True) for name in ("adalomo", "global_norm", "norm_of_the_step_before", "noise")),
    ],
)
def test_what_is_taken_over_more_than_a_leaf_is_taken_over_a_piece(
    float64, rng, batches, name, tied
):
    """One optimizer with a state of its own for each layer, for embed and for head."""
    model, tx = TIED if tied else MODEL, of_pieces(name)
    params = tied_params(draw(rng)) if tied else draw(rng)
    want, states, want_losses = run(by_piece(model, tx), unstacked(params), batches)
    got, state, losses = run(compiled(model, tx), params, batches)
    chex.assert_trees_all_close(unstacked(got), want, rtol=1e-7, atol=1e-10)
    chex.assert_trees_all_close(losses, want_losses, rtol=1e-9)
    embed, *layers, head = states
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, LayerwiseState(embed, stacked, head))


@pytest.mark.parametrize("name", ["adalomo", "adalomo_schedule"])
def test_adalomo_is_that_of_a_model_of_unstacked_layers(float64, rng, batches, name):
    tx, params = OF_PIECES[name], draw(rng)
    want, _, want_losses = run(ordinary(MODEL, tx), unstacked(params), batches)
    got, _, losses = run(compiled(MODEL, tx), params, batches)
    chex.assert_trees_all_close((unstacked(got), losses), (want, want_losses), rtol=1e-7)


def test_clipping_by_the_global_norm_is_that_of_one_layer(float64, rng, batches):
    tx, params = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0)), draw(rng)
    new, _, _ = run(compiled(MODEL, tx), params, batches[:1])
    steps = jax.tree.map(np.subtract, new, params)
    for piece in pieces(MODEL, unstacked(steps)):
        assert float(optax.tree.norm(piece)) == pytest.approx(1e-3)


def test_a_layer_that_is_not_finite_is_skipped_alone(rng, batches):
    def bad_block(layer, state):  # an infinite gradient of one layer's gain, no infinite value
        root = jnp.sqrt(jnp.abs(layer["scale"] - 2.0))
        return {"x": state["x"] + 0.01 * root, "row": state["row"]}

    model, params = LayerwiseModel(embed, bad_block, head, head_names=("norm", "head")), draw(rng)
    params["layers"]["scale"] = params["layers"]["scale"].at[1].set(2.0)
    tx = optax.apply_if_finite(optax.sgd(0.1), 3)
    new, state, _ = run(compiled(model, tx), params, batches[:1])
    moved = np.any(np.asarray(new["layers"]["scale"] != params["layers"]["scale"]), axis=1)
    np.testing.assert_array_equal(moved, [True, False, True])
    np.testing.assert_array_equal(state.stack.last_finite, [True, False, True])


class TestRandomNumbers:
    TX = optax.chain(optax.set_to_zero(), optax.add_noise(1.0, 0.5, jax.random.key(0)))

    def noise(self, rng, batches, change=lambda state: state):
        params, training = draw(rng), layerwise_training(MODEL, self.TX)
        new, _, _ = jax.jit(training.step)(params, change(training.init(params)), batches[0])
        return new["layers"]["up"]["kernel"] - params["layers"]["up"]["kernel"]

    def test_are_the_same_in_all_layers(self, rng, batches):
        noise = self.noise(rng, batches)
        chex.assert_trees_all_close(noise, jnp.broadcast_to(noise[0], noise.shape), atol=1e-6)

    def test_differ_with_the_keys(self, rng, batches):
        def change(state):
            zero, added = state.stack
            added = added._replace(rng_key=jax.random.split(jax.random.key(1), LAYERS))
            return state._replace(stack=(zero, added))

        noise = self.noise(rng, batches, change)
        assert float(jnp.min(jnp.abs(noise[0] - noise[1]))) > 0


def test_rest_has_its_own_optimizer(float64, rng, batches):
    tx, rest, params = optax.sgd(0.1, momentum=0.9), optax.adam(RATE), draw(rng)
    labels = {"embed": "rest", "layers": "layers", "norm": "rest", "head": "rest"}
    both = optax.partition({"layers": tx, "rest": rest}, labels)
    want, _, _ = run(ordinary(MODEL, both), params, batches)
    got, state, _ = run(compiled(MODEL, tx, rest), params, batches)
    chex.assert_trees_all_close(got, want, rtol=1e-7, atol=1e-10)
    chex.assert_trees_all_equal_structs(state.embed, rest.init({"embed": params["embed"]}))
    chex.assert_trees_all_equal_structs(state.stack, tx.init({"layers": params["layers"]}))


@pytest.mark.parametrize("name", ["sinkgd", "sgd_momentum", "adam_mini"])
def test_bfloat16_weights(rng, batches, name):
    tx, params = OPTIMIZERS[name], draw(rng, jnp.bfloat16)
    want = run(ordinary(MODEL, tx), params, batches[:1])
    got = run(compiled(MODEL, tx), params, batches[:1])
    chex.assert_trees_all_equal_shapes_and_dtypes(got[0], want[0])
    for a, b in zip(*map(jax.tree.leaves, (got[0], want[0])), strict=True):
        a, b = np.float32(a), np.float32(b)
        # rounding to the one or the other neighbour, 2^-7 of a weight apart, in few of them
        assert np.all(np.abs(a - b) <= 2**-7 * np.maximum(np.abs(a), np.abs(b)))
        assert np.linalg.norm(a - b) <= 2**-8 * np.linalg.norm(b) / 2


@jax.tree_util.register_pytree_with_keys_class
class Frozen(Mapping):
    """A mapping that is no dictionary."""

    def __init__(self, **items):
        self.items_ = items

    def __getitem__(self, name):
        return self.items_[name]

    def __iter__(self):
        return iter(self.items_)

    def __len__(self):
        return len(self.items_)

    def tree_flatten_with_keys(self):
        names = sorted(self.items_)
        return [(jax.tree_util.DictKey(name), self.items_[name]) for name in names], tuple(names)

    @classmethod
    def tree_unflatten(cls, names, values):
        return cls(**dict(zip(names, values, strict=True)))


def test_mappings_keep_their_type(rng, batches):
    tx, plain = OPTIMIZERS["adamw"], draw(rng)
    params = Frozen(**plain)
    got, state, losses = run(compiled(MODEL, tx), params, batches)
    assert isinstance(got, Frozen)
    chex.assert_trees_all_equal_structs(state, layerwise_training(MODEL, tx).init(plain))
    want, _, plain_losses = run(compiled(MODEL, tx), plain, batches)
    chex.assert_trees_all_equal((dict(got), losses), (want, plain_losses))


def test_no_embedding_parameters_and_one_layer(float64, rng):
    model = LayerwiseModel(
        embed=lambda part, batch: batch,
        block=lambda w, x: jnp.tanh(x @ w),
        head=lambda part, x, batch: jnp.mean(x**2),
        embed_names=(),
        head_names=(),
    )
    tx = optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9)
    params, batch = {"layers": jnp.asarray(rng.standard_normal((1, 4, 4)))}, jnp.ones((2, 4))
    want, _, want_losses = run(ordinary(model, tx), params, [batch] * 2)
    got, state, losses = run(compiled(model, tx), params, [batch] * 2)
    chex.assert_trees_all_close((got, losses), (want, want_losses), rtol=1e-9)
    assert state.embed == state.head == optax.EmptyState()


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.05)])
def test_numbers_may_pass_through_the_layers(rng, dtype, rtol):
    """Such as an auxiliary loss, which is float32 whatever the weights are."""
    model = LayerwiseModel(
        embed=lambda p, batch: (batch @ p["embed"], 0.0),
        block=lambda w, x: (x[0] @ w["kernel"], x[1] + jnp.mean(x[0] ** 2)),
        head=lambda p, x, batch: jnp.mean((x[0] @ p["head"]) ** 2) + x[1].astype(dtype),
    )
    shapes = {"embed": (3, 4), "layers": (2, 4, 4), "head": (4, 1)}
    params = {name: jnp.asarray(rng.uniform(0.5, 1, s), dtype) for name, s in shapes.items()}
    params["layers"] = {"kernel": params["layers"]}

    def loss(params, batch):
        x, auxiliary = model.embed(params, batch)
        auxiliary = jnp.float32(auxiliary)
        for kernel in params["layers"]["kernel"]:
            x, auxiliary = model.block({"kernel": kernel}, (x, auxiliary))
        return model.head(params, (x, auxiliary), batch)

    init, step = layerwise_training(model, optax.sgd(0.5))
    batch = jnp.ones((2, 3), dtype)
    new, _, value = step(params, init(params), batch)
    want, gradient = jax.value_and_grad(loss)(params, batch)
    np.testing.assert_allclose(np.float32(value), np.float32(want), rtol=rtol)
    stepped = jax.tree.map(lambda w, g: w - 0.5 * g, params, gradient)
    for found, wanted in zip(jax.tree.leaves(new), jax.tree.leaves(stepped), strict=True):
        np.testing.assert_allclose(np.float32(found), np.float32(wanted), rtol=rtol)


def test_runs_without_jit(rng, batches):
    tx, params = OPTIMIZERS["sgd_momentum"], draw(rng)
    got = run(layerwise_training(MODEL, tx), params, batches[:1])
    chex.assert_trees_all_close(got, run(compiled(MODEL, tx), params, batches[:1]), atol=1e-5)


def lower(model, tx, params, state=None, batch=None):
    training = layerwise_training(model, tx)
    batch = jnp.zeros((2, 5), jnp.int32) if batch is None else batch
    return jax.jit(training.step).lower(
        params, training.init(params) if state is None else state, batch
    )


# For 16-bit weights jax before 0.11 chooses the CPU's program by a branch on a constant.
OLD = pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="a branch on the platform")


@pytest.mark.parametrize(
    "dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=OLD)], ids=["float32", "bfloat16"]
)
def test_program_for_cuda_has_no_branches(rng, dtype):
    training, params = layerwise_training(MODEL, optax.sgd(0.1)), draw(rng, dtype)
    batch = jnp.zeros((2, 5), jnp.int32)
    traced = jax.jit(training.step).trace(params, training.init(params), batch)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.while" in program
    assert not re.findall(r"stablehlo\.(?:case|if)\b", program)


class TestErrors:
    @pytest.mark.parametrize(
        ("state", "message"),
        [
            (
                lambda p: optax.trace(0.9).init(p),
                r"embed/trace/embed is absent instead of \(11, 6\)",
            ),
            (
                lambda p: layerwise_training(MODEL, optax.adam(0.1)).init(p),
                r"embed/trace/embed is absent .*; pass the state of the same layerwise_training",
            ),
            (
                lambda p: layerwise_training(TIED, optax.trace(0.9)).init(tied_params(p)),
                r"head/trace/head is absent instead of \(6, 11\) float32",
            ),
            (
                lambda p: jax.tree.map(
                    lambda x: x.astype(jnp.bfloat16),
                    layerwise_training(MODEL, optax.trace(0.9)).init(p),
                ),
                r"embed/trace/embed is \(11, 6\) bfloat16 instead of \(11, 6\) float32",
            ),
            (
                lambda p: layerwise_training(MODEL, optax.trace(0.9)).init(
                    draw(np.random.default_rng(0), layers=2)
                ),
                r"stack/trace/layers/down/kernel is \(2, 10, 6\) float32 instead of \(3, 10, 6\)",
            ),
        ],
        ids=["ordinary", "another_optimizer", "another_model", "another_dtype", "another_depth"],
    )
    def test_state_that_is_not_from_init(self, rng, state, message):
        params = draw(rng)
        with pytest.raises(ValueError, match=message):
            lower(MODEL, optax.trace(0.9), params, state(params))

    def test_state_of_the_ordinary_step_without_leaves(self, rng):
        tx, params = optax.sgd(0.1), draw(rng)
        with pytest.raises(ValueError, match=r"it is PyTreeDef.* instead of .*LayerwiseState"):
            lower(MODEL, tx, params, tx.init(params))

    def test_more_state_than_there_should_be(self, rng):
        params = draw(rng)
        state = layerwise_training(MODEL, optax.trace(0.9)).init(params)
        with pytest.raises(ValueError, match=r"embed/trace/embed is \(11, 6\) float32 .* absent"):
            lower(MODEL, optax.sgd(0.1), params, state)

    def test_state_that_changes(self, rng):
        def update(g, state, params):
            return g, jax.tree.map(lambda x: x.astype(jnp.float16), state)

        tx = optax.GradientTransformation(lambda p: {"a": jnp.zeros(2)}, update)
        message = (
            r"changes the form of the optimizer's state: a is \(2,\) float16 instead of \(2,\)"
        )
        with pytest.raises(ValueError, match=message):
            lower(MODEL, tx, draw(rng))

    def test_masks_that_are_trees(self, rng):
        params = draw(rng)
        tx = optax.masked(optax.sgd(0.1), jax.tree.map(lambda x: True, params))
        with pytest.raises(
            ValueError, match=r"cannot be initialised for the parameters \['embed'\] alone.*masks"
        ):
            lower(MODEL, tx, params)

    def test_rules_for_the_stack_alone(self, rng):
        rules = [(r"layers/.*kernel", mo.MatrixAxes(output=2, input=1)), (r".*", None)]
        with pytest.raises(
            ValueError, match=r"for one layer \['layers'\] alone .*kernel \(10, 6\)"
        ):
            lower(MODEL, mo.sinkgd(0.1, axes=rules), draw(rng))

    @pytest.mark.parametrize(
        "change", [lambda p: p.pop("norm"), lambda p: p.update(other=jnp.ones(2))]
    )
    def test_other_names(self, rng, change):
        params = draw(rng)
        change(params)
        with pytest.raises(
            ValueError, match=r"\['embed', 'head', 'layers', 'norm'\] by embed_names"
        ):
            lower(MODEL, optax.sgd(0.1), params)

    def test_no_mapping(self, rng):
        with pytest.raises(ValueError, match=r"but params are list"):
            lower(MODEL, optax.sgd(0.1), list(draw(rng).values()))

    @pytest.mark.parametrize(
        ("stack", "message"),
        [
            (
                {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))},
                r"layers/a \(2, 3\), layers/b \(3, 3\):",
            ),
            ({"a": jnp.ones(())}, r"layers/a \(\): the leaves of the stack"),
            ({"a": jnp.ones((0, 3))}, r"layers/a \(0, 3\): the leaves"),
            ({}, r"'layers' has no leaves: the leaves"),
        ],
        ids=["unequal", "scalar", "no_layers", "empty"],
    )
    def test_no_common_leading_axis(self, rng, stack, message):
        with pytest.raises(ValueError, match=message):
            lower(MODEL, optax.sgd(0.1), {**draw(rng), "layers": stack})

    def test_integer_parameters(self, rng):
        params = draw(rng)
        params["layers"]["number"] = jnp.arange(LAYERS)
        with pytest.raises(TypeError, match=r"layers/number \(3,\): int32 has no gradient"):
            lower(MODEL, optax.sgd(0.1), params)

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (
                lambda p, x, b: x["x"].mean(0),
                r"scalar-output functions. Output had shape: \(4, 6\)",
            ),
            (lambda p, x, b: b.sum(), r"real-valued outputs .* got int32"),
        ],
        ids=["array", "integer"],
    )
    def test_loss_that_is_none(self, rng, loss, message):
        model = LayerwiseModel(embed, block, loss, head_names=("norm", "head"))
        with pytest.raises(TypeError, match=message):
            lower(model, optax.sgd(0.1), draw(rng))

    def test_names_that_make_no_sense(self):
        with pytest.raises(TypeError, match="embed_names is a string, 'embed'"):
            LayerwiseModel(embed, block, head, embed_names="embed")
        with pytest.raises(ValueError, match="head_names names the stack of layers, 'layers'"):
            LayerwiseModel(embed, block, head, head_names=("layers",))


EXPLICIT = {"tensor": P("data", None, "tensor"), "model": P("data", None, None)}


def spread_block(layer, x):
    """The arguments say where results lie, as explicit sharding wants it."""
    inner = jnp.einsum(
        "btd,df->btf", x * layer["scale"], layer["up"], out_sharding=EXPLICIT["tensor"]
    )
    return x + jnp.einsum(
        "btf,fd->btd", jax.nn.silu(inner), layer["down"], out_sharding=EXPLICIT["model"]
    )


@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit], ids=lambda mode: mode.name)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("sinkgd", jnp.float32), ("adamw", jnp.float32), ("sgd_momentum", jnp.bfloat16)],
)
@pytest.mark.devices(8)
def test_sharded_weights_stay_where_they_are(rng, name, dtype, mode):
    layers, width, inner = 4, 16, 32
    rules = [(r"layers/(up|down)", mo.MatrixAxes(output=-1, input=-2)), (".*", None)]
    tx = mo.sinkgd(RATE, axes=rules, momentum=0.9) if name == "sinkgd" else OPTIMIZERS[name]
    model = LayerwiseModel(
        embed=lambda p, batch: batch * p["embed"],
        block=spread_block if mode == AxisType.Explicit else plain_block,
        head=lambda p, x, batch: jnp.mean((x * p["head"] - 1) ** 2),
    )
    params = {
        "embed": jnp.ones(width),
        "layers": {
            "up": jnp.asarray(rng.standard_normal((layers, width, inner)), jnp.float32) / 4,
            "down": jnp.asarray(rng.standard_normal((layers, inner, width)), jnp.float32) / 4,
            "scale": jnp.ones((layers, width)),
        },
        "head": jnp.ones(width),
    }
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    batch = jnp.asarray(rng.standard_normal((8, 4, width)), dtype)
    alone = dataclasses.replace(model, block=plain_block)
    want, _, want_losses = run(ordinary(alone, tx), params, [batch] * 2)

    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(mode, mode))
    specs = {"up": P(None, None, "tensor"), "down": P(None, "tensor", None)}
    with jax.set_mesh(mesh):

        def place(path, leaf):
            spec = next((s for n, s in specs.items() if n in str(path[-1])), P(*[None] * leaf.ndim))
            return jax.device_put(leaf, NamedSharding(mesh, spec))

        spread = jax.tree.map_with_path(place, params)
        training = layerwise_training(model, tx)
        state = jax.tree.map_with_path(place, training.init(params))
        rows = jax.device_put(batch, NamedSharding(mesh, P("data")))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, (spread, state))
        step = jax.jit(
            training.step,
            donate_argnums=(0, 1),
            out_shardings=(*shardings, NamedSharding(mesh, P())),
        )
        program = step.lower(spread, state, rows).compile()
        losses = []
        for _ in range(2):
            spread, state, loss = program(spread, state, rows)
            losses.append(loss)
    rounding = 1e-4 if dtype == jnp.float32 else 2**-5
    chex.assert_trees_all_close((spread, losses), (want, want_losses), atol=rounding, rtol=rounding)
    # whatever is sent between devices, no weight is: a device has half of each
    for kind in ("all-gather", "all-to-all", "collective-permute"):
        sizes = [
            np.prod([int(n) for n in dims.split(",") if n], dtype=int)
            for dims in re.findall(rf"\w\[([\d,]*)\]\S* {kind}", program.as_text())
        ]
        assert all(size < width * inner // 2 for size in sizes), kind


def plain_block(layer, x):
    return x + jax.nn.silu((x * layer["scale"]) @ layer["up"]) @ layer["down"]


@pytest.mark.parametrize(("name", "share"), [("sinkgd", 0.2), ("sgd", 0.2), ("adamw", 0.25)])
def test_no_stack_is_copied_and_temporary_memory_is_small(name, share):
    rng = np.random.default_rng(0)
    params = jax.eval_shape(lambda: draw(rng, jnp.float32, 24, 128, 344, 256))
    batch = jax.ShapeDtypeStruct((1, 17), jnp.int32)
    tx = OPTIMIZERS[name]
    init, step = compiled(MODEL, tx)
    program = step.lower(params, jax.eval_shape(init, params), batch).compile()
    weights = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    plan = program.memory_analysis()
    # an ordinary step has at least all gradients
    assert plan.temp_size_in_bytes < share * weights
    assert plan.alias_size_in_bytes >= weights
    assert not re.findall(r"f32\[24,(128|344),\d+\]\S* copy\(", program.as_text())


def test_no_stack_of_bfloat16_is_converted():
    rng = np.random.default_rng(0)
    params = jax.eval_shape(lambda: draw(rng, jnp.bfloat16, 24, 128, 344, 256))
    batch = jax.ShapeDtypeStruct((1, 17), jnp.int32)
    init, step = compiled(MODEL, optax.sgd(0.1))
    program = step.lower(params, jax.eval_shape(init, params), batch)
    assert not re.findall(r"f32\[24,(128|344),\d+\]", program.compile().as_text())
