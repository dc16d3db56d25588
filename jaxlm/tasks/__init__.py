"""The tasks: each says what a record means, without jax.

A new task is one file here; derive from `Task` (base.py).
"""
