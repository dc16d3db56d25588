"""Code that is shared by the files of several families."""
