"""What the files of several families use."""
