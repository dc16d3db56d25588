"""Writes tests/fixtures/peft/NAME/: adapters of small models as PEFT saves them, and their logits.

    python tools/make_golden_peft.py                 (needs torch, transformers and peft)
    python tools/make_golden_peft.py --check         (and jaxlm: there and back)

The base's weights are drawn again from a seed by tests/models/golden_families.py. Every parameter
that an adapter trains is off its start, so each has an effect on the logits. `--check` imports each
folder here, exports the run, loads what was written in PEFT and compares the logits with the first
ones.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import peft
import torch
import transformers

from tests.models import golden_families as golden
from tools.make_golden_families import fresh, load, random_tokens
from tools.make_golden_heads import BERT, GPT2, LABELS, LENGTHS, LLAMA

FIXTURES = golden.FIXTURES.parent / "peft"
SMALL_LLAMA = {**LLAMA, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
SMALL_LLAMA |= {"num_key_value_heads": 1, "vocab_size": 64, "tie_word_embeddings": False}
T5 = {
    "vocab_size": 64,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
MIXTRAL = {**SMALL_LLAMA, "intermediate_size": 8, "num_local_experts": 3}
MIXTRAL |= {"num_experts_per_tok": 2, "sliding_window": None}
QWEN3 = {**SMALL_LLAMA, "head_dim": 8, "moe_intermediate_size": 8, "num_experts": 4}
QWEN3 |= {"num_experts_per_tok": 2, "norm_topk_prob": True}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": (
        "LlamaForCausalLM",
        SMALL_LLAMA,
        {
            "r": 3,
            "lora_alpha": 8,
            "use_rslora": True,
            "target_modules": ["q_proj", "o_proj", "down_proj", "embed_tokens"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 1},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 5},
            "modules_to_save": ["lm_head", "input_layernorm"],
        },
    ),
    "llama_dora": (
        "LlamaForCausalLM",
        SMALL_LLAMA,
        {"r": 2, "lora_alpha": 6, "use_dora": True, "target_modules": "all-linear"},
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {**GPT2, "n_embd": 16, "vocab_size": 64},
        {
            "r": 2,
            "target_modules": ["c_attn", "c_proj"],
            "fan_in_fan_out": True,
            "layers_to_transform": [1],
        },
    ),
    "gpt2_dora": (
        "GPT2LMHeadModel",
        {**GPT2, "n_embd": 16, "vocab_size": 64},
        {"r": 2, "use_dora": True, "target_modules": ["c_attn"], "fan_in_fan_out": True},
    ),
    "bert_classify": (
        "BertForSequenceClassification",
        {**BERT, **LABELS, "hidden_size": 16, "intermediate_size": 24, "vocab_size": 64},
        {"r": 2, "target_modules": ["query", "value"], "bias": "lora_only", "task_type": "SEQ_CLS"},
    ),
    # parameters of all experts, one wrapped in the other, and that of a router
    "mixtral_experts": (
        "MixtralForCausalLM",
        MIXTRAL,
        {
            "r": 2,
            "lora_alpha": 5,
            "target_modules": ["q_proj"],
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj", "gate.weight"],
            "rank_pattern": {"layers.1.mlp.experts.gate_up_proj": 3, "gate.weight": 1},
            "alpha_pattern": {"layers.0.mlp.experts.down_proj": 7},
        },
    ),
    # no module at all, and the one parameter of a module in one layer only
    "qwen3_moe_experts": (
        "Qwen3MoeForCausalLM",
        QWEN3,
        {
            "r": 2,
            "use_rslora": True,
            "target_modules": [],
            "target_parameters": ["experts.down_proj", "layers.1.mlp.experts.gate_up_proj"],
        },
    ),
    "t5": (
        "T5ForConditionalGeneration",
        T5,
        {"r": 2, "target_modules": ["q", "v", "wo"], "task_type": "SEQ_2_SEQ_LM"},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases by name")
    parser.add_argument("--check", action="store_true", help="import, export, and load in PEFT")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    for name in fnmatch.filter(CASES, arguments.only):
        print(f"{name}: {check(name) if arguments.check else make(name)}", flush=True)


def base_of(name: str) -> tuple[Any, dict[str, Any], golden.Tensors]:
    architecture, row, _ = CASES[name]
    cls = getattr(transformers, architecture)
    config, tensors = fresh(cls, row)
    return load(cls, row, golden.weights(tensors, 0)), config, tensors


def make(name: str) -> str:
    model, config, tensors = base_of(name)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, **CASES[name][2]}))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink()
    arrays = computed(adapted.eval(), config["vocab_size"])
    golden.save_case(golden.Case("case", config, config, tensors, 0, arrays), folder)
    with torch.no_grad(), adapted.disable_adapter():
        plain = computed(adapted, config["vocab_size"])["logits"]
    change = np.abs(plain - arrays["logits"]).max()
    size = sum(path.stat().st_size for path in folder.iterdir())
    return f"{size / 1000:.0f} kB, the adapter changes logits by up to {change:.3f}"


@torch.no_grad()
def computed(model: Any, vocab_size: int) -> dict[str, np.ndarray]:
    mask = np.arange(LENGTHS.max()) < LENGTHS[:, None]
    tokens = np.where(mask, random_tokens(mask.shape, vocab_size, 0), 0)
    batch = {"input_ids": torch.tensor(tokens).long(), "attention_mask": torch.tensor(mask).long()}
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"].flip(0)
    logits = model(**batch).logits.numpy()
    return {"tokens": tokens.astype(np.int32), "lengths": LENGTHS, "logits": logits}


def check(name: str) -> str:
    """PEFT's logits with the folder that jaxlm writes, against those with PEFT's own."""
    from jaxlm.hf.peft import export_adapter, import_adapter
    from tests.hf.test_hf import write_model

    case = golden.load_case("case", FIXTURES / name)
    said: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder / "model", case.config, case.weights())
        words, run = ("mesh.data=1", "mesh.num_devices=1"), folder / "run"
        peft_folder, model = FIXTURES / name, folder / "model"
        import_adapter(peft_folder, model, run, words, dtype="float32", report=said.append)
        export_adapter(run, folder / "out", report=said.append)
        errors = [logit_error(name, folder / "out", case.arrays["logits"])]
        want = changed(run, case, folder / "changed")
        errors.append(logit_error(name, folder / "changed", want))
    return f"PEFT's logits with what jaxlm wrote differ by {errors[0]:.1e}, changed {errors[1]:.1e}"


def logit_error(name: str, folder: Path, want: np.ndarray) -> float:
    """The distance of PEFT's logits with an adapter from these, at real tokens."""
    model, config, _ = base_of(name)
    loaded = peft.PeftModel.from_pretrained(model, folder).eval()
    found = computed(loaded, config["vocab_size"])["logits"]
    if found.ndim == 3 and not model.config.is_encoder_decoder:
        real = np.arange(found.shape[1]) < LENGTHS[:, None]
        found, want = found[real], want[real]
    error = float(np.abs(found - want).max())
    assert error < 1e-5 * max(1, np.abs(found).max()), error
    return error


def changed(run: Path, case: golden.Case, folder: Path) -> np.ndarray:
    """Writes the run's adapter with another A for each kernel; returns jaxlm's logits with it."""
    import jax

    from jaxlm.core.tree import flatten, unflatten
    from jaxlm.hf.exporting import family_for
    from jaxlm.hf.peft.exporting import write_adapter
    from jaxlm.hf.peft.layout import imported_class, layout_of
    from jaxlm.runs.folder import RunDir
    from jaxlm.training.loading import load_trained
    from tests.adapters.test_peft import logits_of

    config, program, params, _ = load_trained(str(run), report=lambda _: None)
    rng, flat = np.random.default_rng(1), flatten(jax.device_get(params))
    for path in sorted(program.added):
        flat[path] = np.float32(flat[path] + rng.normal(0, 0.05, flat[path].shape))
    params, family = unflatten(flat), family_for(RunDir(run), config.model, None)
    layout = layout_of(config, program, family, imported_class(RunDir(run)), lambda _: None)
    folder.mkdir()
    write_adapter(folder, layout, config.adapter, program, params, None)
    return logits_of(program, params, case.arrays)


if __name__ == "__main__":
    main()
