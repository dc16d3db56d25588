"""Heads beside a language model, one file each."""
