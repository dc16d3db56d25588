"""How a prompt becomes ids for a model.

A new prompt format is one file here; derive from `PromptFormat` (base.py).
"""
