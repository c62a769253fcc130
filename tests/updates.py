"""One step of a transformation, compiled."""

import jax


def updated(tx, gradient, params=None):
    """The update that a fresh `tx` makes of a gradient; an array alone is a flax kernel."""
    if hasattr(gradient, "shape"):
        params = None if params is None else {"kernel": params}
        return updated(tx, {"kernel": gradient}, params)["kernel"]
    return jax.jit(lambda g, p: tx.update(g, tx.init(g if p is None else p), p)[0])(
        gradient, params
    )
