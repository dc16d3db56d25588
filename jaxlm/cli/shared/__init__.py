"""Code shared by the verbs: the declaration of a verb, its words, the output for people."""
