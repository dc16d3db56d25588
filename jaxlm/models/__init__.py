"""Models.

A new model is one file here; derive from `ModelConfig` (jaxlm/core/types.py). A new family of
Transformers is one file in families/.
"""
