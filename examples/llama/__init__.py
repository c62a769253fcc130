"""Pre-train a small LLaMA with stateless and ordinary optimizers: see README.md in this folder."""
