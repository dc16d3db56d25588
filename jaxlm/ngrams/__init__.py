"""N-gram language models in numpy: counts, smoothing, queries, ARPA files.

    counts = count(tokens, order=5, vocab_size=264, bos=257)    # tokens: bos begins each sentence
    model = KneserNey().estimate(counts)
    model.log_probs(other_tokens)                               # [T] natural logarithms

It is a package by itself, without jax, because a table of counts serves several parts: a model
that is counted, the baseline of every language model, and files of other tools.
A new smoothing is one file in `smoothing/`.
"""
