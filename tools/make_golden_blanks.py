"""Writes tests/fixtures/glm_blanks.npz: how a small GLM fills the blanks of two texts, greedily.

    python tools/make_golden_blanks.py      (needs torch and transformers)

The model is glm_10b of tools/make_golden_families.py, which reads the whole text for every token.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch

from tests.models import golden_families as golden
from tools.golden_plain import PLAIN
from tools.golden_rows import INFILLERS
from tools.make_golden_families import FIRST_WORD, GREEDY_MARGIN, GREEDY_STEPS, batch_of, load

BLANK, START, LENGTHS, DISTINCT = 1, 2, (40, 23), 6


def main() -> None:
    case = golden.load_case("glm_10b")
    architecture, row = INFILLERS["glm_10b"]
    model = load(PLAIN[architecture], row, case.weights())
    for seed in itertools.count():
        rng, found = np.random.default_rng(seed), []
        for length in LENGTHS:
            prompt = rng.integers(FIRST_WORD, model.config.vocab_size, size=length)
            prompt[rng.integers(length)] = BLANK
            found.append((prompt, *filled(model, prompt)))
        texts = [text for _, text, _ in found]
        if min(len(set(t)) for t in texts) >= DISTINCT and min(f[2] for f in found) > GREEDY_MARGIN:
            break
    prompts = np.zeros((2, max(LENGTHS)), np.int32)
    for i, (prompt, *_) in enumerate(found):
        prompts[i, : len(prompt)] = prompt
    path = golden.FIXTURES.parent / "glm_blanks.npz"
    lengths, texts = np.array(LENGTHS), np.array(texts, np.int32)
    np.savez_compressed(path, prompts=prompts, lengths=lengths, greedy=texts)
    print(f"{path.name}: seed {seed}, {[len(set(text)) for text in texts.tolist()]} different ids")


@torch.no_grad()
def filled(model, prompt: np.ndarray) -> tuple[list[int], float]:
    """The tokens that follow START at the place of the blank, and the closest choice."""
    place, tokens, margin = int(np.argmax(prompt == BLANK)), [*prompt.tolist(), START], np.inf
    for count in range(1, GREEDY_STEPS + 1):
        order = np.concatenate([np.arange(len(prompt)), np.full(count, place)])
        inner = np.concatenate([np.zeros(len(prompt), int), np.arange(1, count + 1)])
        output = model(batch_of(np.array(tokens)), batch_of(np.stack([order, inner])), len(prompt))
        best = output.logits[0, -1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        tokens.append(int(best.indices[0]))
    return tokens[len(prompt) + 1 :], margin


if __name__ == "__main__":
    main()
