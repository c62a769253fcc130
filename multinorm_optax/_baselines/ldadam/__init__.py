"""LDAdam: Adam in a moving subspace (Robert et al., arXiv 2410.16103)."""
