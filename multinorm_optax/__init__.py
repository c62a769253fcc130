"""Stateless optimizers for optax: gradients of unit size in several norms at once.

Every norm's projection is an `optax.GradientTransformation` without state; `multi_normalize` runs
several of them as an alternating fixed-point iteration; SinkGD and SWAN are instances of it. The
modules, in the order of the mathematics: `_axes`, `_roles`, `_paths`, `_rules`, `_precision`,
`_matrices`, `_orthogonalize`, `_norms`, `_projections`, `_alternation`, `_diagonal_scaling`,
`_multi_normalize`, `_diagnostics`, `_whole_model`, `_sinkgd`, `_swan`, `_token_sinkhorn`, `_mngd`,
`_subspace`, `_subspace_adam`, `_ldadam`, `_blocks`, `_block_presets`, `_block_means`, `_adam_mini`,
`_dependence`, `_optimizer_parts`, `_layer_stack`, `_layerwise`, `_stochastic_rounding`, `_audit`.
Import from the package itself.
"""

from multinorm_optax._adam_mini import ScaleByAdamMiniState, adam_mini, scale_by_adam_mini
from multinorm_optax._audit import Audit, AuditRow, audit
from multinorm_optax._axes import MatrixAxes
from multinorm_optax._block_presets import flax_blocks, llama_blocks
from multinorm_optax._blocks import Blocks, FusedBlocks, resolve_blocks
from multinorm_optax._diagnostics import (
    MultiNormalizeTrace,
    measure_residuals,
    trace_multi_normalize,
)
from multinorm_optax._layerwise import LayerwiseModel, layerwise_step
from multinorm_optax._ldadam import ScaleByLDAdamState, ldadam, scale_by_ldadam
from multinorm_optax._mngd import mngd
from multinorm_optax._multi_normalize import multi_normalize
from multinorm_optax._norms import (
    ColumnNorm,
    EuclideanNorm,
    FrobeniusNorm,
    MaxNorm,
    Norm,
    Projection,
    RowNorm,
    SpectralNorm,
)
from multinorm_optax._orthogonalize import (
    exact_svd,
    muon_quintic,
    newton_schulz,
    odd_polynomial,
    polar_express,
    polar_express_coefficients,
    swan_whitening,
)
from multinorm_optax._projections import (
    normalize,
    normalize_columns,
    normalize_frobenius,
    normalize_max,
    normalize_rows,
    normalize_spectral,
)
from multinorm_optax._rules import (
    EQUINOX_RULES,
    FLAX_RULES,
    LLAMA_RULES,
    group_labels,
    resolve_axes,
)
from multinorm_optax._sinkgd import scale_by_sinkhorn, sinkgd
from multinorm_optax._stochastic_rounding import apply_updates_stochastically
from multinorm_optax._swan import CenteredRows, Oriented, center_rows, scale_by_swan, swan
from multinorm_optax._token_sinkhorn import scale_by_token_sinkhorn, zero_small_rows
from multinorm_optax._whole_model import AdamGroup, whole_model

__version__ = "0.1.0"

__all__ = [
    "EQUINOX_RULES",
    "FLAX_RULES",
    "LLAMA_RULES",
    "AdamGroup",
    "Audit",
    "AuditRow",
    "Blocks",
    "CenteredRows",
    "ColumnNorm",
    "EuclideanNorm",
    "FrobeniusNorm",
    "FusedBlocks",
    "LayerwiseModel",
    "MatrixAxes",
    "MaxNorm",
    "MultiNormalizeTrace",
    "Norm",
    "Oriented",
    "Projection",
    "RowNorm",
    "ScaleByAdamMiniState",
    "ScaleByLDAdamState",
    "SpectralNorm",
    "adam_mini",
    "apply_updates_stochastically",
    "audit",
    "center_rows",
    "exact_svd",
    "flax_blocks",
    "group_labels",
    "layerwise_step",
    "ldadam",
    "llama_blocks",
    "measure_residuals",
    "mngd",
    "multi_normalize",
    "muon_quintic",
    "newton_schulz",
    "normalize",
    "normalize_columns",
    "normalize_frobenius",
    "normalize_max",
    "normalize_rows",
    "normalize_spectral",
    "odd_polynomial",
    "polar_express",
    "polar_express_coefficients",
    "resolve_axes",
    "resolve_blocks",
    "scale_by_adam_mini",
    "scale_by_ldadam",
    "scale_by_sinkhorn",
    "scale_by_swan",
    "scale_by_token_sinkhorn",
    "sinkgd",
    "swan",
    "swan_whitening",
    "trace_multi_normalize",
    "whole_model",
    "zero_small_rows",
]
