"""Prompt formats, which turn a prompt into ids for a model.

A new prompt format is one file here; derive from `PromptFormat` (base.py).
"""
