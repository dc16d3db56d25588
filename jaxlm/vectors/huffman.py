"""The Huffman tree of a vocabulary, for the hierarchical softmax (Morin and Bengio 2005).

    tree = huffman(counts)
    tree.nodes[w, : tree.lengths[w]]      # the inner nodes from the root to word w
    tree.codes[w, : tree.lengths[w]]      # 0 or 1: the branch that leads on from each

The probability of w is the product over its nodes of sigmoid(+-score), with + where the code is 0.
Frequent words have short codes: no other tree has a smaller sum of count times length.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Tree(NamedTuple):
    """The paths to the words; padded with zeros to the longest."""

    nodes: np.ndarray  # [V, L] int32, numbers of inner nodes
    codes: np.ndarray  # [V, L] int8
    lengths: np.ndarray  # [V] int32; 0 for a word without a count


def huffman(counts: np.ndarray) -> Tree:
    """The tree of the words that have a count; the root is the last of its n - 1 inner nodes.

    Words in order of their counts and merged nodes in order of their making are two sorted queues,
    so each step takes the two smallest in constant time, as word2vec.c does.
    """
    counts = np.asarray(counts, np.int64)
    words = np.flatnonzero(counts > 0)
    words = words[np.argsort(counts[words], kind="stable")]
    n = len(words)
    sizes = [*counts[words].tolist(), *[0] * max(n - 1, 0)]
    parent, branch = [0] * len(sizes), [0] * len(sizes)
    leaf, inner = 0, n
    for made in range(n, len(sizes)):
        for code in (0, 1):
            if leaf < n and (inner >= made or sizes[leaf] <= sizes[inner]):
                smallest, leaf = leaf, leaf + 1
            else:
                smallest, inner = inner, inner + 1
            sizes[made] += sizes[smallest]
            parent[smallest], branch[smallest] = made, code
    paths: list[tuple[list[int], list[int]]] = [([], [])] * len(sizes)
    for place in range(len(sizes) - 2, -1, -1):  # a parent comes after its children
        nodes, codes = paths[parent[place]]
        paths[place] = [*nodes, parent[place] - n], [*codes, branch[place]]
    longest = max((len(nodes) for nodes, _ in paths[:n]), default=0)
    shape = len(counts), max(longest, 1)
    tree = Tree(np.zeros(shape, np.int32), np.zeros(shape, np.int8), np.zeros(shape[0], np.int32))
    for word, (nodes, codes) in zip(words, paths, strict=False):
        tree.nodes[word, : len(nodes)], tree.codes[word, : len(codes)] = nodes, codes
        tree.lengths[word] = len(nodes)
    return tree
