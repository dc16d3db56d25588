"""Writes tests/fixtures/beams.npz: what transformers' beam search finds where texts can end.

    python tools/make_golden_beams.py      (needs torch and transformers)

With models of tools/make_golden_families.py, and searches that differ in the number of beams and in
how much they favour long texts. An id that the model itself writes is the end of a text, so that
some beams end early and others never. The best text must win by more than rounding.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import transformers

from tests.models import golden_families as golden
from tools.golden_rows import DECODERS, ENCODER_DECODERS
from tools.make_golden_families import BEAM_MARGIN, BEAM_STEPS, batch_of, load

# model, beams, length penalty
SEARCHES = [("gpt2", 5, 0.0), ("llama_mha", 3, 0.5), ("t5", 4, 0.5), ("t5", 3, 1.0)]


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    arrays = {}
    for name, beams, penalty in SEARCHES:
        found = search(name, beams, penalty)
        print(name, beams, penalty, found["end"], found["lengths"].tolist())
        arrays |= {f"{name},{beams},{penalty}/{key}": array for key, array in found.items()}
    np.savez_compressed(golden.FIXTURES.parent / "beams.npz", **arrays)


def search(name: str, beams: int, penalty: float) -> dict[str, np.ndarray]:
    """The best text and score of each prompt, with the first end id that tells something."""
    case = golden.load_case(name)
    architecture, row = (DECODERS | ENCODER_DECODERS)[name]
    model = load(getattr(transformers, architecture), row, case.weights())
    a = case.arrays
    key, sizes = "prompts", a.get("prompt_lengths")
    if "encoder_tokens" in a:
        key, sizes = "encoder_tokens", a["encoder_mask"][:2].sum(1)
    texts = [batch_of(tokens[:size]) for tokens, size in zip(a[key][:2], sizes, strict=True)]
    for end in dict.fromkeys(itertools.chain(*a["beam"].tolist(), *a["greedy"].tolist())):
        rows = [best(model, ids, end, beams, penalty) for ids in texts]
        lengths = np.array([int((row != 0).sum()) for row, _, _ in rows])
        margin = min(margin for _, _, margin in rows)
        if margin > BEAM_MARGIN and lengths.min() > 1 and lengths.max() < BEAM_STEPS:
            return {
                "ids": np.stack([row for row, _, _ in rows]),
                "scores": np.array([score for _, score, _ in rows], np.float32),
                "end": np.array(end),
                "lengths": lengths,
            }
    raise SystemExit(f"{name}: no end tells anything")


def best(model, ids, end, beams, penalty):
    """(ids padded with 0, score, how much better than the second)."""
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        num_beams=beams,
        num_return_sequences=2,
        length_penalty=penalty,
        early_stopping=False,
        max_new_tokens=BEAM_STEPS,
        eos_token_id=end,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    start = 1 if model.config.is_encoder_decoder else ids.shape[1]
    text = out.sequences[0, start:].numpy().astype(np.int32)
    text = text[: 1 + text.tolist().index(end)] if end in text else text  # what follows fills up
    first, second = out.sequences_scores.tolist()
    return np.pad(text, (0, BEAM_STEPS - len(text))), first, first - second


if __name__ == "__main__":
    main()
