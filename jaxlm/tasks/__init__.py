"""What a record means: the task that a model is trained for and measured by, without jax."""
