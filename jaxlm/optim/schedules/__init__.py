"""Learning-rate schedules. A new one is one file here; derive from `Warmup` (base.py)."""
