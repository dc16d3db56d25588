"""Finds, unpacks and reads files as text and rows, for every source."""
