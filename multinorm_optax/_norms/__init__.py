"""Norms, their projections, and the transformations that apply them."""
