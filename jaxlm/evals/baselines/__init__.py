"""Baselines: what is reached without training a neural network.

A new baseline is one file here; derive from `Baseline` (base.py).
"""
