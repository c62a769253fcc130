"""Adam-mini: one second moment per block (Zhang et al., arXiv 2406.16793)."""
