"""The objectives by which a model learns.

A new objective is one file here; derive from `Objective` (base.py). One that
counts instead of descending derives from `Counting` (counting.py).
"""
