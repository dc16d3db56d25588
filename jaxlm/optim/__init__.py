"""Optimizers as optax transformations, by config; schedules and param groups."""
