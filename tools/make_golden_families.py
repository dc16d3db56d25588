"""Writes tests/fixtures/families/*.npz: what small models of each family compute, by transformers.

    python tools/make_golden_families.py --only 'llama*'      (needs torch and transformers)

The models are those of tools/golden_rows.py; tests/models/golden_families.py draws their weights
and reads the files. Every document is run alone and without padding, and its results are put where
packed or padded rows have it; loss and gradients are those of all documents.

A seed is skipped if its model repeats itself, or if a result depends on a close choice: a greedy
choice or a best beam that wins by too little, or results that change by more than rounding when the
weights change by one part in a million, such as those of an expert that is chosen narrowly.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from tests.models import golden_families as golden
from tools.golden_plain import PLAIN, Plain
from tools.golden_rows import DECODERS, ENCODER_DECODERS, ENCODERS, INFILLERS, Row

Arrays = dict[str, Any]

FIRST_WORD = 4  # the ids before it have a meaning: padding, [MASK], start and end of a blank
GREEDY_STEPS, BEAM_STEPS, BEAMS = 64, 24, 4
DISTINCT, GREEDY_MARGIN, BEAM_MARGIN, STEADY = 6, 2e-3, 5e-4, 2e-4
LOGITS_EVERY = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases by name")
    parser.add_argument("--seed", type=int, default=0, help="the first one that is tried")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    golden.FIXTURES.mkdir(exist_ok=True)
    tables: list[tuple[dict[str, Row], Callable]] = [
        (DECODERS, decoder_arrays),
        (ENCODERS, encoder_arrays),
        (ENCODER_DECODERS, encoder_decoder_arrays),
        (INFILLERS, infiller_arrays),
    ]
    for table, compute in tables:
        for name in fnmatch.filter(table, arguments.only):
            case = make(name, *table[name], compute, arguments.seed)
            path = golden.save_case(case)
            print(f"{path.name}: seed {case.seed}, {path.stat().st_size / 1000:.0f} kB", flush=True)


def make(
    name: str, architecture: str, row: dict[str, Any], compute: Callable, first_seed: int
) -> golden.Case:
    """The case of the first seed that tells enough and on which no close call hangs."""
    cls = PLAIN.get(architecture) or getattr(transformers, architecture)
    published = {"architectures": [architecture], "model_type": cls.config_class.model_type, **row}
    config, tensors = fresh(cls, row)
    for seed in itertools.count(first_seed):
        weights = golden.weights(tensors, seed)
        arrays = compute(load(cls, row, weights), seed)
        if varied(arrays) and steady(arrays, compute(load(cls, row, nudged(weights)), seed)):
            return golden.Case(name, config, published, tensors, seed, arrays)
    raise AssertionError


def varied(arrays: Arrays) -> bool:
    """Whether what is generated, if anything is, has several tokens and no close choice."""
    return "greedy" not in arrays or (
        min(len(set(ids)) for ids in arrays["greedy"]) >= DISTINCT
        and arrays["greedy_margin"] >= GREEDY_MARGIN
        and arrays["beam_margin"] >= BEAM_MARGIN
    )


def nudged(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: (w * (1 + 1e-6 * rng.normal(size=w.shape))).astype(np.float32)
        for name, w in weights.items()
    }


def steady(arrays: Arrays, others: Arrays) -> bool:
    """Whether two runs differ by rounding alone."""
    for name in arrays.keys() - {"greedy_margin", "beam_margin"}:
        x, y = np.asarray(arrays[name]), np.asarray(others[name])
        if x.dtype.kind != "f":
            same = np.array_equal(x, y)
        else:
            same = np.abs(x - y).max() <= STEADY * max(1.0, np.abs(x).max())
        if not same:
            return False
    return True


# Models, with their tensors as model.safetensors has them


def fresh(cls: type, row: dict[str, Any]) -> tuple[dict[str, Any], golden.Tensors]:
    """config.json and what the tensors of a new model are like."""
    model = cls(config_of(cls, row))
    config, saved = save(model)
    if hasattr(model, "lm_head") and not row.get("tie_word_embeddings", True):
        # transformers ties T5's head whatever the config says, unless a file has both matrices.
        saved.setdefault("lm_head.weight", model.lm_head.weight)
    tensors = {}
    for name, tensor in sorted(saved.items()):
        base = 0.0 if tensor.ndim > 1 else tensor.flatten()[0].item()
        assert tensor.ndim > 1 or (tensor == base).all(), name
        tensors[name] = (tuple(tensor.shape), base)
    return config, tensors


def config_of(cls: type, row: dict[str, Any]) -> PreTrainedConfig:
    return cls.config_class(**copy.deepcopy(row))  # it would write into the row's dicts


def save(model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """config.json and the tensors of model.safetensors: the tied once, experts one by one."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads(Path(folder, "config.json").read_text())
        return config, load_file(Path(folder, "model.safetensors"))


def load(cls: type, row: dict[str, Any], weights: dict[str, np.ndarray]) -> PreTrainedModel:
    """The model with these weights, all of which it takes and none of which it lacks."""
    config = config_of(cls, row)
    config._attn_implementation = config._experts_implementation = "eager"
    with tempfile.TemporaryDirectory() as folder:
        tensors = {name: torch.tensor(array) for name, array in weights.items()}
        save_file(tensors, Path(folder, "model.safetensors"), metadata={"format": "pt"})
        GenerationConfig().save_pretrained(folder)  # it wants one, whatever is in it
        model, report = cls.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True
        )
    assert not any(report.values()), report
    assert model.config._attn_implementation == "eager"
    model.generation_config = GenerationConfig(
        decoder_start_token_id=0, use_cache=not isinstance(model, Plain)
    )
    return model.eval()


def gradient_array(model: PreTrainedModel, loss: torch.Tensor, seed: int) -> np.ndarray:
    """The loss's gradient under the names of model.safetensors, sketched. The model is spent."""
    loss.backward()
    for parameter in model.parameters():
        gradient = parameter.grad
        parameter.data = torch.zeros_like(parameter) if gradient is None else gradient
    for buffer in model.buffers():
        buffer.zero_()
    _, saved = save(model)
    return np.concatenate(
        [golden.gradient_sketch(name, saved[name].numpy(), seed) for name in sorted(saved)]
    )


# What is computed


def decoder_arrays(model: PreTrainedModel, seed: int) -> Arrays:
    """A whole row and a packed one, and what two prompts are continued with."""
    segment_ids, positions = golden.layout()
    tokens = random_tokens(segment_ids.shape, model.config.vocab_size, seed) * (segment_ids > 0)
    results = Results(segment_ids.shape, seed)
    # From short to long: transformers' dynamic RoPE keeps the frequencies of the longest text.
    for row, start, end in sorted(golden.DOCUMENTS, key=lambda document: document[2] - document[1]):
        ids = batch_of(tokens[row, start:end])
        output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
        results.place(row, start, logits=output.logits[0], hidden=torch.cat(output.hidden_states))
        results.add_loss(output.logits[0, :-1], ids[0, 1:])
    prompt_lengths = np.array([16, 11], np.int32)
    return {
        "tokens": tokens,
        "segment_ids": segment_ids,
        "positions": positions,
        "hidden_last": "raw" if isinstance(model, Plain) else "normed",
        "prompts": tokens[:, :16] * (np.arange(16) < prompt_lengths[:, None]),
        "prompt_lengths": prompt_lengths,
        **generate(model, [batch_of(tokens[row, :n]) for row, n in enumerate(prompt_lengths)]),
        **results.arrays(model),
    }


def encoder_arrays(model: PreTrainedModel, seed: int) -> Arrays:
    """Four rows padded on the right, with a target a token and, for BERT, one a row."""
    config, lengths = model.config, np.array([160, 151, 130, 75])
    mask = right_padded(lengths)
    second = (np.arange(160) >= lengths[:, None] // 3) & (config.type_vocab_size > 1)
    types = mask * second
    tokens = np.where(mask, random_tokens(mask.shape, config.vocab_size, seed), config.pad_token_id)
    targets = random_tokens(mask.shape, config.vocab_size, seed + 1) * mask
    batch = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": types}
    padded = model(**{key: torch.tensor(value).long() for key, value in batch.items()})[0]
    results = Results(mask.shape, seed)
    nsp, pooled = [], []
    for row, length in enumerate(lengths):
        inputs = {key: batch_of(value[row, :length]) for key, value in batch.items()}
        output = model(**inputs, output_hidden_states=True)
        logits = output[0][0]
        torch.testing.assert_close(padded[row, :length], logits, rtol=1e-4, atol=1e-4)
        results.place(row, 0, logits=logits, hidden=torch.cat(output.hidden_states))
        results.add_loss(logits, torch.tensor(targets[row, :length]).long())
        if "seq_relationship_logits" in output:
            nsp.append(output.seq_relationship_logits)
            pooled.append(model.bert.pooler(output.hidden_states[-1]))
    arrays: Arrays = {"tokens": tokens.astype(np.int32), "attention_mask": mask}
    arrays |= {"token_type_ids": types, "targets": targets, "hidden_last": "raw"}
    if nsp:
        nsp_targets = np.array([0, 1, 1, 0], np.int32)
        results.extra_loss = F.cross_entropy(torch.cat(nsp), torch.tensor(nsp_targets).long())
        arrays |= {"nsp_targets": nsp_targets, "nsp": torch.cat(nsp).detach().numpy()}
        arrays |= {"pooled": torch.cat(pooled).detach().numpy()}
    return {**arrays, **results.arrays(model)}


def encoder_decoder_arrays(model: PreTrainedModel, seed: int) -> Arrays:
    """Four inputs padded on the right with an output each, and what two of them are answered."""
    vocab_size, lengths = model.config.vocab_size, np.array([160, 151, 130, 75])
    mask = right_padded(lengths)
    encoder_tokens = random_tokens(mask.shape, vocab_size, seed) * mask
    targets = random_tokens((4, 160), vocab_size, seed + 1)
    tokens = np.pad(targets[:, :-1], ((0, 0), (1, 0)))  # 0 starts an output
    batch = {"input_ids": encoder_tokens, "attention_mask": mask, "decoder_input_ids": tokens}
    padded = model(**{key: torch.tensor(value).long() for key, value in batch.items()}).logits
    encoded, results = Results(mask.shape, seed), Results(tokens.shape, seed)
    texts = [batch_of(encoder_tokens[row, :length]) for row, length in enumerate(lengths)]
    for row, text in enumerate(texts):
        inputs = {"input_ids": text, "decoder_input_ids": batch_of(tokens[row])}
        output = model(**inputs, output_hidden_states=True, use_cache=False)
        logits = output.logits[0]
        torch.testing.assert_close(padded[row], logits, rtol=1e-4, atol=1e-4)
        encoded.place(row, 0, hidden=torch.cat(output.encoder_hidden_states))
        results.place(row, 0, logits=logits, hidden=torch.cat(output.decoder_hidden_states))
        results.add_loss(logits, torch.tensor(targets[row]).long())
    return {
        "encoder_tokens": encoder_tokens,
        "encoder_mask": mask,
        "tokens": tokens,
        "targets": targets,
        "hidden_last": "normed",
        "encoder_hidden_sketch": encoded.hidden_sketch(),
        **generate(model, texts[:2]),
        **results.arrays(model),
    }


def infiller_arrays(model: PreTrainedModel, seed: int) -> Arrays:
    """Four texts, each with two blanks that are written after it in any order."""
    rng = np.random.default_rng(seed)
    samples = [blanks(rng, model.config.vocab_size) for _ in range(4)]
    lengths = np.array([len(sample["tokens"]) for sample in samples], np.int32)
    shape = len(samples), lengths.max()
    arrays: Arrays = {
        **{name: np.zeros(shape, np.int32) for name in ("tokens", "targets", "loss_mask")},
        "position_ids": np.zeros((shape[0], 2, shape[1]), np.int32),
    }
    results = Results(shape, seed)
    for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        for name, array in arrays.items():
            array[row, ..., :length] = sample[name]
        output = model(
            batch_of(sample["tokens"]), batch_of(sample["position_ids"]), sample["context"]
        )
        logits, asked = output.logits[0], sample["loss_mask"] > 0
        results.place(row, 0, logits=logits, hidden=torch.cat(output.hidden_states))
        results.add_loss(logits[asked], torch.tensor(sample["targets"][asked]))
    arrays["context_lengths"] = np.array([sample["context"] for sample in samples], np.int32)
    return {**arrays, "lengths": lengths, "hidden_last": "raw", **results.arrays(model)}


def blanks(rng: np.random.Generator, vocab_size: int) -> dict[str, Any]:
    """GLM's sample: a text in which 1 marks each of two blanks, then the text of the blanks.

    A blank begins with the input 2 and ends with the target 3. Its tokens have the position of its
    1 in the text, and count their own from 1 in the second row, which is 0 in the text.
    """
    context = int(rng.integers(50, 80))
    tokens = rng.integers(FIRST_WORD, vocab_size, size=context)
    places = rng.choice(context, 2, replace=False)  # in any order, as the blanks are
    tokens[places] = 1
    none = np.zeros(context, np.int64)
    parts = [{"tokens": tokens, "targets": none, "loss_mask": none}]
    positions = [np.stack([np.arange(context), none])]
    for place in places:
        words = rng.integers(FIRST_WORD, vocab_size, size=rng.integers(15, 40))
        inputs, targets = np.append(2, words), np.append(words, 3)
        parts.append({"tokens": inputs, "targets": targets, "loss_mask": np.ones_like(inputs)})
        positions.append(np.stack([np.full_like(inputs, place), np.arange(len(inputs)) + 1]))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {**joined, "position_ids": np.concatenate(positions, axis=1), "context": context}


def generate(model: PreTrainedModel, texts: list[torch.Tensor]) -> Arrays:
    """Each text's continuation, or answer, by greedy search and by beams. Nothing ends it."""
    chosen: dict[str, list] = {key: [] for key in ("greedy", "beam", "beam_score")}
    margins: dict[str, list[float]] = {"greedy_margin": [], "beam_margin": []}
    for ids in texts:
        common = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": False}
        common |= {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}
        greedy = model.generate(**common, max_new_tokens=GREEDY_STEPS)
        best = torch.stack(greedy.logits)[:, 0].topk(2).values
        margins["greedy_margin"].append((best[:, 0] - best[:, 1]).min().item())
        chosen["greedy"].append(greedy.sequences[0, -GREEDY_STEPS:])
        beams = model.generate(
            **{**common, "max_new_tokens": BEAM_STEPS, "num_beams": BEAMS},
            num_return_sequences=2,
            length_penalty=1.0,
            early_stopping=False,
        )
        first, second = beams.sequences_scores.tolist()
        margins["beam_margin"].append(first - second)
        chosen["beam"].append(beams.sequences[0, -BEAM_STEPS:])
        chosen["beam_score"].append(np.float32(first))
    arrays = {key: np.stack(values) for key, values in chosen.items()}
    arrays = {k: v.astype(np.int32) if v.dtype.kind == "i" else v for k, v in arrays.items()}
    return {**arrays, **{key: np.float32(min(values)) for key, values in margins.items()}}


class Results:
    """Results of texts that ran alone, put where a batch [B, T] has them; elsewhere stays 0."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.shape, self.seed = shape, seed
        self.placed: dict[str, np.ndarray] = {}
        self.losses: list[torch.Tensor] = []
        self.count = 0
        self.extra_loss: torch.Tensor | float = 0.0

    def place(self, row: int, start: int, **values: torch.Tensor) -> None:
        """Puts values [..., T, D] of one text that begins at `start` of `row`."""
        for name, value in values.items():
            *first, length, size = value.shape
            whole = np.zeros((*first, *self.shape, size), np.float32)
            whole = self.placed.setdefault(name, whole)
            whole[..., row, start : start + length, :] = value.detach().numpy()

    def add_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self.losses.append(F.cross_entropy(logits, targets, reduction="sum"))
        self.count += len(targets)

    def hidden_sketch(self) -> np.ndarray:
        return golden.sketch(self.placed["hidden"], 4, self.seed)

    def arrays(self, model: PreTrainedModel) -> Arrays:
        loss = torch.stack(self.losses).sum() / self.count + self.extra_loss
        return {
            "logits_sketch": golden.sketch(self.placed["logits"], 8, self.seed),
            "logits": self.placed["logits"][:, ::LOGITS_EVERY],
            "hidden_sketch": self.hidden_sketch(),
            "loss": loss.detach().numpy(),
            "gradients": gradient_array(model, loss, self.seed),
        }


def random_tokens(shape: tuple[int, ...], vocab_size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(FIRST_WORD, vocab_size, size=shape, dtype=np.int32)


def right_padded(lengths: np.ndarray) -> np.ndarray:
    """1 where a row has a token: [B, T] int32."""
    return (np.arange(lengths.max()) < lengths[:, None]).astype(np.int32)


def batch_of(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array).long()[None]


if __name__ == "__main__":
    main()
