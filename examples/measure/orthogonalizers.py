"""What the arithmetic of an orthogonalizer does to each singular direction.

A matrix G with singular values from 1 down to 1e-6 of the largest goes through every
orthogonalizer in every arithmetic. For each direction, sigma u v^T in G, two numbers say what
became of it in the result P: u^T P v, which should be 1, and the sine of the angle between P v and
u, which should be 0. The directions are those of a decomposition of G in float64.

A CPU has no tensor cores. What they do to the operands is emulated: these are rounded to nearest,
or split into two or three rounded parts, exactly as the format says, and the products of the parts
are added up in float32. The order in which tensor cores add is not emulated.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import multinorm_optax as mo
from examples.measure.tables import Table

DECADES = range(7)
SHAPE = (127, 320)
"""21 singular values to a decade, evenly in log."""
MATRICES = 4
TF32, BFLOAT16 = 10, 7
"""Bits of the mantissa."""
Product = Callable[..., jax.Array]
Orthogonalizer = Callable[[jax.Array], jax.Array]
_MATMUL = jnp.matmul


def _parts(x: jax.Array, bits: int, count: int) -> Iterator[jax.Array]:
    """The first parts of x, each rounded to this mantissa; their sum is x up to the last one's."""
    for _ in range(count):
        part = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits)
        yield part
        x = x - part


def emulated(bits: int, parts: int) -> Product:
    """A product of float32 matrices by tensor cores: those of all parts i, j with i + j < parts."""

    def product(x: jax.Array, y: jax.Array, *, precision: Any = None) -> jax.Array:
        del precision
        pairs = [
            (i + j, _MATMUL(a, b))
            for i, a in enumerate(_parts(x, bits, parts))
            for j, b in enumerate(_parts(y, bits, parts))
            if i + j < parts
        ]
        # The smallest first.
        return functools.reduce(jnp.add, [each for _, each in sorted(pairs, key=lambda p: -p[0])])

    return product


def with_product(orthogonalizer: Orthogonalizer, product: Product) -> Orthogonalizer:
    """The same orthogonalizer with another product of matrices."""

    def run(x: jax.Array) -> jax.Array:
        with mock.patch.object(jnp, "matmul", product):
            return orthogonalizer(x)

    return run


ARITHMETICS: dict[str, tuple[jnp.dtype | None, Product]] = {
    "float32": (None, _MATMUL),
    "bfloat16 x 6": (None, emulated(BFLOAT16, 3)),
    "TF32 x 3": (None, emulated(TF32, 2)),
    "bfloat16 x 3": (None, emulated(BFLOAT16, 2)),
    "TF32": (None, emulated(TF32, 1)),
    "bfloat16": (jnp.dtype(jnp.bfloat16), _MATMUL),
}
"""The dtype of the iteration, and how it multiplies."""

ORTHOGONALIZERS: Mapping[str, Callable[..., Orthogonalizer]] = {
    "polar_express()": mo.polar_express,
    "polar_express(8, 1e-4)": functools.partial(mo.polar_express, 8, 1e-4),
    "polar_express(5, 1e-3)": functools.partial(mo.polar_express, 5, 1e-3),
    "newton_schulz()": mo.newton_schulz,
    "muon_quintic()": mo.muon_quintic,
    "swan_whitening()": mo.swan_whitening,
    "swan_whitening(15, 0.5)": functools.partial(mo.swan_whitening, 15, 0.5),
    "exact_svd()": mo.exact_svd,
}


def matrices() -> np.ndarray:
    """Float32 matrices of Frobenius norm one."""
    rng = np.random.default_rng(0)
    m, n = SHAPE
    u = np.linalg.qr(rng.standard_normal((MATRICES, m, m)))[0]
    v = np.linalg.qr(rng.standard_normal((MATRICES, n, m)))[0]
    sigma = np.geomspace(1, 10.0 ** -DECADES[-1], m)
    return np.asarray(u * (sigma / np.linalg.norm(sigma)) @ v.swapaxes(-1, -2), np.float32)


def directions(polar: np.ndarray, of: np.ndarray) -> dict[str, list[float] | None]:
    """For every decade the mean of u^T P v, and the largest sine between P v and u.

    None if the iteration diverged: no orthogonalizer is meant to go beyond 1.6.
    """
    if not np.all(np.abs(polar) < 2):
        return {"value": None, "sine": None}
    u, _, vh = np.linalg.svd(np.float64(of), full_matrices=False)
    image = np.float64(polar) @ vh.swapaxes(-1, -2)
    value = np.sum(u * image, axis=-2)
    sine = np.linalg.norm(image - u * value[:, None], axis=-2) / np.linalg.norm(image, axis=-2)
    chosen = [decade * (SHAPE[0] - 1) // DECADES[-1] for decade in DECADES]
    means, largest = value.mean(axis=0)[chosen], sine.max(axis=0)[chosen]
    return {
        name: [float(f"{each:.4g}") for each in found]
        for name, found in (("value", means), ("sine", largest))
    }


def measure(console: Console) -> dict[str, Any]:
    """Every orthogonalizer in every arithmetic."""
    given = matrices()
    rows: list[dict[str, Any]] = []
    for title, make in ORTHOGONALIZERS.items():
        for arithmetic, (dtype, product) in ARITHMETICS.items():
            if title == "exact_svd()" and arithmetic != "float32":
                continue
            polar = jax.jit(with_product(make(dtype=dtype), product))(given)
            found = directions(np.asarray(polar), given)
            rows.append({"orthogonalizer": title, "arithmetic": arithmetic, **found})
    console.print(make_table(rows))
    return {"rows": rows, "shape": SHAPE, "matrices": MATRICES}


def make_table(rows: list[dict[str, Any]]) -> Table:
    """Mean and sine of every decade."""
    lines = []
    for row in rows:
        cells = ["diverges"] + [""] * (len(DECADES) - 1)
        if row["value"] is not None:
            pairs = zip(row["value"], row["sine"], strict=True)
            cells = [f"{value:.3f}, {sine:.0e}" for value, sine in pairs]
        lines.append([f"`{row['orthogonalizer']}`", row["arithmetic"], *cells])
    heads = ["orthogonalizer", "arithmetic", *(f"1e-{decade}" for decade in DECADES)]
    return Table(heads, lines)
