"""The optimizers of the papers: SinkGD, SWAN, MNGD, with an auxiliary Adam."""
