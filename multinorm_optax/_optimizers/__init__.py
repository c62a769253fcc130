"""The directions and optimizers of the papers: SinkGD, SWAN and MNGD."""
