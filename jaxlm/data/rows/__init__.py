"""Rows of a batch from stored documents: order, windows, packing, mixtures, splits."""
