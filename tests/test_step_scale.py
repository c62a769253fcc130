"""The scale of a matrix's step against optax's Muon, and what it bounds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo

RATE = 0.3
SHAPES = {"tall": (32, 48), "wide": (48, 32), "square": (24, 24)}  # flax kernels (in, out)
EXACT = [mo.SpectralNorm(mo.exact_svd())]


def gradients(rng):
    return {name: {"kernel": jnp.asarray(rng.standard_normal(s))} for name, s in SHAPES.items()}


def update(tx, gradient, params=None):
    return jax.jit(tx.update)(gradient, tx.init(gradient), params)[0]


def own(norms, scale, **options):
    return mo.mngd(RATE, norms, num_iters=1, alpha=1.0, step_scale=scale, **options)


@pytest.mark.parametrize(
    ("scale", "muons"), [("muon", None), ("moonlight", 0.2), ("rms", 1.0)], ids=str
)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_is_that_of_optax_muon(float64, rng, scale, muons, decay):
    """The same quintic, no momentum, and a decay that the scale leaves alone."""
    tree = gradients(rng)
    muon = optax.contrib.muon(
        RATE, beta=0.0, nesterov=False, eps=0.0, consistent_rms=muons, weight_decay=decay
    )
    found = update(own([mo.SpectralNorm(mo.muon_quintic())], scale, weight_decay=decay), tree, tree)
    want = update(muon, tree, tree)
    for name in SHAPES:
        np.testing.assert_allclose(found[name]["kernel"], want[name]["kernel"], rtol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
class TestOrthogonalized:
    def singular_values(self, rng, name, scale):
        step = update(own(EXACT, scale), gradients(rng))[name]["kernel"]
        values = np.linalg.svd(np.asarray(step) / RATE, compute_uv=False)
        n, m = SHAPES[name]
        return values, m, n

    @pytest.mark.parametrize(
        ("scale", "value"),
        [
            ("rms", lambda m, n: math.sqrt(max(m, n))),
            ("muon", lambda m, n: math.sqrt(max(1, m / n))),
            ("moonlight", lambda m, n: 0.2 * math.sqrt(max(m, n))),
            ("operator", lambda m, n: math.sqrt(m / n)),
            (lambda m, n: m / n**2, lambda m, n: m / n**2 * math.sqrt(max(m, n))),
        ],
    )
    def test_all_singular_values_are_those_promised(self, float64, rng, name, scale, value):
        values, m, n = self.singular_values(rng, name, scale)
        np.testing.assert_allclose(values, value(m, n), rtol=1e-9)

    @pytest.mark.parametrize(
        ("scale", "bound"),
        [("operator", lambda m, n: 1), ("muon", lambda m, n: math.sqrt(max(1, n / m)))],
    )
    def test_features_of_unit_size_change_by_at_most(self, float64, rng, name, scale, bound):
        values, m, n = self.singular_values(rng, name, scale)
        # The root mean square of W x is at most this for an x of root mean square 1.
        np.testing.assert_allclose(values[0] * math.sqrt(n / m), bound(m, n), rtol=1e-9)


@pytest.mark.parametrize("rank", [1, 24])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_of_sinkgd_the_operator_norm_lies_between_bounds(float64, rng, shape, rank):
    n, m = shape
    gradient = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, m))
    tx = mo.sinkgd(1.0, alpha=1.0, step_scale="operator")
    step = np.asarray(update(tx, {"kernel": jnp.asarray(gradient)})["kernel"])
    size = np.linalg.norm(step, 2) * math.sqrt(n / m)
    assert 1 - 1e-9 <= size <= math.sqrt(min(m, n)) + 1e-9
    if rank == 1:  # signs, the largest that entries of root mean square 1 can be
        assert size == pytest.approx(math.sqrt(min(m, n)))
        tx = mo.sinkgd(1.0, alpha=1.0, step_scale=lambda m, n: 1 / n)
        step = np.asarray(update(tx, {"kernel": jnp.asarray(gradient)})["kernel"])
        assert np.linalg.norm(step, 2) * math.sqrt(n / m) == pytest.approx(1)


@pytest.mark.parametrize("make", [mo.sinkgd, mo.swan], ids=["sinkgd", "swan"])
def test_every_matrix_of_a_stack_has_its_own_shape(float64, rng, make):
    axes = [("stack", mo.MatrixAxes(output=(0, 3), input=2)), ("bias", None)]
    tree = {"stack": jnp.asarray(rng.standard_normal((2, 3, 5, 7))), "bias": jnp.ones(3)}
    plain = update(make(axes=axes), tree)
    found = update(make(axes=axes, step_scale=lambda m, n: 100 * m + n), tree)
    np.testing.assert_allclose(found["stack"], plain["stack"] * 1405, rtol=1e-12)
    np.testing.assert_array_equal(found["bias"], plain["bias"])


def test_state_does_not_depend_on_it():
    params = {"kernel": jnp.ones((3, 4))}
    structures = {
        jax.tree.structure(mo.sinkgd(momentum=0.9, step_scale=scale).init(params))
        for scale in ("rms", "muon", lambda m, n: 1.0)
    }
    assert len(structures) == 1


@pytest.mark.parametrize("scale", ["Muon", None, 0.2, ("muon",)])
def test_unknown_scales_are_named(scale):
    for make in (mo.sinkgd, mo.swan):
        with pytest.raises(ValueError, match=r"^step_scale is one of 'rms', 'muon', .* got"):
            make(step_scale=scale)


def test_matrices_without_entries():
    tree = {"kernel": jnp.zeros((0, 4))}
    assert update(mo.sinkgd(step_scale="muon"), tree)["kernel"].shape == (0, 4)


def test_half_precisions_are_rounded_once(rng):
    kernel = jnp.asarray(rng.standard_normal((48, 32)), jnp.bfloat16)
    found, want = (
        update(mo.sinkgd(0.1, step_scale="operator"), {"kernel": kernel.astype(dtype)})["kernel"]
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, want.astype(jnp.bfloat16))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("rms", "scale", "rate"),
    [
        (None, "muon", lambda m, n: RATE),
        (None, "rms", lambda m, n: RATE / math.sqrt(n)),
        (0.3, "moonlight", lambda m, n: 5 * 0.3 * RATE),
        (0.3, "rms", lambda m, n: 0.3 * RATE),
    ],
    ids=["muon as muon", "muon as rms", "moonlight as moonlight", "moonlight as rms"],
)
def test_rates_of_the_migration_table(float64, rng, name, rms, scale, rate):
    (n, m), tree = SHAPES[name], gradients(rng)[name]
    muon = optax.contrib.muon(RATE, beta=0.0, nesterov=False, eps=0.0, consistent_rms=rms)
    quintic = [mo.SpectralNorm(mo.muon_quintic())]
    own = mo.mngd(rate(m, n), quintic, num_iters=1, alpha=1.0, step_scale=scale)
    found, want = (update(tx, tree, tree)["kernel"] for tx in (own, muon))
    np.testing.assert_allclose(found, want, rtol=1e-6)
