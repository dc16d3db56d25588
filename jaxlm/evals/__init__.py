"""Measures a model: evaluators, one file each, and samples of text."""
