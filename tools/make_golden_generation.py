"""Writes tests/fixtures/generation.npz: what transformers generates with each option.

    python tools/make_golden_generation.py             (needs torch and transformers)
    python tools/make_golden_generation.py --check     (compares with the file, writes nothing)

The models and prompts are those of tests/models/golden_families.py. Ids that end a text and texts
that stop it are taken from what the model writes without them. Each option must change the text,
and each token must win by more than rounding. Presence and frequency penalties, which transformers
does not have, are a processor of this file, by vLLM's definition, put after transformers' own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerFast

from tests.generate.golden_generation import FIXTURE, STEPS, pieces
from tests.models import golden_families as golden
from tools.golden_rows import DECODERS, ENCODER_DECODERS
from tools.make_golden_families import batch_of, load

MARGIN = 5e-4  # by which the token that is written wins, and the text of a beam
NAMES = {"min_tokens": "min_new_tokens", "stop": "stop_strings"}  # transformers' names
OWN = ("presence_penalty", "frequency_penalty")
# case: model, options of `Sampling`, how many ids end a text
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "gpt2_repetition": ("gpt2", {"repetition_penalty": 1.4}, 0),
    "t5_ngrams": ("t5", {"no_repeat_ngram_size": 2}, 0),
    "gpt2_counts": ("gpt2", {"presence_penalty": 0.6, "frequency_penalty": 0.5}, 0),
    "gpt2_minimum": ("gpt2", {"min_tokens": 9}, 2),
    "llama_ends": ("llama_mha", {}, 3),
    "t5_stop": ("t5", {"stop": 1}, 1),
    "llama_all": (
        "llama_mha",
        {
            "repetition_penalty": 1.2,
            "no_repeat_ngram_size": 3,
            "min_tokens": 6,
            "presence_penalty": 0.3,
            "frequency_penalty": -0.2,
            "stop": 1,
        },
        2,
    ),
    "gpt2_beams": (
        "gpt2",
        {"num_beams": 4, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
        2,
    ),
    "t5_beams": ("t5", {"num_beams": 3, "repetition_penalty": 1.3, "length_penalty": 0.5}, 3),
    "llama_beams": ("llama_mha", {"num_beams": 3, "min_tokens": 5, "stop": 1}, 1),
}
# the scores of a draw: every warper, after every processor
DRAWN: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.6},
    "top_k": {"temperature": 1.5, "top_k": 7},
    "top_p": {"temperature": 0.7, "top_p": 0.8},
    "min_p": {"temperature": 1.6, "min_p": 0.2},
    "all": {
        "temperature": 1.3,
        "top_k": 30,
        "top_p": 0.9,
        "min_p": 0.05,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
    },
}


class CountPenalties(LogitsProcessor):
    """vLLM's: logits -= frequency * count + presence * (count > 0), of the new text."""

    def __init__(self, presence: float, frequency: float, start: int) -> None:
        self.presence, self.frequency, self.start = presence, frequency, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros_like(scores)
        new = input_ids[:, self.start :]
        counts.scatter_add_(1, new, torch.ones(new.shape))
        return scores - self.frequency * counts - self.presence * (counts > 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="compare with the file")
    check = parser.parse_args().check
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    arrays: dict[str, np.ndarray] = {}
    cases = {}
    for name, (model, options, ends) in CASES.items():
        found, own, eos_ids = continued(model, options, ends)
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
        cases[name] = {"model": model, "options": own, "eos_ids": eos_ids}
        print(name, own, eos_ids, (found["ids"] > 0).sum(1).tolist())
    for name, options in DRAWN.items():
        found = drawn("gpt2", options)
        arrays |= {f"drawn_{name}/{key}": value for key, value in found.items()}
        cases[f"drawn_{name}"] = {"model": "gpt2", "options": options, "eos_ids": []}
    arrays["cases"] = np.array(json.dumps(cases))
    if not check:
        np.savez_compressed(FIXTURE, **arrays)
        return
    with np.load(FIXTURE) as file:
        assert {*file} == {*arrays}, "other cases"
        for key, value in arrays.items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(file[key], value, rtol=1e-4, atol=1e-4, err_msg=key)
            else:
                np.testing.assert_array_equal(file[key], value, err_msg=key)
    print(f"{FIXTURE}: equal")


def continued(
    name: str, options: dict[str, Any], ends: int
) -> tuple[dict[str, np.ndarray], dict[str, Any], list[int]]:
    """(ids, and scores of beams; the options as they were asked; the ids that end a text)."""
    model, prompts = model_of(name)
    plain = {key: value for key, value in options.items() if key not in ("stop", "min_tokens")}
    free = [one(model, prompt, plain, [], margin=0) for prompt in prompts]
    if (
        "no_repeat_ngram_size" in options
        or "repetition_penalty" in options
        or set(OWN) & {*options}
    ):
        bare = {"num_beams": options.get("num_beams", 1)}
        assert any(
            a[0] != one(model, p, bare, [], margin=0)[0] for a, p in zip(free, prompts, strict=True)
        )
    vocab = model.config.vocab_size
    eos_ids: list[int] = []
    own = dict(options)
    if ends:  # one that ends the first text, one the second, and one that may
        eos_ids = [free[0][0][7], free[1][0][11], vocab - 1][:ends]
    if "stop" in options:
        text = pieces(vocab)
        joined = "".join(text[i] for i in free[0][0][6:9])
        other = "".join(text[i] for i in free[1][0][4:6])
        own["stop"] = [joined[1:-1] or joined, other][: options["stop"]]
    rows = [one(model, prompt, own, eos_ids) for prompt in prompts]
    ids = np.zeros((len(rows), STEPS), np.int32)
    for row, (found, _) in enumerate(rows):
        ids[row, : len(found)] = found
    if ends or "stop" in options:
        assert min(len(found) for found, _ in rows) < STEPS, f"{name}: no text ends"
    arrays = {"ids": ids}
    if options.get("num_beams", 1) > 1:
        arrays["scores"] = np.array([score for _, score in rows], np.float32)
    return arrays, own, eos_ids


def model_of(name: str) -> tuple[Any, list[torch.Tensor]]:
    case = golden.load_case(name)
    architecture, row = (DECODERS | ENCODER_DECODERS)[name]
    a = case.arrays
    key, sizes = "prompts", a.get("prompt_lengths")
    if "encoder_tokens" in a:
        key, sizes = "encoder_tokens", a["encoder_mask"][:2].sum(1)
    prompts = [batch_of(tokens[:size]) for tokens, size in zip(a[key][:2], sizes, strict=True)]
    return load(getattr(transformers, architecture), row, case.weights()), prompts


def one(
    model: Any,
    ids: torch.Tensor,
    options: dict[str, Any],
    eos_ids: list[int],
    *,
    margin: float = MARGIN,
) -> tuple[list[int], float]:
    """The new ids of one prompt up to their end, and the score of a beam."""
    start = 1 if model.config.is_encoder_decoder else ids.shape[1]
    extra = LogitsProcessorList()
    if set(options) & {*OWN}:
        extra.append(CountPenalties(*(options.get(key, 0.0) for key in OWN), start))
    beams = options.get("num_beams", 1)
    asked = {NAMES.get(key, key): value for key, value in options.items() if key not in OWN}
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=STEPS,
        eos_token_id=eos_ids or None,
        pad_token_id=0,
        logits_processor=extra,
        num_return_sequences=min(beams, 2),
        return_dict_in_generate=True,
        output_scores=True,
        **({"early_stopping": False} if beams > 1 else {}),
        **({"tokenizer": tokenizer_of(model.config.vocab_size)} if "stop" in options else {}),
        **asked,
    )
    text = out.sequences[0, start:].tolist()
    if beams > 1:
        first, second = out.sequences_scores.tolist()
        assert first - second >= margin, f"beams {options}: {first - second}"
        used = int((out.beam_indices[0] >= 0).sum())
        return text[:used], first
    for scores in out.scores[: len(text)]:
        top = scores[0].topk(2).values
        assert top[0] - top[1] >= margin, f"{options}: two tokens are as likely"
    return text, 0.0


def tokenizer_of(vocab: int) -> PreTrainedTokenizerFast:
    """One whose ids have the texts of `pieces`."""
    words = {piece: i for i, piece in enumerate(pieces(vocab))}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def drawn(name: str, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """The ids of a drawn text, the logits of each step, and what the draw was made from."""
    model, prompts = model_of(name)
    torch.manual_seed(0)
    ids = prompts[0]
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=STEPS // 2,
        do_sample=True,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **{"top_k": 0, **options},
    )
    return {
        "prompt": ids[0].numpy().astype(np.int32),
        "ids": out.sequences[0, ids.shape[1] :].numpy().astype(np.int32),
        "logits": torch.cat(out.logits).numpy(),
        "scores": torch.cat(out.scores).numpy(),
    }


if __name__ == "__main__":
    main()
