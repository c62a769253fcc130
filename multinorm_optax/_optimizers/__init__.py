"""The optimizers of the papers: SinkGD, SWAN and MNGD, each with an auxiliary Adam."""
