"""Orthogonalizers against the singular value decomposition."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import multinorm_optax as mo
from multinorm_optax._norms.orthogonalize import polar_express_coefficients
from tests import reference
from tests.layouts import ROWS_FIRST

EXACT = {
    "polar_express": mo.polar_express(),
    "newton_schulz": mo.newton_schulz(),
    "exact_svd": mo.exact_svd(),
}
# Forty steps amplify rounding where the spectrum is zero: only for matrices of full rank.
TEXTBOOK = mo.swan_whitening(steps=40, beta=0.5)
ROUGH = {"muon_quintic": mo.muon_quintic(), "polar_express_5": mo.polar_express(5, 1e-3)}
EVERY = {**EXACT, **ROUGH, "swan_whitening": mo.swan_whitening()}

ITERATIONS = {
    "polar_express": mo.polar_express,
    "newton_schulz": mo.newton_schulz,
    "muon_quintic": mo.muon_quintic,
    "swan_whitening": mo.swan_whitening,
    "odd_polynomial": lambda **options: mo.odd_polynomial([(1.5, -0.5, 0.1)] * 3, **options),
}


def polar_factor(G):
    return reference.project_spectral(G) / np.sqrt(max(G.shape))


def spectrum(rng, values, n):
    """A matrix with these singular values, Frobenius norm one."""
    U, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    V, _ = np.linalg.qr(rng.standard_normal((n, len(values))))
    values = np.asarray(values) / np.linalg.norm(values)
    return (U * values) @ V.T


@pytest.mark.parametrize("name", [*EXACT, "swan_textbook"])
class TestExact:
    @pytest.mark.parametrize("imaginary", [0, 1], ids=["real", "complex"])
    def test_polar_factor(self, float64, rng, name, imaginary):
        G = rng.standard_normal((2, 4, 7)) + imaginary * 1j * rng.standard_normal((2, 4, 7))
        G /= np.linalg.norm(G, axis=(1, 2), keepdims=True)
        result = jax.jit(EXACT.get(name, TEXTBOOK))(G)
        np.testing.assert_allclose(result, [polar_factor(each) for each in G], atol=1e-7)

    def test_small_singular_values_reach_one(self, float64, rng, name):
        values = [1, 0.5, 1e-3, 2e-5]
        result = jax.jit(EXACT.get(name, TEXTBOOK))(spectrum(rng, values, 9))
        np.testing.assert_allclose(reference.singular_values(result), 1, atol=1e-3)


@pytest.mark.parametrize("name", ROUGH)
def test_rough_singular_values(float64, rng, name):
    result = jax.jit(ROUGH[name])(spectrum(rng, [1, 0.5, 0.1, 3e-2], 9))
    values = reference.singular_values(result)
    assert np.all((values > 0.6) & (values < 1.3))


@pytest.mark.parametrize("name", EVERY)
class TestEvery:
    def test_zero_and_empty(self, name):
        np.testing.assert_array_equal(EVERY[name](jnp.zeros((2, 3, 4))), np.zeros((2, 3, 4)))
        assert EVERY[name](jnp.zeros((0, 3, 4))).shape == (0, 3, 4)

    def test_rank_one_is_stable_whatever_the_rounding(self, name):
        # A batch of one example makes such gradients; all of the norm is one singular value.
        tx = mo.normalize_spectral(ROWS_FIRST, EVERY[name])
        update = jax.jit(lambda G: tx.update(G, tx.init(G))[0])
        for seed in range(20):
            rng = np.random.default_rng(seed)
            G = np.outer(rng.standard_normal(6), rng.standard_normal(9))
            result = np.asarray(update(np.float32(G)), float) / 3
            assert np.all(np.isfinite(result)), f"seed {seed}"
            values = reference.singular_values(result)
            assert 0.6 < values[0] < 1.4, f"seed {seed}"
            assert values[1] < 0.1, f"seed {seed}"

    def test_non_finite_is_not_laundered(self, rng, name):
        G = np.float32(rng.standard_normal((2, 3, 4)) / 4)
        G[0, 1, 1] = np.nan
        result = jax.jit(EVERY[name])(G)
        assert not np.all(np.isfinite(result[0]))
        assert np.all(np.isfinite(result[1]))

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
    def test_half_precision_matrices_are_computed_in_float32(self, rng, name, dtype):
        G = jnp.asarray(spectrum(rng, [1, 0.5, 0.1], 6), dtype)
        result = EVERY[name](G)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, EVERY[name](G.astype(jnp.float32)).astype(dtype))

    @pytest.mark.devices(4)
    def test_inside_shard_map(self, rng, name):
        mesh = jax.make_mesh((4,), ("r",), axis_types=(AxisType.Auto,))
        G = 1 + np.float32(rng.standard_normal((4, 8, 6))) / 10
        tx = mo.normalize_spectral(orthogonalizer=EVERY[name])

        def step(g):
            mine = jax.tree.map(lambda x: x[0], g)
            return jax.tree.map(lambda x: x[None], tx.update(mine, tx.init(mine))[0])

        mapped = jax.shard_map(step, mesh=mesh, in_specs=P("r"), out_specs=P("r"))
        result = jax.jit(mapped)({"kernel": G})["kernel"]
        want = jax.jit(jax.vmap(lambda g: tx.update(g, ())[0]))({"kernel": G})["kernel"]
        np.testing.assert_allclose(result, want, atol=1e-4)


class TestArithmetic:
    """The keyword arguments `dtype` and `precision`."""

    @pytest.mark.parametrize("name", ITERATIONS)
    def test_dtype_is_that_of_the_iteration(self, rng, name):
        G = np.float32(spectrum(rng, [1, 0.5, 0.2], 6))
        orthogonalizer = ITERATIONS[name](dtype=jnp.bfloat16)
        assert orthogonalizer(G).dtype == jnp.float32
        text = jax.jit(orthogonalizer).lower(G).as_text()
        products = [line for line in text.splitlines() if "dot_general" in line]
        assert products
        assert all("f32" not in line for line in products)
        np.testing.assert_allclose(orthogonalizer(G), ITERATIONS[name]()(G), atol=0.2)

    @pytest.mark.parametrize("name", [*ITERATIONS, "exact_svd"])
    def test_wider_dtype(self, float64, rng, name):
        G = np.float32(spectrum(rng, [1, 0.5, 0.2], 6))
        make = ITERATIONS.get(name, mo.exact_svd)
        result = make(dtype=jnp.float64)(G)
        assert result.dtype == jnp.float32
        np.testing.assert_array_equal(result, np.float32(make()(np.float64(G))))

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
    def test_complex_matrices_stay_complex(self, rng, dtype):
        G = np.complex64(rng.standard_normal((3, 5)) + 1j * rng.standard_normal((3, 5))) / 10
        result = mo.newton_schulz(dtype=dtype)(G)
        assert result.dtype == jnp.complex64
        np.testing.assert_allclose(result @ result.conj().T, np.eye(3), atol=1e-5)

    @pytest.mark.parametrize("name", [*ITERATIONS, "exact_svd"])
    @pytest.mark.parametrize(
        ("precision", "written"),
        [
            ("high", "precision = [HIGH, HIGH]"),
            (jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3, "num_primitive_operations = 3"),
            (jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6, "num_primitive_operations = 6"),
        ],
        ids=["high", "TF32 x 3", "bf16 x 6"],
    )
    def test_precision_is_that_of_every_product(self, name, precision, written):
        orthogonalizer = ITERATIONS.get(name, mo.exact_svd)(precision=precision)
        traced = jax.jit(orthogonalizer).trace(jax.ShapeDtypeStruct((3, 6), jnp.float32))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        products = [line for line in text.splitlines() if "dot_general" in line]
        assert products
        assert all(written in line for line in products)

    def test_a_cubic_needs_no_square_of_the_gram_matrix(self):
        def products(orthogonalizer):
            text = jax.jit(orthogonalizer).lower(jnp.zeros((3, 6))).as_text()
            return text.count("stablehlo.dot_general")

        assert products(mo.newton_schulz()) == 2
        assert products(mo.muon_quintic()) == 3


class TestNonFiniteEntries:
    """Where the singular value decomposition would make numbers of them, as some backends do."""

    @pytest.fixture(autouse=True)
    def laundering(self, monkeypatch):
        svd = jnp.linalg.svd
        monkeypatch.setattr(jnp.linalg, "svd", lambda x, **how: svd(jnp.nan_to_num(x), **how))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_reach_norm_and_dual_norm(self, rng, bad):
        W = np.float32(rng.standard_normal((2, 4, 7)))
        W[0, 1, 2] = bad
        norm = mo.SpectralNorm()
        for measure in (norm.norm, norm.dual_norm):
            found = measure(W, mo.MatrixAxes(output=1, input=2))
            np.testing.assert_array_equal(np.isnan(found), [True, False])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_reach_the_polar_factor(self, rng, bad):
        W = np.float32(rng.standard_normal((2, 4, 7)))
        W[0, 1, 2] = bad
        result = mo.exact_svd()(W)
        assert np.all(np.isnan(result[0]))
        assert np.all(np.isfinite(result[1]))


def test_swan_whitening_is_the_papers_iteration(float64, rng):
    G = rng.standard_normal((5, 8))
    G /= reference.frobenius(G)
    for steps, beta in ((10, 0.8), (2, 0.4), (1, 0.5)):
        result = jax.jit(mo.swan_whitening(steps, beta))(G)
        np.testing.assert_allclose(result, reference.grad_whitening(G, steps, beta), atol=1e-11)


def test_swan_whitening_wanders_around_one(float64, rng):
    G = rng.standard_normal((16, 40))
    values = reference.singular_values(jax.jit(mo.swan_whitening())(G / reference.frobenius(G)))
    assert np.all((values > 0.5) & (values < 1.65))
    assert np.ptp(values) > 0.3


class TestPolarExpressCoefficients:
    @given(steps=st.integers(1, 12), exponent=st.floats(-6, -0.01))
    def test_interval_approaches_one(self, steps, exponent):
        s = np.geomspace(10**exponent, 1, 400)
        start = np.max(np.abs(1 - s))
        for a, b, c in polar_express_coefficients(steps, 10**exponent):
            s = a * s + b * s**3 + c * s**5
        assert np.all(s > 0)
        assert np.max(np.abs(1 - s)) <= start * (1 + 1e-9) + 1e-12

    def test_one_step_is_the_best_quintic(self):
        [(a, b, c)] = polar_express_coefficients(1, 0.2)
        s = np.linspace(0.2, 1, 2001)
        error = a * s + b * s**3 + c * s**5 - 1
        # Chebyshev: the extreme error is attained four times with alternating sign.
        extremes = error[np.abs(error) > np.max(np.abs(error)) * (1 - 1e-5)]
        assert np.count_nonzero(np.diff(np.sign(extremes))) == 3

    @pytest.mark.parametrize("bound", [0.0, -1.0, 1.1])
    def test_bad_arguments(self, bound):
        with pytest.raises(ValueError, match="lower_bound"):
            polar_express_coefficients(3, bound)


class TestOddPolynomial:
    def test_acts_on_singular_values(self, float64, rng):
        G = spectrum(rng, [1, 0.7, 0.2], 5)
        U, s, Vh = np.linalg.svd(G, full_matrices=False)
        result = mo.odd_polynomial([(2.0, -1.5, 0.25), (1.5, -0.5, 0.0)])(G)
        s = 2 * s - 1.5 * s**3 + 0.25 * s**5
        np.testing.assert_allclose(result, (U * (1.5 * s - 0.5 * s**3)) @ Vh, atol=1e-12)

    @pytest.mark.parametrize("bad", [[], [(1.0, 2.0)], [1.0, 2.0, 3.0]])
    def test_bad_coefficients(self, bad):
        with pytest.raises(ValueError, match="coefficients"):
            mo.odd_polynomial(bad)


def test_own_orthogonalizer_gets_wide_matrices_of_norm_one_at_most(rng):
    seen = []

    def record(x):
        seen.append(x)
        return x

    w = jnp.asarray(rng.standard_normal((3, 7, 4)), jnp.bfloat16)
    axes = mo.MatrixAxes(output=1, input=2)
    mo.normalize_spectral(axes, record).update(w, ())
    [x] = seen
    assert x.shape == (3, 4, 7)
    assert x.dtype == jnp.float32
    assert np.all(np.linalg.norm(np.asarray(x, float), axis=(1, 2)) <= 1 + 1e-6)


@pytest.mark.parametrize(
    "make", [mo.polar_express, mo.newton_schulz, mo.muon_quintic, mo.swan_whitening, mo.exact_svd]
)
def test_an_orthogonalizer_is_a_value(make):
    """So that a configuration with one can be compared, used as a key, and sent to a process."""
    one = make(precision="high", dtype=jnp.float32)
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert hash(again) == hash(one)
    assert make() == make() != one
    assert make(dtype="bfloat16") == make(dtype=jnp.bfloat16)
    x = jnp.eye(3, 4) / 3
    np.testing.assert_array_equal(again(x), one(x))


@pytest.mark.parametrize(
    "make", [mo.polar_express, mo.newton_schulz, mo.muon_quintic, mo.swan_whitening]
)
@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "5"])
def test_steps_that_do_not_count_are_refused(make, steps):
    with pytest.raises(ValueError, match="steps must be an integer of at least 1"):
        make(steps)


@pytest.mark.parametrize("make", [mo.polar_express, mo.newton_schulz, mo.exact_svd])
def test_a_function_that_makes_one_is_none(make):
    with pytest.raises(TypeError, match=rf"write {make.__name__}\(...\)"):
        mo.swan(orthogonalizer=make)


def test_what_cannot_be_called_is_none():
    with pytest.raises(TypeError, match="a function of matrices, got 'x'"):
        mo.swan(orthogonalizer="x")
    with pytest.raises(TypeError, match="floating-point dtype, got int32"):
        mo.polar_express(dtype=jnp.int32)


@pytest.mark.parametrize("name", EVERY)
def test_ranks_are_not_promoted(rng, name):
    stack = jnp.float32(rng.standard_normal((3, 4, 6)))
    with jax.numpy_rank_promotion("raise"):
        EVERY[name](stack)
