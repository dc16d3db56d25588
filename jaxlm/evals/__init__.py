"""Measures a model, and samples text from it.

A new evaluator is one file here; derive from `Evaluator` (base.py).
"""
