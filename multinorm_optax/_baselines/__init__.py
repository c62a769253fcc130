"""Low-memory baselines from the same papers, for comparison."""
