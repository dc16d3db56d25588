"""Learning-rate schedules.

A new schedule is one file here; derive from `Warmup` (base.py).
"""
