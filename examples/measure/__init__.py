"""Measurements of the library's optimizers beyond single updates."""
