"""Optimizers.

A new optimizer is one file here; derive from `OptimizerConfig` (base.py).
"""
