"""Counts a train step by arithmetic, without compiling it."""
