"""The callbacks that the training loop calls.

A new callback is one file here; derive from `Callback` (base.py).
"""
