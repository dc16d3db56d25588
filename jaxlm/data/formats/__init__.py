"""The shapes of the files that users have: one file each, recognised by their columns."""
