"""N-gram models of texts larger than the memory: counted and smoothed on disk, in parts.

    build(ArrayText(tokens), "model.ngrams", folder="work", order=5, vocab_size=64000, bos=1,
          words=words, smoothing=KneserNey(), memory=400_000_000)
    model, words = read_binary("model.ngrams")

The n-grams of orders 2 to N are divided by their first two tokens into parts that fit into the
memory. A part is sorted by itself, and its n-grams have numbers that follow those of the part
before. The result of each step for each part is one file (`work.py`), so a build that is killed
continues, and any number of processes that see the folder share it; the model is the same to the
last bit, and the same as that of `count` and `Smoothing.estimate` in memory.

`counting.py` has the steps from the text to counts, `estimating.py` those from counts to the file.
"""

from jaxlm.ngrams.on_disk.build import build
from jaxlm.ngrams.on_disk.text import ArrayText, StoredText, Text

__all__ = ["ArrayText", "StoredText", "Text", "build"]
