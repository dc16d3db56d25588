"""Writes tests/fixtures/heads/*.npz: what small classifiers, taggers and span models compute, by
transformers.

    python tools/make_golden_heads.py --only 'bert*'      (needs torch and transformers)

A file has config.json, the shapes of the tensors, a batch that is padded on the right, and the
class's logits. The weights are drawn again from a seed by tests/models/golden_families.py: every
parameter is far from its initial value.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import transformers

from tests.models import golden_families as golden
from tools.make_golden_families import fresh, load, random_tokens

FIXTURES = golden.FIXTURES.parent / "heads"
LENGTHS = np.array([24, 17, 9, 2])  # tokens of each row; padding follows
LABELS = {"id2label": {0: "low", 1: "middle", 2: "high"}}
NUMBER = {"num_labels": 1, "problem_type": "regression"}

BERT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
LLAMA = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN3 = {**LLAMA, "head_dim": 8}
ROBERTA = {**BERT, "pad_token_id": 1, "type_vocab_size": 1}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert_classify": ("BertForSequenceClassification", {**BERT, **LABELS}),
    "bert_regress": ("BertForSequenceClassification", {**BERT, **NUMBER}),
    "bert_tag": ("BertForTokenClassification", {**BERT, **LABELS}),
    "bert_span": ("BertForQuestionAnswering", BERT),
    "roberta_classify": ("RobertaForSequenceClassification", {**ROBERTA, **LABELS}),
    "gpt2_classify": ("GPT2ForSequenceClassification", {**GPT2, **LABELS}),
    "gpt2_span": ("GPT2ForQuestionAnswering", GPT2),
    "llama_classify": ("LlamaForSequenceClassification", {**LLAMA, **LABELS}),
    "llama_tag": ("LlamaForTokenClassification", {**LLAMA, **LABELS}),
    "qwen3_reward": ("Qwen3ForSequenceClassification", {**QWEN3, **NUMBER}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases by name")
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    FIXTURES.mkdir(exist_ok=True)
    for name in fnmatch.filter(MODELS, parser.parse_args().only):
        architecture, row = MODELS[name]
        cls = getattr(transformers, architecture)
        config, tensors = fresh(cls, row)
        weights = golden.weights(tensors, 0)
        arrays = computed(load(cls, row, weights))
        case = golden.Case(name, config, config, tensors, 0, arrays)
        path = golden.save_case(case, FIXTURES)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", flush=True)


@torch.no_grad()
def computed(model: Any) -> dict[str, np.ndarray]:
    """The batch, and the logits of its real tokens: [B, C], [B, T, C], or [B, T, 2] of a span."""
    mask = np.arange(LENGTHS.max()) < LENGTHS[:, None]
    tokens = np.where(mask, random_tokens(mask.shape, 96, 0), model.config.pad_token_id)
    batch = {"input_ids": torch.tensor(tokens).long(), "attention_mask": torch.tensor(mask).long()}
    out = model(**batch)
    if "start_logits" in out:
        logits = torch.stack([out.start_logits, out.end_logits], -1)
    else:
        logits = out.logits
    return {"tokens": tokens.astype(np.int32), "lengths": LENGTHS, "logits": logits.numpy()}


if __name__ == "__main__":
    main()
