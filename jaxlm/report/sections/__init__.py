"""The sections of a report.

A new section is one file here; derive from `Section` (base.py).
"""
