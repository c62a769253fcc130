"""Cautious weight decay against the rule of its paper, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo

MAKERS = {
    "sinkgd": mo.sinkgd,
    "swan": mo.swan,
    "mngd": lambda rate, **options: mo.mngd(rate, [mo.RowNorm()], **options),
    "ldadam": lambda rate, **options: mo.ldadam(rate, rank=2, **options),
    "adam_mini": lambda rate, **options: mo.adam_mini(
        rate, blocks=mo.flax_blocks(None), weight_decay_mask=True, **options
    ),
}
RATE, DECAY = 0.1, 0.3


def decays(name, weight_decay):
    several = {} if name == "adam_mini" else {"adam_weight_decay": weight_decay}
    return {"weight_decay": weight_decay, **several}


def update(tx, gradients, params):
    return jax.jit(tx.update)(gradients, tx.init(params), params)[0]


def tree(rng, dtype=np.float64):
    """A matrix and a vector with zeros among the weights and the gradients."""
    params = {"dense": {"kernel": rng.standard_normal((6, 4)), "bias": rng.standard_normal(8)}}
    gradients = jax.tree.map(lambda x: rng.standard_normal(x.shape), params)
    params["dense"]["bias"][0] = gradients["dense"]["bias"][1] = 0
    return (jax.tree.map(lambda x: jnp.asarray(x, dtype), each) for each in (params, gradients))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("schedule", [False, True], ids=["number", "schedule"])
def test_decays_where_direction_and_weight_agree(float64, rng, name, schedule):
    params, gradients = tree(rng)
    rate = 1.0 if name in ("ldadam", "adam_mini") else 0.05
    decay = optax.constant_schedule(DECAY) if schedule else DECAY
    plain = update(MAKERS[name](RATE), gradients, params)
    tx = MAKERS[name](RATE, cautious_weight_decay=True, **decays(name, decay))
    found = update(tx, gradients, params)
    for leaf, alpha in (("kernel", rate), ("bias", 1.0)):
        u, w = (np.asarray(each["dense"][leaf]) for each in (plain, params))
        u = -u / (alpha * RATE)  # the direction, which is subtracted
        want = -alpha * RATE * (u + DECAY * (u * w >= 0) * w)
        np.testing.assert_allclose(found["dense"][leaf], want, rtol=1e-6, atol=1e-9)
        assert 0 < np.mean(u * w >= 0) < 1


@pytest.mark.parametrize("name", MAKERS)
def test_without_decay_it_changes_nothing_and_needs_no_parameters(rng, name):
    params, gradients = tree(rng, np.float32)
    for options in ({}, {"cautious_weight_decay": True}):
        tx = MAKERS[name](RATE, **options)
        state = tx.init(params)
        updates, _ = tx.update(gradients, state)
        found = [*jax.tree.leaves(updates), *jax.tree.leaves(state)]
        want = found if not options else want  # noqa: F821
        for one, other in zip(found, want, strict=True):
            np.testing.assert_array_equal(one, other)


def test_state_is_that_of_plain_decay(rng):
    params, _ = tree(rng, np.float32)
    schedule = optax.constant_schedule(DECAY)
    plain, cautious = (
        mo.sinkgd(RATE, weight_decay=schedule, cautious_weight_decay=each).init(params)
        for each in (False, True)
    )
    assert jax.tree.structure(plain) == jax.tree.structure(cautious)


def test_mask_and_parameters_as_for_plain_decay(rng):
    params, gradients = tree(rng, np.float32)
    mask = {"dense": {"kernel": False, "bias": True}}
    options = {"weight_decay": DECAY, "adam_weight_decay": DECAY, "cautious_weight_decay": True}
    plain = update(mo.sinkgd(RATE), gradients, params)
    for each in (mask, lambda _: mask):
        found = update(mo.sinkgd(RATE, weight_decay_mask=each, **options), gradients, params)
        np.testing.assert_array_equal(found["dense"]["kernel"], plain["dense"]["kernel"])
        assert np.any(found["dense"]["bias"] != plain["dense"]["bias"])
    tx = mo.sinkgd(RATE, **options)
    with pytest.raises(ValueError, match="params"):
        tx.update(gradients, tx.init(params))


def test_tiny_entries_of_opposite_signs_do_not_decay():
    weights = {"bias": jnp.asarray([1e-30, -1e-30, 1e-30, -1e-30])}
    gradient = {"bias": jnp.asarray([1e-35, 1e-35, -1e-35, -1e-35])}
    options = {"adam_b1": 0.0, "adam_b2": 0.0, "adam_eps": 1.0, "adam_learning_rate": 1.0}
    tx = mo.sinkgd(adam_weight_decay=0.5, cautious_weight_decay=True, **options)
    found = update(tx, gradient, weights)["bias"]
    want = [-0.5e-30, 0, 0, 0.5e-30]
    np.testing.assert_allclose(found, want, atol=1e-34)


def test_real_and_imaginary_parts_decay_apart(rng):
    weight = rng.standard_normal(16) + 1j * rng.standard_normal(16)
    gradient = rng.standard_normal(16) + 1j * rng.standard_normal(16)
    params, gradients = ({"bias": jnp.asarray(x, jnp.complex64)} for x in (weight, gradient))
    plain = update(mo.sinkgd(RATE), gradients, params)["bias"]
    tx = mo.sinkgd(RATE, adam_weight_decay=DECAY, cautious_weight_decay=True)
    change = np.asarray(update(tx, gradients, params)["bias"] - plain) / (-RATE * DECAY)
    for part in (np.real, np.imag):
        want = np.where(part(-np.asarray(plain)) * part(weight) >= 0, part(weight), 0)
        np.testing.assert_allclose(part(change), want, rtol=1e-4, atol=1e-5)
