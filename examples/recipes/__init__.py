"""One recipe for each framework: SinkGD in its usual training loop, then the audit.

Each file runs by itself, such as `python -m examples.recipes.flax_nnx`.
"""
