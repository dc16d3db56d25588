"""Adapters: the trained parameters of a model, and those added to it.

A new adapter is one file here; derive from `Adapter` (base.py).
"""
