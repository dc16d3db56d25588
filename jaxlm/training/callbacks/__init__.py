"""What the training loop calls: one file each."""
