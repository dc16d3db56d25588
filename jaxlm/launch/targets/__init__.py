"""The targets on which a run starts.

A new target is one file here; derive from `LaunchConfig` (base.py).
"""
