"""Text <-> ids.

A new tokenizer is one file here; derive from `TokenizerConfig` (jaxlm/core/types.py).
"""
