"""Sources of documents.

A new source is one file here; derive from `Source` (base.py).
"""
