"""Adapters: which parameters of a model are trained, and what is added to it for that."""
