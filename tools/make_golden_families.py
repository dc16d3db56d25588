"""Writes tests/fixtures/families/*.npz: what small models of each family compute, by transformers.

    python tools/make_golden_families.py --only 'llama*'      (needs torch and transformers)

Each row of the tables is a model: its class and what its config.json says, as published checkpoints
say it. tests/golden_families.py draws the weights and reads the files. Every document is run alone
and without padding, and its results are put where packed or padded rows have it; loss and gradients
are those of all documents. GLM and ChatGLM, which transformers has no class for, are written out at
the end, after arXiv:2103.10360 and the code that is published with the checkpoints.

A seed is passed over if its model repeats itself, or if a close call hangs on it: a greedy choice
or the best beam that wins by too little, or results that move by more than rounding when the
weights do by one part in a million, as those of an expert do that is chosen by a hair.
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
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from tests import golden_families as golden

Arrays = dict[str, Any]
Row = tuple[str, dict[str, Any]]  # a class, and what is in config.json

GPT2 = dict(vocab_size=83, n_positions=323, n_layer=3, layer_norm_epsilon=1e-4)
LLAMA = dict(
    vocab_size=83,
    hidden_size=36,
    intermediate_size=52,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-4,
    rope_theta=10000.0,
    tie_word_embeddings=False,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
MHA = dict(LLAMA, hidden_size=32, num_attention_heads=4, num_key_value_heads=4)
WIDE_HEADS = dict(LLAMA, head_dim=12, rope_theta=2000.0)
GEMMA = dict(WIDE_HEADS, tie_word_embeddings=True, query_pre_attn_scalar=20, sliding_window=16)
EXPERTS = dict(num_hidden_layers=2, moe_intermediate_size=24, num_experts_per_tok=3)
DEEPSEEK = dict(
    LLAMA,
    moe_intermediate_size=24,
    num_experts_per_tok=3,
    n_routed_experts=8,
    num_key_value_heads=6,
    kv_lora_rank=14,
    qk_nope_head_dim=8,
    qk_rope_head_dim=6,
    v_head_dim=10,
    first_k_dense_replace=1,
    num_nextn_predict_layers=0,
)
STRETCHED = dict(factor=8.0, original_max_position_embeddings=64)

DECODERS: dict[str, Row] = {
    "gpt2": ("GPT2LMHeadModel", dict(GPT2, n_embd=32, n_head=4)),
    "gpt2_odd": ("GPT2LMHeadModel", dict(GPT2, n_embd=33, n_head=3, n_inner=50)),
    "llama_mha": ("LlamaForCausalLM", MHA),
    "llama_gqa_tied": (
        "LlamaForCausalLM",
        dict(LLAMA, head_dim=10, tie_word_embeddings=True, rope_theta=500.0),
    ),
    "llama_rope_linear": (
        "LlamaForCausalLM",
        dict(WIDE_HEADS, rope_scaling=dict(type="linear", factor=4.0)),
    ),
    "llama_rope_dynamic": (
        "LlamaForCausalLM",
        dict(WIDE_HEADS, max_position_embeddings=96, rope_scaling=dict(type="dynamic", factor=2.0)),
    ),
    "llama_rope_yarn": (
        "LlamaForCausalLM",
        dict(
            WIDE_HEADS, rope_scaling=dict(STRETCHED, rope_type="yarn", beta_fast=2.0, beta_slow=0.5)
        ),
    ),
    "llama_rope_llama3": (
        "LlamaForCausalLM",
        dict(
            WIDE_HEADS,
            rope_scaling=dict(
                STRETCHED, rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0
            ),
        ),
    ),
    "llama_bias": ("LlamaForCausalLM", dict(MHA, attention_bias=True, mlp_bias=True)),
    "mistral": ("MistralForCausalLM", dict(LLAMA, head_dim=10, sliding_window=17)),
    "qwen2": ("Qwen2ForCausalLM", dict(LLAMA, vocab_size=91, tie_word_embeddings=True)),
    "qwen2_window": (
        "Qwen2ForCausalLM",
        dict(
            LLAMA,
            num_hidden_layers=4,
            use_sliding_window=True,
            sliding_window=13,
            max_window_layers=2,
        ),
    ),
    "qwen3": ("Qwen3ForCausalLM", dict(WIDE_HEADS, tie_word_embeddings=True)),
    "gemma2": (
        "Gemma2ForCausalLM",
        dict(GEMMA, num_hidden_layers=4, attn_logit_softcapping=5.0, final_logit_softcapping=4.0),
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        dict(
            GEMMA,
            vocab_size=71,
            num_hidden_layers=6,
            sliding_window_pattern=3,
            rope_theta=5000.0,
            rope_local_base_freq=100.0,
            rope_scaling=dict(rope_type="linear", factor=8.0),
        ),
    ),
    "smollm3": (
        "SmolLM3ForCausalLM",
        dict(LLAMA, num_hidden_layers=4, tie_word_embeddings=True, no_rope_layers=[1, 0, 1, 0]),
    ),
    "mixtral": (
        "MixtralForCausalLM",
        dict(
            LLAMA,
            num_hidden_layers=2,
            num_local_experts=5,
            num_experts_per_tok=2,
            sliding_window=None,
        ),
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        dict(WIDE_HEADS, **EXPERTS, num_experts=8, norm_topk_prob=True),
    ),
    "qwen3_moe_dense_layer": (
        "Qwen3MoeForCausalLM",
        dict(
            WIDE_HEADS,
            **dict(EXPERTS, num_hidden_layers=3),
            num_experts=5,
            norm_topk_prob=False,
            mlp_only_layers=[1],
        ),
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        dict(
            DEEPSEEK,
            q_lora_rank=16,
            n_group=4,
            topk_group=2,
            n_shared_experts=1,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
            rope_scaling=dict(STRETCHED, type="yarn", mscale=1.0, mscale_all_dim=0.7),
        ),
    ),
    "deepseek_v3_plain": (
        "DeepseekV3ForCausalLM",
        dict(
            DEEPSEEK,
            q_lora_rank=None,
            n_group=1,
            topk_group=1,
            n_shared_experts=2,
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
        ),
    ),
    "deepseek_v2": (
        "DeepseekV2ForCausalLM",
        dict(
            DEEPSEEK,
            q_lora_rank=None,
            n_shared_experts=2,
            topk_method="greedy",
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
            rope_scaling=dict(STRETCHED, type="yarn", mscale=0.7, mscale_all_dim=0.7),
        ),
    ),
    "glm4": (
        "GlmForCausalLM",
        dict(LLAMA, head_dim=12, partial_rotary_factor=0.5, attention_bias=True),
    ),
    "chatglm3": (
        "ChatGLMModel",
        dict(
            padded_vocab_size=83,
            hidden_size=32,
            ffn_hidden_size=44,
            num_layers=3,
            num_attention_heads=4,
            kv_channels=8,
            multi_query_attention=True,
            multi_query_group_num=2,
            layernorm_epsilon=1e-4,
            add_bias_linear=False,
            add_qkv_bias=True,
            rmsnorm=True,
            post_layer_norm=True,
            apply_residual_connection_post_layernorm=False,
            original_rope=True,
            seq_length=512,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=2,
        ),
    ),
}

BERT = dict(
    vocab_size=83,
    num_hidden_layers=3,
    max_position_embeddings=163,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=48,
)
ENCODERS: dict[str, Row] = {
    "bert": ("BertForPreTraining", BERT),
    "bert_odd": (
        "BertForPreTraining",
        dict(
            BERT,
            hidden_size=33,
            num_attention_heads=3,
            intermediate_size=47,
            hidden_act="gelu_new",
            layer_norm_eps=1e-4,
            type_vocab_size=3,
        ),
    ),
    "roberta": (
        "RobertaForMaskedLM",
        dict(BERT, layer_norm_eps=1e-5, type_vocab_size=1, pad_token_id=1),
    ),
}

T5 = dict(
    vocab_size=83,
    d_model=32,
    d_kv=6,
    d_ff=48,
    num_heads=4,
    num_layers=2,
    relative_attention_num_buckets=12,
    relative_attention_max_distance=50,
    layer_norm_epsilon=1e-4,
    pad_token_id=0,
    decoder_start_token_id=0,
)
ENCODER_DECODERS: dict[str, Row] = {
    "t5": ("T5ForConditionalGeneration", dict(T5, num_layers=3, num_decoder_layers=2)),
    "t5_v1_1": (
        "T5ForConditionalGeneration",
        dict(T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
}

INFILLERS: dict[str, Row] = {
    "glm_10b": (
        "GLMModel",
        dict(
            vocab_size=83,
            hidden_size=32,
            num_layers=3,
            num_attention_heads=4,
            max_sequence_length=160,
            block_position_encoding=True,
            attention_scale=1.0,
        ),
    )
}

FIRST_WORD = 4  # the ids before it have a meaning: padding, [MASK], start and end of a blank
GREEDY_STEPS, BEAM_STEPS, BEAMS = 64, 24, 4
DISTINCT, GREEDY_MARGIN, BEAM_MARGIN, STEADY = 6, 2e-3, 5e-4, 2e-4
LOGITS_EVERY = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases by name")
    only = parser.parse_args().only
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
        for name in fnmatch.filter(table, only):
            case = make(name, *table[name], compute)
            path = golden.save_case(case)
            print(f"{path.name}: seed {case.seed}, {path.stat().st_size / 1000:.0f} kB", flush=True)


def make(name: str, architecture: str, row: dict[str, Any], compute: Callable) -> golden.Case:
    """The case of the first seed that tells enough and on which no close call hangs."""
    cls = PLAIN.get(architecture) or getattr(transformers, architecture)
    published = {"architectures": [architecture], "model_type": cls.config_class.model_type, **row}
    config, tensors = fresh(cls, row)
    for seed in itertools.count():
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
    config, lengths = model.config, np.array([160, 113, 71, 30])
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
    vocab_size, lengths = model.config.vocab_size, np.array([96, 75, 41, 18])
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
    """Four texts, each with two blanks that are filled behind it in any order."""
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
    """GLM's sample: a text in which 1 stands for each of two blanks, then what belongs there.

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
    """How each text is continued, or answered, by greedy search and by beams. Nothing ends it."""
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
            **{"num_return_sequences": 2, "length_penalty": 1.0, "early_stopping": False},
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


# Models that transformers has no class for


class Plain(PreTrainedModel, GenerationMixin):
    """A model that is a function of its parameters, which have their names in published files."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        for name, (shape, base) in self.tensors(config).items():
            *path, leaf = name.split(".")
            module: torch.nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_parameter(leaf, torch.nn.Parameter(torch.full(shape, base)))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        pass


class ChatGLMConfig(PreTrainedConfig):
    model_type = "chatglm"
    attribute_map = {"vocab_size": "padded_vocab_size", "num_hidden_layers": "num_layers"}


class ChatGLMModel(Plain):
    """ChatGLM2 and 3: grouped queries, SwiGLU, and RoPE on half of each head, in adjacent pairs."""

    config_class = ChatGLMConfig

    @staticmethod
    def tensors(config: PreTrainedConfig) -> golden.Tensors:
        hidden, heads = config.hidden_size, config.num_attention_heads
        mixed = (heads + 2 * config.multi_query_group_num) * config.kv_channels
        layer = {
            "input_layernorm.weight": ((hidden,), 1.0),
            "self_attention.query_key_value.weight": ((mixed, hidden), 0.0),
            "self_attention.query_key_value.bias": ((mixed,), 0.0),
            "self_attention.dense.weight": ((hidden, heads * config.kv_channels), 0.0),
            "post_attention_layernorm.weight": ((hidden,), 1.0),
            "mlp.dense_h_to_4h.weight": ((2 * config.ffn_hidden_size, hidden), 0.0),
            "mlp.dense_4h_to_h.weight": ((hidden, config.ffn_hidden_size), 0.0),
        }
        return {
            "transformer.embedding.word_embeddings.weight": ((config.vocab_size, hidden), 0.0),
            **layers("transformer.encoder.layers", config.num_layers, layer),
            "transformer.encoder.final_layernorm.weight": ((hidden,), 1.0),
            "transformer.output_layer.weight": ((config.vocab_size, hidden), 0.0),
        }

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        config, p = self.config, dict(self.named_parameters())
        size, heads = config.kv_channels, config.num_attention_heads
        groups, length = config.multi_query_group_num, input_ids.shape[1]
        sizes = [heads * size, groups * size, groups * size]
        causal = torch.ones(length, length).tril().bool()

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.rms_norm(x, x.shape[-1:], p[f"{name}.weight"], config.layernorm_epsilon)

        x = p["transformer.embedding.word_embeddings.weight"][input_ids]
        states = [x]
        for i in range(config.num_layers):
            at = f"transformer.encoder.layers.{i}"
            mixed = norm(x, f"{at}.input_layernorm")
            mixed = linear(mixed, p, f"{at}.self_attention.query_key_value")
            q, k, v = (part.unflatten(-1, (-1, size)) for part in mixed.split(sizes, dim=-1))
            k, v = (part.repeat_interleave(heads // groups, dim=2) for part in (rotated(k), v))
            x = x + linear(attend(rotated(q), k, v, causal), p, f"{at}.self_attention.dense")
            gate, up = linear(
                norm(x, f"{at}.post_attention_layernorm"), p, f"{at}.mlp.dense_h_to_4h"
            ).chunk(2, dim=-1)
            x = x + linear(F.silu(gate) * up, p, f"{at}.mlp.dense_4h_to_h")
            states.append(x)
        x = norm(x, "transformer.encoder.final_layernorm")
        return CausalLMOutput(
            logits=linear(x, p, "transformer.output_layer"), hidden_states=tuple(states)
        )


class GLMConfig(PreTrainedConfig):
    model_type = "glm"


class GLMModel(Plain):
    """GLM: GPT-2's layers, two learned positions a token, and a text that sees all of itself.

    Its GELU is the tanh form that it was trained with; the code beside its published checkpoints
    has the exact one.
    """

    config_class = GLMConfig

    @staticmethod
    def tensors(config: PreTrainedConfig) -> golden.Tensors:
        hidden, places = config.hidden_size, config.max_sequence_length + 1
        layer = {
            **normed("input_layernorm", hidden),
            **dense("attention.query_key_value", hidden, 3 * hidden),
            **dense("attention.dense", hidden, hidden),
            **normed("post_attention_layernorm", hidden),
            **dense("mlp.dense_h_to_4h", hidden, 4 * hidden),
            **dense("mlp.dense_4h_to_h", 4 * hidden, hidden),
        }
        return {
            "word_embeddings.weight": ((config.vocab_size, hidden), 0.0),
            "transformer.position_embeddings.weight": ((places, hidden), 0.0),
            "transformer.block_position_embeddings.weight": ((places, hidden), 0.0),
            **layers("transformer.layers", config.num_layers, layer),
            **normed("transformer.final_layernorm", hidden),
        }

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, context: int
    ) -> CausalLMOutput:
        config, p = self.config, dict(self.named_parameters())
        length = tokens.shape[1]
        seen = torch.ones(length, length).tril().bool()
        seen[:, :context] = True

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], 1e-5)

        x = p["word_embeddings.weight"][tokens]
        x = x + p["transformer.position_embeddings.weight"][positions[:, 0]]
        x = x + p["transformer.block_position_embeddings.weight"][positions[:, 1]]
        states = [x]
        for i in range(config.num_layers):
            at = f"transformer.layers.{i}"
            mixed = linear(norm(x, f"{at}.input_layernorm"), p, f"{at}.attention.query_key_value")
            q, k, v = mixed.unflatten(-1, (3, config.num_attention_heads, -1)).unbind(2)
            x = x + linear(attend(q, k, v, seen), p, f"{at}.attention.dense")
            y = linear(norm(x, f"{at}.post_attention_layernorm"), p, f"{at}.mlp.dense_h_to_4h")
            x = x + linear(F.gelu(y, approximate="tanh"), p, f"{at}.mlp.dense_4h_to_h")
            states.append(x)
        x = norm(x, "transformer.final_layernorm")
        return CausalLMOutput(logits=x @ p["word_embeddings.weight"].T, hidden_states=tuple(states))


PLAIN = {cls.__name__: cls for cls in (ChatGLMModel, GLMModel)}


def layers(prefix: str, count: int, layer: golden.Tensors) -> golden.Tensors:
    return {f"{prefix}.{i}.{name}": like for i in range(count) for name, like in layer.items()}


def dense(name: str, inputs: int, outputs: int) -> golden.Tensors:
    return {f"{name}.weight": ((outputs, inputs), 0.0), f"{name}.bias": ((outputs,), 0.0)}


def normed(name: str, size: int) -> golden.Tensors:
    return {f"{name}.weight": ((size,), 1.0), f"{name}.bias": ((size,), 0.0)}


def linear(x: torch.Tensor, p: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """[B, T, N, H] each, and which keys a query sees [T, T] -> [B, T, N*H]."""
    scores = torch.einsum("btnh,bsnh->bnts", q, k) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    return torch.einsum("bnts,bsnh->btnh", weights, v).flatten(2)


def rotated(x: torch.Tensor) -> torch.Tensor:
    """The first half of each head [B, T, N, H] by RoPE: adjacent pairs as complex numbers."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[1]), 10000.0 ** (-torch.arange(0, half, 2) / half))
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]
    pairs = torch.view_as_complex(x[..., :half].unflatten(-1, (-1, 2)).contiguous())
    return torch.cat([torch.view_as_real(pairs * turns).flatten(-2), x[..., half:]], dim=-1)


if __name__ == "__main__":
    main()
