"""Changes of a text that keep its meaning, drawn again whenever a training row is read.

A new augmentation is one file here; derive from `Augment` (base.py).
"""
