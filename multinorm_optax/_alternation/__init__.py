"""The alternating fixed-point iteration of several projections, and its diagnostics."""
