"""Loss in training and in validation."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental import multihost_utils

from examples.llama.mesh import ONE_DEVICE, Placement
from examples.llama.model import HEAD, Definition, Params


@dataclass(frozen=True)
class Validation:
    """What a model loses on the validation text."""

    loss: float
    """Mean over all predicted tokens of -log p(token), in nats."""
    bytes_per_token: float | None = 1.0
    """Bytes of text to a predicted token, if it is known."""

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is more than a float can hold."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """The loss in bits per byte of text, which compares between tokenizers."""
        bytes_per_token = self.bytes_per_token
        return None if bytes_per_token is None else self.loss / math.log(2) / bytes_per_token

    def as_json(self) -> dict[str, float | None]:
        """The three figures by name; JSON has no infinity, so such a perplexity is None."""
        return {
            "validation_loss": self.loss,
            "perplexity": self.perplexity if math.isfinite(self.perplexity) else None,
            "bits_per_byte": self.bits_per_byte,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Validation":
        """Back from what `as_json` gave."""
        loss, bits = record["validation_loss"], record["bits_per_byte"]
        return cls(loss, loss / math.log(2) / bits if bits else None)

    def __str__(self) -> str:
        bits = "" if self.bits_per_byte is None else f", {self.bits_per_byte:.4f} bits/byte"
        return f"validation loss {self.loss:.4f} nats, perplexity {self.perplexity:.3f}{bits}"


def is_predicted(rows_BxS: jax.Array) -> jax.Array:
    """Which of a row's T = S - 1 tokens after the first are predicted: those that are no padding.

    Padding is any negative token.
    """
    return rows_BxS[:, 1:].astype(jnp.int32) >= 0


def inputs_and_targets(rows_BxS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The tokens (B, T) that the model sees, and those that follow them; any token at padding.

    Padding comes after the text and attention is causal, so that what the model makes of it does
    not matter.
    """
    tokens_BxS = jnp.maximum(rows_BxS.astype(jnp.int32), 0)
    return tokens_BxS[:, :-1], tokens_BxS[:, 1:]


LOGITS_AT_ONCE = 2**26
"""Logits that are materialized at a time, 256 MiB in float32."""

Logits = Callable[[Params, jax.Array], jax.Array]
"""The logits (B, T, V) from the weights of `HEAD` and the output (B, T, D) of the last layer."""


def losses_of_features(
    logits: Logits, head: Params, x_BxTxD: jax.Array, rows_BxS: jax.Array
) -> jax.Array:
    """Cross-entropy (B, T) of a row's T = S - 1 predicted tokens, in float32; 0 at padding.

    Only the logits of some positions exist at a time, at most about `LOGITS_AT_ONCE`. The backward
    pass computes each part's logits again, and adds up the gradients of the head in float32.
    """
    _, targets_BxT = inputs_and_targets(rows_BxS)
    vocabulary = jax.eval_shape(logits, head, x_BxTxD).shape[-1]
    length = x_BxTxD.shape[1]
    # the fewest equal parts whose logits are few enough
    parts = next(
        parts
        for parts in range(1, length + 1)
        if length % parts == 0
        and (parts == length or targets_BxT.size // parts * vocabulary <= LOGITS_AT_ONCE)
    )

    def losses(head: Params, x: jax.Array, targets: jax.Array) -> jax.Array:
        logits_BxtxV = logits(head, x).astype(jnp.float32)
        # not with integer labels: the gradient of a lookup is a scatter, for which XLA writes the
        # gradient of all these logits in float32
        return optax.safe_softmax_cross_entropy(logits_BxtxV, jax.nn.one_hot(targets, vocabulary))

    if parts == 1:
        losses_BxT = losses(head, x_BxTxD, targets_BxT)
    else:
        head_float32 = optax.tree.cast(head, jnp.float32)

        @jax.checkpoint
        def part(x: jax.Array, targets: jax.Array) -> jax.Array:
            return losses(optax.tree.cast_like(head_float32, head), x, targets)

        def split(array: jax.Array) -> jax.Array:
            # positions, not rows, which may be spread over devices
            apart = array.reshape(array.shape[0], parts, length // parts, *array.shape[2:])
            return jnp.moveaxis(apart, 1, 0)

        losses_PxBxt = jax.lax.map(lambda each: part(*each), (split(x_BxTxD), split(targets_BxT)))
        losses_BxT = jnp.moveaxis(losses_PxBxt, 0, 1).reshape(targets_BxT.shape)
    return jnp.where(is_predicted(rows_BxS), losses_BxT, 0)


def token_losses(definition: Definition, params: Params, rows_BxS: jax.Array) -> jax.Array:
    """`losses_of_features`, computed from all weights and the rows of tokens."""
    tokens_BxT, _ = inputs_and_targets(rows_BxS)

    def logits(head: Params, x_BxTxD: jax.Array) -> jax.Array:
        return nnx.merge(definition, params | head).logits(x_BxTxD)

    x_BxTxD = nnx.merge(definition, params).features(tokens_BxT)
    return losses_of_features(logits, {name: params[name] for name in HEAD}, x_BxTxD, rows_BxS)


def mean_loss(losses_BxT: jax.Array, rows_BxS: jax.Array) -> jax.Array:
    """The sum of these losses, over the number of tokens that all of these rows predict.

    So each token counts alike, wherever the padding is, and parts of a batch may be added up.
    """
    return losses_BxT.sum() / jnp.maximum(1, is_predicted(rows_BxS).sum())


@partial(jax.jit, static_argnames="definition")
def _losses_of_rows(
    definition: Definition, params: Params, batches_KxBxS: jax.Array, count: jax.Array
) -> jax.Array:
    """The sum of each row's losses, of the first `count` batches; 0 for the others."""
    losses_KxB = jnp.zeros(batches_KxBxS.shape[:2], jnp.float32)

    def batch(index: jax.Array, losses_KxB: jax.Array) -> jax.Array:
        rows_BxS = batches_KxBxS[index]
        return losses_KxB.at[index].set(token_losses(definition, params, rows_BxS).sum(axis=-1))

    return jax.lax.fori_loop(0, count, batch, losses_KxB)


Validate = Callable[..., Validation]
"""Measures weights, on all validation rows or with `batches=n` on those of the first n batches."""


def make_validate(
    definition: Definition,
    rows_RxS: np.ndarray,
    batch_size: int,
    bytes_per_token: float | None = 1.0,
    placement: Placement = ONE_DEVICE,
) -> Validate:
    """Return params -> Validation over all the rows, or over those of the first few batches.

    The rows are filled up to whole batches; rows filled in do not count, nor does padding. The
    figure is the sum over all predicted tokens divided by their number: an average of batch means
    would be biased by a short batch.
    """
    count, length = rows_RxS.shape
    whole_batches = -(-count // batch_size)
    filled = np.zeros((whole_batches * batch_size, length), rows_RxS.dtype)
    filled[:count] = rows_RxS
    tokens_of_rows = (rows_RxS[:, 1:].astype(np.int64) >= 0).sum(axis=1)
    batches_KxBxS = jnp.asarray(
        placement.put_rows(filled.reshape(whole_batches, batch_size, length), axis=1)
    )

    def validate(params: Params, batches: int | None = None) -> Validation:
        taken = whole_batches if batches is None else batches
        with placement.mesh_context():
            losses_KxB = _losses_of_rows(definition, params, batches_KxBxS, jnp.int32(taken))
        losses_KxB = multihost_utils.process_allgather(losses_KxB, tiled=True)
        losses = losses_KxB.astype(np.float64).reshape(-1)[:count]
        tokens = int(tokens_of_rows[: taken * batch_size].sum())
        return Validation(float(losses.sum() / tokens), bytes_per_token)

    return validate
