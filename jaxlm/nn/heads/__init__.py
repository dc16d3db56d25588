"""Heads beside a language model.

A new head is one file here; derive from `TaskHeadConfig` (base.py).
"""
