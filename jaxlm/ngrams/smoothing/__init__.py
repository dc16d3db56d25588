"""Smoothings: how counts of n-grams become probabilities.

A new smoothing is one file here; derive from `Smoothing` (base.py).
"""
