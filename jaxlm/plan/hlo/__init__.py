"""Reads the text of a compiled program: FLOPs, bytes, network, memory over time."""
