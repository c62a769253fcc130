"""What each weight of the LLaMA is: a matrix or not, and which entries share a second moment."""

from typing import Literal

import multinorm_optax as mo

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
        (
            r"layers/attention/value/kernel",
            mo.Blocks(whole=-2 if value == "neuron" else (-2, -1)),
        ),
        (r"layers/(attention/out|mlp/(gate|up|down))/kernel|head/kernel", mo.Blocks(whole=-2)),
        (
            r"embed/embedding|(layers/(attention|mlp)_norm|final_norm)/scale",
            mo.Blocks(whole=-1),
        ),
    )
