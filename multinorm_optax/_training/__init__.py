"""What training needs around an optimizer: layer-wise steps, rounding, an audit."""
