"""Stateless optimizers for optax: gradients of unit size in several norms at once.

Every norm's projection is an `optax.GradientTransformation` without state; `multi_normalize` runs
several of them as an alternating fixed-point iteration; SinkGD and SWAN are instances of it. The
modules, in the order of the mathematics: `_axes`, `_roles`, `_paths`, `_rules`, `_precision`,
`_matrices`, `_orthogonalize`, `_norms`, `_projections`, `_alternation`, `_diagonal_scaling`,
`_multi_normalize`, `_diagnostics`, `_whole_model`, `_sinkgd`, `_swan`, `_token_sinkhorn`, `_mngd`,
`_subspace`, `_subspace_adam`, `_ldadam`, `_blocks`, `_block_presets`, `_block_means`, `_adam_mini`,
`_half_floats`, `_layer_stack`, `_layerwise`, `_stochastic_rounding`, `_audit`.
Import from the package itself.
"""

from multinorm_optax._alternation.combinator import multi_normalize
from multinorm_optax._alternation.diagnostics import (
    MultiNormalizeTrace,
    measure_residuals,
    trace_multi_normalize,
)
from multinorm_optax._baselines.adam_mini.adam_mini import (
    ScaleByAdamMiniState,
    adam_mini,
    scale_by_adam_mini,
)
from multinorm_optax._baselines.adam_mini.blocks import Blocks, FusedBlocks, resolve_blocks
from multinorm_optax._baselines.adam_mini.presets import flax_blocks, llama_blocks
from multinorm_optax._baselines.ldadam.ldadam import ScaleByLDAdamState, ldadam, scale_by_ldadam
from multinorm_optax._matrices.axes import MatrixAxes
from multinorm_optax._matrices.rules import (
    EQUINOX_RULES,
    FLAX_RULES,
    LLAMA_RULES,
    group_labels,
    resolve_axes,
)
from multinorm_optax._norms.normalize import (
    normalize,
    normalize_columns,
    normalize_frobenius,
    normalize_max,
    normalize_rows,
    normalize_spectral,
)
from multinorm_optax._norms.norms import (
    ColumnNorm,
    EuclideanNorm,
    FrobeniusNorm,
    MaxNorm,
    Norm,
    Projection,
    RowNorm,
    SpectralNorm,
)
from multinorm_optax._norms.orthogonalize import (
    exact_svd,
    muon_quintic,
    newton_schulz,
    odd_polynomial,
    polar_express,
    polar_express_coefficients,
    swan_whitening,
)
from multinorm_optax._optimizers.auxiliary_adam import AdamGroup, whole_model
from multinorm_optax._optimizers.mngd import mngd
from multinorm_optax._optimizers.sinkgd import scale_by_sinkhorn, sinkgd
from multinorm_optax._optimizers.swan import (
    CenteredRows,
    Oriented,
    center_rows,
    scale_by_swan,
    swan,
)
from multinorm_optax._optimizers.tokens import scale_by_token_sinkhorn, zero_small_rows
from multinorm_optax._training.audit import Audit, AuditRow, audit
from multinorm_optax._training.layerwise import (
    LayerwiseModel,
    LayerwiseState,
    LayerwiseTraining,
    layerwise_training,
)
from multinorm_optax._training.stochastic_rounding import apply_updates_stochastically

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
    "LayerwiseState",
    "LayerwiseTraining",
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
    "layerwise_training",
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
