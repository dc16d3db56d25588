"""Which parameters of a model are trained, and what is added to it.

A new adapter is one file here; derive from `Adapter` (base.py).
"""
