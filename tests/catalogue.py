"""Every transformation and optimizer of the package; a new one is one line."""

import jax.numpy as jnp
import optax

import multinorm_optax as mo
from multinorm_optax._optimizers.swan import CenteredRows
from multinorm_optax._optimizers.tokens import zero_small_rows

TRANSFORMATIONS = {
    "normalize_rows": mo.normalize_rows(),
    "normalize_columns": mo.normalize_columns(),
    "normalize_spectral": mo.normalize_spectral(),
    "normalize_max": mo.normalize(mo.MaxNorm()),
    "normalize_frobenius": mo.normalize(mo.FrobeniusNorm()),
    "center_rows": mo.normalize(CenteredRows()),
    "scale_by_sinkhorn": mo.scale_by_sinkhorn(),
    "scale_by_sinkhorn_tol": mo.scale_by_sinkhorn(num_iters=9, tol=1e-3),
    "scale_by_swan": mo.scale_by_swan(),
    "zero_small_rows": zero_small_rows(),
    "scale_by_token_sinkhorn": mo.scale_by_token_sinkhorn(),
    "scale_by_swan_centered": mo.scale_by_swan(centered=True),
    "scale_by_swan_sweeps": mo.scale_by_swan(num_iters=2),
    "row_spectral": mo.multi_normalize(
        mo.normalize_rows(), mo.normalize_spectral(), num_iters=2, tol=1e-3
    ),
    "foreign": mo.multi_normalize(mo.normalize_rows(), optax.scale(0.5), mo.normalize_columns()),
}
OPTIMIZERS = {
    "sinkgd": mo.sinkgd,
    "sinkgd_momentum": lambda rate, **options: mo.sinkgd(
        rate, momentum=0.9, nesterov=True, **options
    ),
    "sinkgd_tol": lambda rate, **options: mo.sinkgd(rate, num_iters=9, tol=1e-3, **options),
    "swan": mo.swan,
    "mngd_sign": lambda rate, **options: mo.mngd(rate, (mo.MaxNorm(),), **options),
    "mngd_spectral": lambda rate, **options: mo.mngd(
        rate, (mo.RowNorm(), mo.SpectralNorm()), num_iters=1, **options
    ),
    "auxiliary_adam": lambda rate, **options: mo.auxiliary_adam(
        lambda axes=None: mo.normalize(mo.FrobeniusNorm(), axes), rate, **options
    ),
}
# Of every parameter they keep a state, and they have no factor for the rate of the matrices.
WITH_MOMENTS = {
    "ldadam": lambda rate, **options: mo.ldadam(rate, rank=2, **options),
    "adam_mini": lambda rate, **options: mo.adam_mini(rate, blocks=mo.flax_blocks(None), **options),
}


def every_entry(rate=1e-2):
    """All of them as transformations of kernels."""
    optimizers = OPTIMIZERS | WITH_MOMENTS
    return TRANSFORMATIONS | {name: make(rate) for name, make in optimizers.items()}


def kernels(rng, dtype=jnp.float32):
    """Tall, wide and square flax kernels, and one with a dead row."""
    tree = {
        name: rng.standard_normal(shape) for name, shape in (("tall", (6, 4)), ("wide", (3, 5)))
    }
    if jnp.issubdtype(dtype, jnp.complexfloating):
        tree = {name: w * (1 + 2j) + 1j for name, w in tree.items()}
    tree["wide"][:, 2] = 0
    return {name: {"kernel": jnp.asarray(w, dtype)} for name, w in tree.items()}
