"""Stateless optimizers for optax: gradients of unit size in several norms at once.

The packages, in the order of the mathematics: `_matrices`, `_norms`, `_alternation`, `_optimizers`,
`_baselines`, `_training`. Each imports only from those before it. Import from `multinorm_optax`
itself.
"""

from multinorm_optax._alternation.combinator import multi_normalize
from multinorm_optax._alternation.diagnostics import measure_residuals, trace_multi_normalize
from multinorm_optax._baselines.adam_mini.adam_mini import adam_mini, scale_by_adam_mini
from multinorm_optax._baselines.adam_mini.blocks import Blocks
from multinorm_optax._baselines.adam_mini.presets import flax_blocks
from multinorm_optax._baselines.ldadam.ldadam import ldadam, scale_by_ldadam
from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._matrices.fused import Fused
from multinorm_optax._matrices.paths import UNCOVERED
from multinorm_optax._matrices.rules import EQUINOX_RULES, FLAX_RULES, group_labels, resolve_axes
from multinorm_optax._norms.base import Norm, Projection
from multinorm_optax._norms.euclidean import ColumnNorm, FrobeniusNorm, RowNorm
from multinorm_optax._norms.max import MaxNorm
from multinorm_optax._norms.normalize import (
    normalize,
    normalize_columns,
    normalize_rows,
    normalize_spectral,
)
from multinorm_optax._norms.orthogonalize import (
    exact_svd,
    muon_quintic,
    newton_schulz,
    odd_polynomial,
    polar_express,
    swan_whitening,
)
from multinorm_optax._norms.spectral import SpectralNorm
from multinorm_optax._optimizers.auxiliary_adam import auxiliary_adam
from multinorm_optax._optimizers.mngd import mngd
from multinorm_optax._optimizers.operator_norm import scale_by_operator_norm
from multinorm_optax._optimizers.sinkgd import scale_by_sinkhorn, sinkgd
from multinorm_optax._optimizers.swan import scale_by_swan, swan
from multinorm_optax._optimizers.tokens import scale_by_token_sinkhorn
from multinorm_optax._training.audit import audit
from multinorm_optax._training.layerwise import LayerwiseModel, layerwise_training
from multinorm_optax._training.stochastic_rounding import apply_updates_stochastically

__version__ = "0.2.0"

__all__ = [
    "EQUINOX_RULES",
    "FLAX_RULES",
    "UNCOVERED",
    "Blocks",
    "ColumnNorm",
    "FrobeniusNorm",
    "Fused",
    "LayerwiseModel",
    "MatrixAxes",
    "MaxNorm",
    "Norm",
    "Projection",
    "RowNorm",
    "SpectralNorm",
    "adam_mini",
    "apply_updates_stochastically",
    "audit",
    "auxiliary_adam",
    "exact_svd",
    "flax_blocks",
    "group_labels",
    "layerwise_training",
    "ldadam",
    "measure_residuals",
    "mngd",
    "multi_normalize",
    "muon_quintic",
    "newton_schulz",
    "normalize",
    "normalize_columns",
    "normalize_rows",
    "normalize_spectral",
    "odd_polynomial",
    "polar_express",
    "resolve_axes",
    "scale_by_adam_mini",
    "scale_by_ldadam",
    "scale_by_operator_norm",
    "scale_by_sinkhorn",
    "scale_by_swan",
    "scale_by_token_sinkhorn",
    "sinkgd",
    "swan",
    "swan_whitening",
    "trace_multi_normalize",
]
