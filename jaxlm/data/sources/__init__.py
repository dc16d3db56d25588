"""Where documents come from.

A new source is one file here; derive from `Source` (base.py).
"""
