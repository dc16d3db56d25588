"""jaxlm: one engine that trains every kind of language model, and never loses a run."""

__version__ = "0.1.0"
