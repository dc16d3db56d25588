"""Changes of a text that keep its meaning, drawn again whenever a training row is read."""
