"""Floating-point operations of training, and of a device at its peak."""

from examples.llama.config import ModelConfig

PEAKS = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("RTX 4090", 165e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5", 459e12),
    ("TPU v6 lite", 918e12),
)
"""Dense bfloat16 products per second, from the makers' data sheets, by a part of the device's kind;
the first match counts."""


def flops_per_token(model: ModelConfig, sequence_length: int) -> int:
    """Return the operations of a training step per token: 6 for each weight of a matrix product.

    The two products of attention add 12 · layers · hidden · length. As in PaLM (Chowdhery et al.,
    arXiv 2204.02311, appendix B), masked positions count, recomputed layers do not. The embedding
    is a lookup and counts nothing.
    """
    layer = 4 * model.hidden**2 + 3 * model.hidden * model.mlp
    weights = model.layers * layer + model.hidden * model.vocabulary
    return 6 * weights + 12 * model.layers * model.hidden * sequence_length


def peak_flops(device_kind: str) -> float | None:
    """Return a device's bfloat16 peak in operations per second; None for a kind not listed."""
    return next((peak for kind, peak in PEAKS if kind in device_kind), None)
