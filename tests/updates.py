"""One step of a transformation, compiled."""

import jax


def updated(tx, gradient, params=None):
    """The update that a fresh `tx` makes of a gradient."""
    return jax.jit(lambda g, p: tx.update(g, tx.init(g if p is None else p), p)[0])(
        gradient, params
    )
