"""Directions that might learn more than SinkGD and SWAN, on the study's models and text."""
