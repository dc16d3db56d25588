"""Documents as token ids on disk: prepared once, memory-mapped."""
