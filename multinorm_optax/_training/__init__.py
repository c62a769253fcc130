"""Training with an optimizer: layer-wise steps, stochastic rounding, an audit."""
