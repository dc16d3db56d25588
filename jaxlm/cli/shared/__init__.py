"""What the verbs share: how a verb is declared, its words, what people are shown."""
