"""Does a class define a norm with its dual norm and its projection? Checks by the definitions."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import multinorm_optax as mo
from exploration.convergence import group_rms
from exploration.pictures import AFTER, BEFORE, legend, line_style, new_figure, style


@dataclasses.dataclass(frozen=True)
class NormCheck:
    """By how much a norm misses what defines it, on one kernel; all should be rounding errors."""

    errors: Mapping[str, float]
    tolerance: float = 1e-4

    @property
    def passed(self) -> bool:
        """Whether all are below the tolerance."""
        return all(error <= self.tolerance for error in self.errors.values())

    def __str__(self) -> str:
        width = max(map(len, self.errors))
        marks = {name: "ok" if e <= self.tolerance else "WRONG" for name, e in self.errors.items()}
        return "\n".join(
            f"{name:{width}}  {e:8.1e}  {marks[name]}" for name, e in self.errors.items()
        )


def check_norm(norm: mo.Norm, shape: tuple[int, int] = (96, 48), seed: int = 0) -> NormCheck:
    """Compare g, g_* and P with their definitions on a Gaussian flax kernel (in, out).

    The supremum in g_*(W) = sup <W, z> / g(z) is tried with random z, and with z near P(W).
    """
    keys = jax.random.split(jax.random.key(seed), 20)
    w = jax.random.normal(keys[0], shape)
    projected, dual_norm = norm(w), norm.dual_norm(w)
    candidates = [jax.random.normal(key, shape) for key in keys[1:]]
    candidates += [projected + 0.3 * each for each in candidates]
    best = max(float(jnp.vdot(w, z) / norm.norm(z)) for z in candidates)
    rms = jnp.sqrt(jnp.mean(projected**2))
    errors: dict[str, Any] = {
        "g(P(W)) = 1": abs(norm.norm(projected) - 1),
        "<W, P(W)> = g_*(W)": abs(jnp.vdot(w, projected) / dual_norm - 1),
        "no other z of g(z) = 1 does better": max(0.0, best / float(dual_norm) - 1),
        "P(1000 W) = P(W)": jnp.max(jnp.abs(norm(1000 * w) - projected)),
        "root mean square of P(W) = 1": abs(rms - 1),
    }
    return NormCheck({name: float(error) for name, error in errors.items()})


def block_picture(
    make_norm: Callable[[int], mo.Norm], blocks: int = 8, shape: tuple[int, int] = (96, 64)
) -> Figure:
    """An alternation of a norm of your own and columns on a kernel whose rows differ in size."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal(shape) * np.repeat(np.geomspace(0.05, 5, 16), shape[1] // 16)
    kernel *= 30.0 ** rng.uniform(-0.5, 0.5, (shape[0], 1))
    axes = mo.MatrixAxes(output=1, input=0)
    members = mo.normalize(make_norm(blocks), axes), mo.normalize_columns(axes)
    trace = mo.trace_multi_normalize(jnp.float32(kernel), *members, num_iters=6)
    figure, (left, right) = new_figure(1, 2, height=4)
    style(left, "residuals", "sweep", "residual (RMS)")
    for index, name in enumerate((f"{blocks} blocks", "column")):
        values = np.maximum(trace.residuals[:, index], 1e-8)
        count = np.arange(1, len(values) + 1)
        left.semilogy(count, values, marker="o", markersize=4, label=name, **line_style(index))
    left.set_ylim(5e-9, 4)
    legend(left)
    style(right, "rows before and after", "output feature (row)", "RMS of a row")
    for matrix, label, line in (
        (kernel, "before", {"color": BEFORE, "linestyle": "--"}),
        (np.asarray(trace.iterates[-1]), "after", {"color": AFTER}),
    ):
        right.semilogy(group_rms(matrix.T)[0], linewidth=2, label=label, **line)
    for edge in range(0, shape[1] + 1, shape[1] // blocks):
        right.axvline(edge - 0.5, color="0.8", linewidth=0.8, zorder=0)
    right.set_ylim(0.02, 20)
    legend(right)
    return figure
