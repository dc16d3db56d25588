"""Checkpoints: asynchronous, checksummed, committed whole or not at all."""
