"""LDAdam against a literal float64 version, and what its subspace promises."""

import functools
import math

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import multinorm_optax as mo
from examples.llama.model import LLAMA_RULES, abstract_llama
from examples.llama.presets import PRESETS
from examples.measure.exchanges import collectives
from tests import reference
from tests.layouts import LAYOUTS

KERNEL = mo.MatrixAxes(output=-1, input=-2)
TESTED = {name: LAYOUTS[name] for name in ("torch", "square", "stack_middle", "query")}
AXES = [*((name, layout.axes) for name, layout in TESTED.items()), ("bias", None)]


def draw(rng, steps):
    """Weights, and gradients of each step stacked, with a part in common."""
    shapes = {name: layout.shape for name, layout in TESTED.items()} | {"bias": (5,)}
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    common = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    noise = {name: rng.standard_normal((steps, *shape)) for name, shape in shapes.items()}
    return params, {name: common[name] + noise[name] for name in shapes}


@functools.partial(jax.jit, static_argnums=0)
def train(tx, params, gradients):
    """Parameters after each step, and the last state."""

    def step(carry, gradient):
        params, state = carry
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), trajectory = jax.lax.scan(step, (params, tx.init(params)), gradients)
    return trajectory, state


@functools.partial(jax.jit, static_argnums=0)
def directions(tx, gradients):
    """The updates of each step, without parameters, and the last state."""

    def step(state, gradient):
        updates, state = tx.update(gradient, state)
        return state, updates

    first = jax.tree.map(lambda g: g[0], gradients)
    state, updates = jax.lax.scan(step, tx.init(first), gradients)
    return updates, state


def literal(layout, params, gradients, **options):
    """The trajectory of every matrix by itself, in the weight's layout."""
    stacks = []
    for index in range(len(layout.matrices(params))):
        step = functools.partial(reference.ldadam_step, **options)
        own = [layout.matrices(g)[index] for g in gradients]
        stacks.append(reference.fit(step, layout.matrices(params)[index], own))
    return [layout.weight(matrices) for matrices in zip(*stacks, strict=True)]


RATE = optax.cosine_decay_schedule(0.1, 60)
CASES = {
    "defaults": ({}, {}),
    "without_feedback": ({"error_feedback": False}, {"feedback": False}),
    # of a short first and a long second moment the variance is often negative
    "options": (
        {"rank": 3, "b1": 0.5, "b2": 0.98, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.3},
        {"r": 3, "b1": 0.5, "b2": 0.98, "rho": 0.5, "eps": 1e-3, "decay": 0.3},
    ),
    "schedule": (
        {"learning_rate": RATE, "rank": 1},
        {"rate": lambda t: float(RATE(t - 1)), "r": 1},
    ),
}


def compare(case, params, gradients, dtype, compare_one):
    options, wanted = CASES[case]
    wanted = {"rate": lambda t: 0.1, "r": 2, **wanted}
    tx = mo.ldadam(**{"learning_rate": 0.1, "axes": AXES, "rank": 2, **options})
    cast = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, dtype))
    found, _ = train(tx, cast(params), cast(gradients))
    for name, layout in TESTED.items():
        want = literal(layout, params[name], gradients[name], **wanted)
        compare_one(np.asarray(found[name], float), np.stack(want), params[name], name)
    adam = functools.partial(reference.adam_step, rate=wanted["rate"], b1=0.908, b2=0.99)
    want = np.stack(reference.fit(adam, params["bias"], gradients["bias"]))
    compare_one(np.asarray(found["bias"], float), want, params["bias"], "bias")


@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_of_the_literal_version(float64, rng, case):
    def compare_one(found, want, start, name):
        # optax computes schedules in float32, whatever the dtype of the parameters
        atol = 1e-6 if case == "schedule" else 1e-9
        np.testing.assert_allclose(found, want, rtol=0, atol=atol, err_msg=name)

    compare(case, *draw(rng, 50), jnp.float64, compare_one)


@pytest.mark.parametrize("case", ["defaults", "without_feedback"])
def test_twenty_steps_in_float32(rng, case):
    def compare_one(found, want, start, name):
        # V is a difference of squares, known to the epsilon of the largest: its root, by which is
        # divided, to the root of the epsilon. That much of every step may be wrong.
        moved = np.linalg.norm(np.diff(want, axis=0, prepend=start[None]).reshape(20, -1), axis=1)
        wrong = np.linalg.norm((found - want).reshape(20, -1), axis=1)
        assert np.all(wrong <= np.sqrt(np.finfo(np.float32).eps) * np.cumsum(moved)), name

    compare(case, *draw(rng, 20), jnp.float32, compare_one)


THREE = mo.scale_by_ldadam(KERNEL, 3)
update_three = jax.jit(THREE.update)


class TestSubspace:
    def test_of_one_row_is_adam(self, float64, rng):
        gradients = {"kernel": rng.standard_normal((20, 7, 1))}
        axes = mo.MatrixAxes(output=1, input=0)
        found, state = directions(mo.scale_by_ldadam(axes, rank=1, b1=0.8), gradients)
        want, _ = directions(optax.scale_by_adam(0.8, 0.99), gradients)
        np.testing.assert_allclose(found["kernel"], want["kernel"], rtol=1e-9)
        np.testing.assert_allclose(state.error["kernel"], 0, atol=1e-14)

    def test_of_steady_directions_is_adam_along_them(self, float64, rng):
        U, _ = np.linalg.qr(rng.standard_normal((5, 5)))
        V, _ = np.linalg.qr(rng.standard_normal((8, 5)))
        along = rng.uniform(1, 2, (20, 5))[:, :, None] * np.array([16, 8, 4, 2, 1])[:, None] * V.T
        axes = mo.MatrixAxes(output=0, input=1)
        found, _ = directions(mo.scale_by_ldadam(axes, 5), U @ along)
        want, _ = directions(optax.scale_by_adam(0.908, 0.99), along)
        np.testing.assert_allclose(found, U @ want, atol=1e-9)

    def test_of_full_rank_leaves_no_error(self, float64, rng):
        gradients = {"kernel": rng.standard_normal((10, 6, 4))}
        found, state = directions(mo.scale_by_ldadam(rank=4, rho=0), gradients)
        without = mo.scale_by_ldadam(rank=4, rho=0, error_feedback=False)
        want, _ = directions(without, gradients)
        np.testing.assert_allclose(found["kernel"], want["kernel"], atol=1e-10)
        np.testing.assert_allclose(state.error["kernel"], 0, atol=1e-13)

    @hypothesis.given(signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3))
    def test_signs_of_its_basis_do_not_matter(self, signs):
        signs = np.array(signs)
        with jax.enable_x64(True):
            gradients = np.random.default_rng(0).standard_normal((6, 3, 8, 5))
            _, state = directions(THREE, gradients[:3])
            flipped = state._replace(basis=state.basis * signs, mu=state.mu * signs[:, None])
            for gradient in gradients[3:]:
                want, state = update_three(gradient, state)
                found, flipped = update_three(gradient, flipped)
                np.testing.assert_allclose(found, want, atol=1e-10)

    @hypothesis.given(exponent=st.integers(-60, 60))
    def test_does_not_depend_on_the_scale_of_gradients(self, exponent):
        gradients = np.float32(np.random.default_rng(0).standard_normal((4, 8, 5)))
        _, want = directions(THREE, gradients)
        _, found = directions(THREE, gradients * np.float32(2.0**exponent))
        np.testing.assert_array_equal(found.basis, want.basis)

    def test_follows_small_singular_values(self, rng):
        (U, _), (V, _) = (np.linalg.qr(rng.standard_normal((n, 8))) for n in (40, 60))
        condition, rounding = 1e4, np.finfo(np.float32).eps
        sizes = np.concatenate([np.geomspace(1, 1 / condition, 6), [1e-7, 1e-8]])
        G, turn = np.float32(U * sizes @ V.T), np.linalg.qr(rng.standard_normal((6, 6)))[0]
        turned = np.float32(U[:, :6] @ turn)  # every direction holds some of the largest one
        tx = mo.scale_by_ldadam(mo.MatrixAxes(output=0, input=1), 6)
        state = tx.init(G)._replace(count=jnp.ones([], jnp.int32), basis=turned)
        _, state = jax.jit(tx.update)(G, state)

        def outside(basis):
            return np.linalg.norm(basis - U[:, :6] @ (U[:, :6].T @ basis), 2)

        assert outside(np.asarray(state.basis)) <= condition * rounding
        # without a Q-factor between the products it would be the condition number's square
        assert outside(np.linalg.qr(G @ (G.T @ turned))[0]) > 10 * condition * rounding

    @pytest.mark.parametrize("rank", [1, 2, 4])
    def test_has_an_orthonormal_basis_whatever_the_gradient(self, rng, rank):
        one = np.float32(rng.standard_normal((4, 6)))
        kinds = [one, 0 * one, np.outer(one[:, 0], one[0]), np.eye(4, 6), 1e-30 * one, 1e30 * one]
        gradients = np.float32([kinds, kinds[::-1], kinds])
        updates, state = directions(mo.scale_by_ldadam(KERNEL, rank), gradients)
        assert np.all(np.isfinite(updates))
        gram = np.swapaxes(state.basis, -1, -2) @ state.basis
        np.testing.assert_allclose(gram, np.broadcast_to(np.eye(rank), gram.shape), atol=1e-6)


class TestNumerics:
    def test_zero_gradients_then_others(self, rng):
        G = np.float32(rng.standard_normal((3, 6, 4)))
        updates, _ = directions(mo.scale_by_ldadam(KERNEL, 2), np.concatenate([0 * G, G]))
        np.testing.assert_array_equal(updates[:3], 0)
        assert np.all(np.isfinite(updates))
        assert np.all(np.linalg.norm(updates[3:], axis=(1, 2)) > 0.1)

    def test_moments_over_and_underflow_as_in_adam(self, rng):
        gradients = np.float32(rng.standard_normal((5, 2, 6, 4)))
        gradients = gradients * np.float32([1e-36, 1e36])[:, None, None]
        updates, state = directions(mo.scale_by_ldadam(KERNEL, 2), gradients)
        # 1e-36 over eps; over infinity
        assert 0 < np.max(np.abs(updates[:, 0])) < 1e-26
        np.testing.assert_array_equal(updates[:, 1], 0)
        assert np.all(np.isfinite(state.error))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("at", [0, 2])
    def test_nan_and_infinity_reach_the_update(self, rng, bad, at):
        gradients = np.float32(rng.standard_normal((4, 6, 4)))
        gradients[at, 1, 2] = bad
        updates, _ = directions(mo.scale_by_ldadam(KERNEL, 2), gradients)
        assert np.all(np.isfinite(updates[:at]))
        assert np.all(np.isnan(updates[at]).any(axis=(-1, -2)))

    def test_bfloat16_gradients_have_float32_arithmetic(self, rng):
        gradients = jnp.asarray(rng.standard_normal((5, 6, 4)), jnp.bfloat16)
        tx = mo.scale_by_ldadam(KERNEL, 2)
        updates, state = directions(tx, gradients)
        want, _ = directions(tx, gradients.astype(jnp.float32))
        assert updates.dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in state[1:]} == {jnp.dtype(jnp.float32)}
        # one rounding of the update, to 8 bits
        np.testing.assert_allclose(np.float32(updates), want, rtol=2**-8, atol=1e-5)

    def test_complex_gradients_turn_with_their_phase(self, float64, rng):
        real = rng.standard_normal((5, 6, 4))
        tx = mo.scale_by_ldadam(KERNEL, 2)
        want, _ = directions(tx, real)
        for phase in (1, 1j, np.exp(0.7j)):
            found, state = directions(tx, phase * real)
            np.testing.assert_allclose(found, phase * want, atol=1e-10)
            assert state.nu.dtype == jnp.float64


class TestState:
    @pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (3, 6, 4), (2, 3, 8, 5)], ids=str)
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
    def test_bytes(self, shape, dtype):
        m, n = sorted(shape[-2:])
        stack, rank = math.prod(shape[:-2]), 3
        for error_feedback in (False, True):
            tx = mo.scale_by_ldadam(KERNEL, rank, error_feedback=error_feedback)
            state = jax.eval_shape(tx.init, jax.ShapeDtypeStruct(shape, dtype))
            *leaves, count = sorted(jax.tree.leaves(state), key=lambda leaf: -leaf.ndim)
            found = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
            assert found == 4 * stack * (2 * rank * n + rank * m + error_feedback * m * n)
            assert (count.shape, count.dtype) == ((), jnp.int32)

    @pytest.mark.parametrize(
        ("preset", "without", "with_feedback"),
        [
            ("60m", 1.16, 1.60),
            ("130m", 0.77, 1.40),
            ("350m", 0.39, 1.21),
            ("1b", 0.21, 1.12),
            ("7b", 0.09, 1.05),
        ],
    )
    def test_numbers_per_parameter_of_the_papers_models(self, preset, without, with_feedback):
        _, params = abstract_llama(PRESETS[preset].setup.model)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        for error_feedback, want in ((False, without), (True, with_feedback)):
            tx = mo.ldadam(axes=LLAMA_RULES, error_feedback=error_feedback)
            state = jax.eval_shape(tx.init, params)
            assert round(sum(leaf.size for leaf in jax.tree.leaves(state)) / size, 2) == want

    def test_a_saved_state_continues_bit_by_bit(self, rng):
        params, gradients = draw(rng, 6)
        params, gradients = jax.tree.map(np.float32, (params, gradients))
        tx = mo.ldadam(optax.linear_schedule(0.1, 0.0, 6), axes=AXES, rank=2, weight_decay=0.1)

        @jax.jit
        def step(gradient, state, params):
            updates, state = tx.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        def run(params, state, numbers):
            for number in numbers:
                gradient = {name: each[number] for name, each in gradients.items()}
                params, state = step(gradient, state, params)
            return params, state

        middle = run(params, jax.jit(tx.init)(params), range(3))
        leaves, structure = jax.tree.flatten(middle)
        copies = [jnp.asarray(np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape)) for x in leaves]
        again = run(*jax.tree.unflatten(structure, copies), range(3, 6))
        chex.assert_trees_all_equal(again, run(*middle, range(3, 6)))

    def test_without_feedback_has_no_error(self):
        state = mo.scale_by_ldadam(rank=2, error_feedback=False).init({"kernel": jnp.ones((4, 3))})
        assert jax.tree.leaves(state.error) == []


class TestComposition:
    def test_masked_partition_and_chain(self, rng):
        tree = {"a": {"kernel": jnp.float32(rng.standard_normal((6, 4)))}, "bias": jnp.ones(3)}
        tx = mo.scale_by_ldadam(rank=2)
        kernel = {"a": tree["a"]}
        want, _ = jax.jit(tx.update)(kernel, tx.init(kernel))
        mask = {"a": True, "bias": False}
        groups = {"matrix": tx, "adam": optax.identity()}
        for composed in (
            optax.masked(tx, mask),
            optax.partition(groups, mo.group_labels()),
            optax.chain(optax.identity(), optax.masked(tx, mask)),
        ):
            updates, _ = jax.jit(composed.update)(tree, composed.init(tree))
            chex.assert_trees_all_close(updates, {**want, "bias": tree["bias"]}, atol=1e-6)

    def test_rank_by_path(self):
        tree = {name: {"kernel": jnp.ones((6, 4))} for name in ("up", "down")} | {"b": jnp.ones(3)}
        for rank in ([("up/.*", 3), (".*/kernel", 1)], {"up": 3, "down": 1}):
            state = mo.ldadam(rank=rank).init(tree)
            shapes = {leaf.shape for leaf in jax.tree.leaves(optax.tree.get(state, "basis"))}
            assert shapes == {(4, 3), (4, 1)}

    def test_injected_hyperparameters(self, rng):
        static = ("axes", "rank", "error_feedback", "weight_decay_mask")
        make = optax.inject_hyperparams(mo.ldadam, static_args=static)
        rate, tree = optax.linear_schedule(1e-2, 0.0, 10), {"kernel": jnp.eye(6, 4)}
        tx, plain = make(rate, rank=2, weight_decay=0.1), mo.ldadam(rate, rank=2, weight_decay=0.1)
        found, state = train(tx, tree, jax.tree.map(lambda x: x[None], tree))
        want, _ = train(plain, tree, jax.tree.map(lambda x: x[None], tree))
        chex.assert_trees_all_close(found, want, atol=1e-7)
        assert float(state.hyperparams["rho"]) == pytest.approx(0.908)

    def test_empty_stacks(self):
        tx, tree = mo.scale_by_ldadam(KERNEL, 2), jnp.zeros((0, 4, 5))
        updates, state = tx.update(tree, tx.init(tree))
        assert updates.shape == (0, 4, 5)
        assert state.mu.shape == (0, 2, 5)


class TestErrors:
    @pytest.mark.parametrize("rank", [0, 5])
    def test_rank_beyond_the_smaller_side(self, rank):
        tree = {"up": {"kernel": jnp.ones((3, 6, 4))}}
        axes = [("up/kernel", KERNEL)]
        message = rf"up/kernel \(3, 6, 4\): rank {rank} of matrices 4 x 6 is not in 1, ..., 4"
        with pytest.raises(ValueError, match=message):
            mo.scale_by_ldadam(axes, rank).init(tree)

    def test_no_rank(self):
        tree = {name: {"kernel": jnp.ones((6, 4))} for name in ("up", "down")}
        with pytest.raises(ValueError, match=r"down/kernel \(6, 4\)\nno rule gives its rank"):
            mo.ldadam(rank=[("up/.*", 3)]).init(tree)

    @pytest.mark.parametrize(
        ("rank", "text"),
        [([("up", 1)], r'\(r"down", 1\)'), ({"up": 1}, "`rank` is a tree without")],
    )
    def test_no_rank_for_a_weight_of_one_entry(self, rank, text):
        weights = dict.fromkeys(("up", "down"), jnp.ones((1, 1)))
        with pytest.raises(ValueError, match=text):
            mo.scale_by_ldadam(KERNEL, rank).init(weights)

    @pytest.mark.parametrize("rank", [2.0, True, "2", [(".*", 2.5)]], ids=str)
    def test_rank_that_is_no_integer(self, rank):
        with pytest.raises(TypeError, match=r"rank.* got? ?|int"):
            mo.ldadam(rank=rank).init({"kernel": jnp.ones((6, 4))})

    def test_traced_rank(self):
        tx = optax.inject_hyperparams(mo.ldadam)(1e-3, rank=2)
        with pytest.raises(TypeError, match=r"rank must not be an array.*static_args"):
            tx.init({"kernel": jnp.ones((6, 4))})

    def test_what_is_no_matrix(self):
        with pytest.raises(ValueError, match=r"bias \(3,\): this leaf is not a matrix"):
            mo.scale_by_ldadam(rank=1).init({"bias": jnp.ones(3)})


MODES = [AxisType.Auto, AxisType.Explicit]
SPREAD = {
    "input": ((16, 8), P("fsdp", None)),
    "output": ((16, 8), P(None, "fsdp")),
    "both": ((8, 16), P("fsdp", "tensor")),
    "stacked": ((3, 16, 8), P(None, "fsdp", "tensor")),
    "heads": ((16, 2, 8), P("fsdp", "tensor", None)),
}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.devices(8)
class TestSharding:
    def run(self, mode, cases):
        """Five steps on one device and on a mesh, and the program of the latter."""
        mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(mode, mode))
        axes = [("heads", mo.MatrixAxes((1, 2), 0)), (".*", KERNEL)]
        tx, rng = mo.scale_by_ldadam(axes, 3), np.random.default_rng(0)
        gradients = {c: np.float32(rng.standard_normal((5, *SPREAD[c][0]))) for c in cases}
        specs = {case: P(None, *SPREAD[case][1]) for case in cases}
        want = directions(tx, gradients)

        def steps(gradients):
            first = jax.tree.map(lambda g: g[0], gradients)
            return jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], tx.init(first), gradients)

        with jax.set_mesh(mesh):
            spread = jax.tree.map(
                lambda g, s: jax.device_put(g, NamedSharding(mesh, s)), gradients, specs
            )
            compiled = jax.jit(steps).lower(spread).compile()
            state, updates = compiled(spread)
        return (updates, state), want, compiled.as_text()

    def test_result_of_one_device(self, mode):
        found, want, _ = self.run(mode, tuple(SPREAD))
        chex.assert_trees_all_close(found, want, atol=1e-4)

    def test_whole_weights_are_gathered_for_the_first_basis_alone(self, mode):
        _, _, program = self.run(mode, ("both",))
        arrays = [array for each in collectives(program) for array in each.arrays]
        assert sum(array.size >= 8 * 16 for array in arrays) <= 1


def test_a_suggested_rank_fits_matrices_of_one_row():
    params = {"a": {"kernel": jnp.ones((1, 5))}, "b": {"kernel": jnp.ones((4, 6))}}
    axes = mo.MatrixAxes(output=-1, input=-2)
    with pytest.raises(ValueError, match=r'\(r"a/kernel", 1\)'):
        mo.scale_by_ldadam(axes, rank=[("b.*", 2)]).init(params)
    mo.scale_by_ldadam(axes, rank=[("a/kernel", 1), ("b.*", 2)]).init(params)
