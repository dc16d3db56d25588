"""Measures a model: the loss of a split, samples of text."""
