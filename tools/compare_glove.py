"""GloVe's own steps, cell after cell, beside a run of jaxlm on the same cells.

    jaxlm train configs/classic/glove.yaml
    python tools/compare_glove.py runs/glove               (needs a C compiler)

The formulas of GloVe's C code (Pennington et al. 2014) are compiled and applied to the run's cells,
for as many epochs, from a start of the same distribution. The losses are means over cells: during
each epoch, and of the held-out cells after the last. Neighbours are those among all words.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

import jaxlm
from jaxlm.vectors.table import WordVectors

SOURCE = r"""
#include <math.h>
static float clip(float x) { return x > 100 ? 100 : x < -100 ? -100 : x; }
/* w: [2][v][d + 1], the bias last; g: the sums of squares. Returns the sum of the losses. */
double epoch(float *w, float *g, const int *row, const int *column, const float *count,
             const long *order, long n, long v, int d, float rate) {
  double total = 0;
  for (long k = 0; k < n; k++) {
    long c = order[k];
    float *a = w + (long)row[c] * (d + 1), *b = w + (v + column[c]) * (d + 1);
    float *ga = g + (a - w), *gb = g + (b - w);
    float error = a[d] + b[d] - logf(count[c]);
    for (int i = 0; i < d; i++) error += a[i] * b[i];
    float f = count[c] > 100 ? error : powf(count[c] / 100, 0.75f) * error;
    total += 0.5 * f * error;
    for (int i = 0; i < d; i++) {
      float sa = clip(f * b[i]) * rate, sb = clip(f * a[i]) * rate;
      a[i] -= sa / sqrtf(ga[i]);
      b[i] -= sb / sqrtf(gb[i]);
      ga[i] += sa * sa;
      gb[i] += sb * sb;
    }
    a[d] -= f / sqrtf(ga[d]);
    b[d] -= f / sqrtf(gb[d]);
    ga[d] += f * f;
    gb[d] += f * f;
  }
  return total;
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=int, help="default: the run's")
    args = parser.parse_args()
    run = jaxlm.load(args.run)
    manifest = json.loads((args.run / "data_manifest.json").read_text())
    store = Path(manifest["stores"]["train"]["folder"])
    train, held = (read(store, split) for split in ("train", "validation"))
    steps, config = run.step, run.config
    cells = steps * config.train.batch_size * config.data.row_cells
    epochs = args.epochs or max(1, round(cells / len(train["rows"])))
    vocab, size = run.tokenizer.vocab_size, config.model.hidden_size
    print(f"{len(train['rows']):,} cells, {vocab:,} words, {size} dimensions, {epochs} epochs")
    tables = reference(train, vocab, size, epochs, config.optimizer.learning_rate)
    own = run.params
    stacked = np.stack([
        np.column_stack([own["words"], own["word_bias"]]),
        np.column_stack([own["contexts"], own["context_bias"]]),
    ])  # fmt: skip
    for name, found in (("reference", tables), ("jaxlm", stacked)):
        print(f"{name}: held-out loss {loss(found, held):.5f}, loss {loss(found, train):.5f}")
    reference_words = WordVectors.of_tokenizer(run.tokenizer, tables[0, :, :-1] + tables[1, :, :-1])
    print(f"common among 10 neighbours: {overlap(run.vectors, reference_words):.3f}")
    again = reference(train, vocab, size, epochs, config.optimizer.learning_rate, seed=1)
    other = WordVectors.of_tokenizer(run.tokenizer, again[0, :, :-1] + again[1, :, :-1])
    print(f"common for two seeds of the reference: {overlap(other, reference_words):.3f}")


def read(store: Path, split: str) -> dict[str, np.ndarray]:
    kinds = {"rows": np.int32, "columns": np.int32, "counts": np.float32}
    return {n: np.fromfile(store / f"{split}_{n}.bin", kind) for n, kind in kinds.items()}


def reference(
    cells: dict[str, np.ndarray], vocab: int, size: int, epochs: int, rate: float, seed: int = 0
) -> np.ndarray:
    """[2, V, D + 1] the tables after these epochs."""
    rng = np.random.default_rng(seed)
    w = ((rng.random((2, vocab, size + 1)) - 0.5) / size).astype(np.float32)
    g, n = np.ones_like(w), len(cells["rows"])
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "glove.c", Path(folder) / "glove.so"
        source.write_text(SOURCE)
        subprocess.run(
            ["cc", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", "-o", library, source,
             "-lm"],
            check=True,
        )  # fmt: skip
        code: Any = ctypes.CDLL(str(library))
    code.epoch.restype = ctypes.c_double
    for k in range(epochs):
        order, began = rng.permutation(n).astype(np.int64), time.process_time()
        pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (w, g, *cells.values(), order)]
        total = code.epoch(
            *pointers, ctypes.c_long(n), ctypes.c_long(vocab), size, ctypes.c_float(rate)
        )
        seconds = time.process_time() - began
        print(f"reference, epoch {k + 1}: loss {total / n:.5f}, {n / seconds:,.0f} cells/s")
    return w


def loss(tables: np.ndarray, cells: dict[str, np.ndarray]) -> float:
    total, n = 0.0, len(cells["rows"])
    for begin in range(0, n, 2**18):
        rows, columns, counts = (x[begin : begin + 2**18] for x in cells.values())
        w, c = tables[0, rows].astype(np.float64), tables[1, columns].astype(np.float64)
        error = (w[:, :-1] * c[:, :-1]).sum(1) + w[:, -1] + c[:, -1] - np.log(counts)
        total += (np.minimum(1, (counts / 100) ** 0.75) * error**2).sum() / 2
    return total / n


def overlap(a: WordVectors, b: WordVectors, words: int = 200) -> float:
    """The share of the 10 nearest words that two tables have in common, for frequent words."""
    chosen = [word for word in a.words if word.isalpha()][:words]
    near = ([{w for w, _ in t.nearest(word, 10)} for word in chosen] for t in (a, b))
    return float(np.mean([len(x & y) / 10 for x, y in zip(*near, strict=True)]))


if __name__ == "__main__":
    main()
