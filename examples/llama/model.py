"""The LLaMA decoder in Flax NNX: RMSNorm, rotary positions, SwiGLU, no biases, an untied head.

All layers are one stack: every weight of `Llama.layers` has a leading axis of length L, and the
forward pass is one `jax.lax.scan` over it. The scan stays a loop on a CPU, or with `remat`;
elsewhere it is unrolled, and compile time grows with depth. Letters in names are axes: B batch, T
positions, D hidden width, F width inside the MLP, N heads, H width of a head, V vocabulary, L
layers; a small letter is a part of such an axis. Rows of tokens have S = T + 1.
"""

import functools
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

import multinorm_optax as mo
from examples.llama.config import ModelConfig, Precision
from examples.llama.mesh import gather_features, keep_rows_sharded

Params = dict[str, Any]
"""The weights as nested dictionaries of arrays, e.g. `params["layers"]["mlp"]["up"]["kernel"]`."""

HEAD = ("final_norm", "head")
"""The weights that turn the output of the last layer into logits."""

PRNG = "threefry2x32"
"""The generator of random numbers, whatever JAX is configured to use: a seed stands for weights."""

_NORM_EPSILON = 1e-6
_INIT = nnx.initializers.normal(stddev=0.02)
_linear = partial(nnx.Linear, use_bias=False, kernel_init=_INIT)
_norm = partial(nnx.RMSNorm, epsilon=_NORM_EPSILON)


def dtypes(precision: Precision) -> dict[str, Any]:
    """The dtype of the weights (`param_dtype`) and of the arithmetic (`dtype`).

    Norms, the softmax of attention and the loss are reduced in float32 in any case.
    """
    half, full = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
    return {
        "param_dtype": half if precision.startswith("bfloat16") else full,
        "dtype": full if precision == "float32" else half,
    }


def rotate_positions(x_BxTxNxH: jax.Array, base: float) -> jax.Array:
    """Rotate each head's pairs of features (i, i + H/2) by the angle t · base^(-2i/H).

    A product of a query rotated at position s and a key rotated at position t then depends on the
    positions through s - t alone (Su et al., "RoFormer", arXiv 2104.09864).
    """
    length, width = x_BxTxNxH.shape[1], x_BxTxNxH.shape[3]
    frequency_h = base ** -(jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle_Tx1xh = (jnp.arange(length, dtype=jnp.float32)[:, None] * frequency_h)[:, None, :]
    cos_Tx1xh = jnp.cos(angle_Tx1xh).astype(x_BxTxNxH.dtype)
    sin_Tx1xh = jnp.sin(angle_Tx1xh).astype(x_BxTxNxH.dtype)
    first, second = jnp.split(x_BxTxNxH, 2, axis=-1)
    return jnp.concatenate(
        [first * cos_Tx1xh - second * sin_Tx1xh, first * sin_Tx1xh + second * cos_Tx1xh], axis=-1
    )


def cudnn_serves(query_BxTxNxH: jax.Array) -> bool:
    """Whether cuDNN's fused attention takes heads of this dtype and width on this device.

    It never writes the T x T scores. It needs an NVIDIA GPU from Ampere on, half precision, and
    heads of at most 128 features, a multiple of 8.
    """
    device = jax.devices()[0]
    width = query_BxTxNxH.shape[-1]
    return (
        device.device_kind.startswith("NVIDIA")
        and float(device.compute_capability) >= 8
        and query_BxTxNxH.dtype in (jnp.bfloat16, jnp.float16)
        and width % 8 == 0
        and width <= 128
    )


def attend(q_BxTxNxH: jax.Array, k_BxTxNxH: jax.Array, v_BxTxNxH: jax.Array) -> jax.Array:
    """Mix the values of each position and those before it, by cuDNN where it serves."""
    if not cudnn_serves(q_BxTxNxH):
        return jax.nn.dot_product_attention(
            q_BxTxNxH, k_BxTxNxH, v_BxTxNxH, is_causal=True, implementation="xla"
        )
    # JAX trains through cuDNN with an even number of positions only; no other attends to one added
    # at the end
    length = q_BxTxNxH.shape[1]
    added = ((0, 0), (0, length % 2), (0, 0), (0, 0))
    even = [jnp.pad(each, added) for each in (q_BxTxNxH, k_BxTxNxH, v_BxTxNxH)]
    mixed = jax.nn.dot_product_attention(*even, is_causal=True, implementation="cudnn")
    return mixed[:, :length]


class Attention(nnx.Module):
    """Causal multi-head self-attention with rotary positions."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.heads = config.heads
        self.rope_base = config.rope_base
        square = partial(
            _linear, config.hidden, config.hidden, **dtypes(config.precision), rngs=rngs
        )
        self.query, self.key, self.value, self.out = square(), square(), square(), square()

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        """Mix each position with the positions before it."""
        split = (*x_BxTxD.shape[:2], self.heads, -1)
        query_BxTxNxH = rotate_positions(self.query(x_BxTxD).reshape(split), self.rope_base)
        key_BxTxNxH = rotate_positions(self.key(x_BxTxD).reshape(split), self.rope_base)
        value_BxTxNxH = self.value(x_BxTxD).reshape(split)
        mixed_BxTxNxH = attend(query_BxTxNxH, key_BxTxNxH, value_BxTxNxH)
        return self.out(mixed_BxTxNxH.reshape(x_BxTxD.shape))


class MLP(nnx.Module):
    """The SwiGLU block: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        linear = partial(_linear, **dtypes(config.precision), rngs=rngs)
        self.gate = linear(config.hidden, config.mlp)
        self.up = linear(config.hidden, config.mlp)
        self.down = linear(config.mlp, config.hidden)

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        """Transform each position by itself."""
        return self.down(nnx.silu(self.gate(x_BxTxD)) * self.up(x_BxTxD))


class Layer(nnx.Module):
    """One pre-norm decoder layer."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        norm = partial(_norm, config.hidden, **dtypes(config.precision), rngs=rngs)
        self.attention_norm = norm()
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = norm()
        self.mlp = MLP(config, rngs=rngs)

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        """Add what attention and MLP have to say to the residual stream."""
        x_BxTxD = x_BxTxD + self.attention(self.attention_norm(x_BxTxD))
        return x_BxTxD + self.mlp(self.mlp_norm(x_BxTxD))


class Llama(nnx.Module):
    """The decoder: tokens (B, T) to logits (B, T, V)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.remat = config.remat
        kinds = dtypes(config.precision)
        self.embed = nnx.Embed(
            config.vocabulary, config.hidden, embedding_init=_INIT, **kinds, rngs=rngs
        )
        # a scan draws one layer at a time; a vmap would need the room of all draws at once
        draw = nnx.scan(lambda rngs: Layer(config, rngs=rngs), in_axes=0, out_axes=0)
        self.layers = draw(rngs.split(config.layers))
        self.final_norm = _norm(config.hidden, **kinds, rngs=rngs)
        self.head = _linear(config.hidden, config.vocabulary, **kinds, rngs=rngs)

    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        """Logits of the token that follows each position."""
        return self.logits(self.features(tokens_BxT))

    def features(self, tokens_BxT: jax.Array) -> jax.Array:
        """The output of the last layer (B, T, D)."""
        layer_definition, weights_L = nnx.split(self.layers)

        def body(x_BxTxD: jax.Array, weights: nnx.State) -> tuple[jax.Array, None]:
            return apply_layer(layer_definition, weights, x_BxTxD), None

        if self.remat:
            body = jax.checkpoint(body)
        # a loop's backward pass keeps activations in arrays for all layers, which XLA's plan for a
        # GPU fills with zeros first, and has twice; unrolled, each layer's stay where they are
        unroll = jax.default_backend() != "cpu" and not self.remat
        x_BxTxD, _ = jax.lax.scan(body, self.look_up(tokens_BxT), weights_L, unroll=unroll)
        return x_BxTxD

    def look_up(self, tokens_BxT: jax.Array) -> jax.Array:
        """The input of the first layer."""
        # by hand: nnx.Embed's lookup would take from a table whose features are spread out too
        table_VxD = gather_features(self.embed.embedding[...].astype(self.embed.dtype))
        return keep_rows_sharded(jnp.take(table_VxD, tokens_BxT, axis=0))

    def logits(self, x_BxTxD: jax.Array) -> jax.Array:
        """The logits (B, T, V) from the output of the last layer."""
        return self.head(self.final_norm(x_BxTxD))


def apply_layer(definition: nnx.GraphDef[Layer], weights: Any, x_BxTxD: jax.Array) -> jax.Array:
    """One layer, from its definition and weights."""
    return keep_rows_sharded(nnx.merge(definition, weights)(x_BxTxD))


Definition = nnx.GraphDef[Llama]


@functools.cache
def abstract_llama(config: ModelConfig) -> tuple[Definition, Params]:
    """The definition of a model, and shapes and dtypes of its weights; nothing is computed."""
    definition, weights = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
    return definition, nnx.to_pure_dict(weights)


@functools.partial(jax.jit, static_argnames="config")
def init_llama(config: ModelConfig, seed: jax.typing.ArrayLike) -> Params:
    """Draw the weights; `nnx.merge` joins them with the definition."""
    return nnx.to_pure_dict(
        nnx.state(Llama(config, rngs=nnx.Rngs(jax.random.key(seed, impl=PRNG))))
    )


LLAMA_RULES = (
    (r"layers/(attention|mlp)/\w+/kernel", mo.MatrixAxes(output=-1, input=-2)),
    (r"embed/embedding|head/kernel|(.+/)?\w*norm/scale", None),
)
"""The matrices, with the layers stacked (layers, in, out) or one at a time. None marks every other
parameter."""

TOKEN_RULES = (
    (r"embed/embedding", mo.MatrixAxes(output=0, input=1)),
    (r"head/kernel", mo.MatrixAxes(output=1, input=0)),
)
"""The tables whose rows are tokens: embedding (V, D), looked up, and head (D, V)."""


def llama_blocks(
    head_dim: int, *, value: Literal["neuron", "whole"] = "neuron"
) -> tuple[tuple[str, mo.Blocks], ...]:
    """The blocks of Adam-mini (Zhang et al., arXiv 2406.16793, Algorithm 3, version 1.1).

    One block per head of query and key, one per output neuron of attention output, MLP and head,
    one per token of the embedding, one per norm gain.

    Args:
        head_dim: the width of one attention head.
        value: "neuron" for one block per output neuron of the value kernels, "whole" for one per
            kernel, which the authors advise for runs of less than ten to twenty thousand steps.
    """
    return (
        (r"layers/attention/(query|key)/kernel", mo.Blocks(whole=-2, groups={-1: head_dim})),
        (r"layers/attention/value/kernel", mo.Blocks(whole=-2 if value == "neuron" else (-2, -1))),
        (r"layers/(attention/out|mlp/(gate|up|down))/kernel|head/kernel", mo.Blocks(whole=-2)),
        (r"embed/embedding|(layers/(attention|mlp)_norm|final_norm)/scale", mo.Blocks(whole=-1)),
    )
