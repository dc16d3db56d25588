"""The sides of torch for the benchmarks, in a Python of their own that has torch and numpy.

The modules are written as nanoGPT's and torch's examples are, and read the weights that jaxlm drew.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

BATCHES = 4


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        parts = self.c_attn(self.ln_1(x)).split(d, dim=2)
        q, k, v = (y.view(b, t, self.heads, d // self.heads).transpose(1, 2) for y in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, row: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        d = row["width"]
        self.wte, self.wpe = nn.Embedding(row["vocab"], d), nn.Embedding(row["length"], d)
        self.h = nn.ModuleList(Block(d, row["heads"]) for _ in range(row["layers"]))
        self.ln_f = nn.LayerNorm(d)
        own = dict(self.named_parameters())
        places = {"attn.c_attn": "c_attn", "attn.c_proj": "c_proj", "mlp.c_fc": "c_fc"}
        places |= {"mlp.c_proj": "down"}
        for name, value in weights.items():
            short = name.removeprefix("transformer.")
            for theirs, ours in places.items():
                if f".{theirs}." in short:
                    short = short.replace(theirs, ours)
                    value = value.T if short.endswith("weight") else value
            own.pop(short).data.copy_(value)
        assert not own, own.keys()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


class LSTM(nn.Module):
    def __init__(self, row: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(weights["embed"], freeze=False)
        self.lstm = nn.LSTM(row["width"], row["width"], row["layers"], batch_first=True)
        self.bias = nn.Parameter(weights["bias"])
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias_hh"):  # one bias is enough, and jaxlm has one
                parameter.data.zero_()
                parameter.requires_grad_(False)
            else:
                parameter.data.copy_(weights[name])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.linear(self.lstm(self.embed(tokens))[0], self.embed.weight, self.bias)


class Transformers(nn.Module):
    def __init__(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        import transformers

        values = json.loads((folder / "config.json").read_text())
        off = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
        off += ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate")
        values |= dict.fromkeys(off, 0.0)
        kinds = {
            "gpt2": "GPT2LMHeadModel",
            "llama": "LlamaForCausalLM",
            "bert": "BertForMaskedLM",
            "t5": "T5ForConditionalGeneration",
        }
        kind = values["model_type"]
        config = transformers.AutoConfig.for_model(**values)
        config._attn_implementation = "sdpa"
        self.model = getattr(transformers, kinds[kind])(config)
        missing, extra = self.model.load_state_dict(weights, strict=False)
        tied = ("lm_head.weight", "decoder.weight", "decoder.bias", "position_ids")
        tied += ("embed_tokens.weight",)
        assert not extra and all(name.endswith(tied) for name in missing), (missing, extra)
        self.model.tie_weights()

    def forward(self, tokens: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        if source is None:
            return self.model(tokens).logits
        return self.model(input_ids=source, decoder_input_ids=tokens).logits


def optimizer_alone(clips: bool, shapes: list[list[int]]) -> dict[str, Any]:
    """The fused AdamW over parameters of these shapes, for `optimizer.py`."""
    rng = np.random.default_rng(0)
    trained = []
    for shape in shapes:
        value, gradient = (0.02 * rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
        trained.append(nn.Parameter(torch.tensor(value)))
        trained[-1].grad = torch.tensor(gradient)
    optimizer = torch.optim.AdamW(
        trained, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
    )

    def steps(count: int) -> list[float]:
        for _ in range(count):
            if clips:
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
        return [sum(float(p.detach().double().abs().sum()) for p in trained)]

    return {"steps": steps}


def writing(folder: Path, model: Any) -> dict[str, Any]:
    """Greedy generation by transformers, for `generation.py`."""
    from generation import NEW

    prompts = torch.tensor(np.load(folder / "prompts.npy"))
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    model.eval()

    def steps(count: int) -> list[float]:
        for _ in range(count):
            mask = torch.ones_like(prompts)
            found = model.generate(prompts, attention_mask=mask, eos_token_id=None, **options)
        return found[:, prompts.shape[1] :].flatten().double().tolist()

    return {"steps": steps}


def main() -> None:
    from against_torch import serve

    side, folder = sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    if side in ("step", "clip and step"):
        return serve(optimizer_alone(side != "step", json.loads(sys.argv[3])))
    row = json.loads((folder / "row.json").read_text())
    with np.load(folder / "weights.npz") as file:
        weights = {name: torch.tensor(file[name]) for name in file.files}
    if side == "write":
        return serve(writing(folder, Transformers(folder, weights).model))
    model: Any
    if side == "transformers":
        model = Transformers(folder, weights)
    else:
        model = {"gpt": GPT, "lstm": LSTM}[row["kind"]](row, weights)
    del weights
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
    names = ["tokens", "targets", "loss_weights", *(["source_tokens"] if row["source"] else [])]
    with np.load(folder / "batches.npz") as file:
        data = [tuple(torch.tensor(file[f"{k}_{i}"]) for k in names) for i in range(BATCHES)]
    place = itertools.cycle(data)
    whole = all(bool((batch[2] == 1).all()) for batch in data)

    def loss_of(tokens: Any, targets: Any, weights: Any, *source: Any) -> Any:
        logits = model(tokens, *source).flatten(0, 1)
        if whole:
            return F.cross_entropy(logits, targets.long().flatten())
        losses = F.cross_entropy(logits, targets.long().flatten(), reduction="none")
        return (losses * weights.flatten()).sum() / weights.sum()

    compiled = torch.compile(loss_of) if side == "compile" else loss_of

    def steps(count: int) -> list[float]:
        found = []
        for _ in range(count):
            loss = compiled(*next(place))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            found.append(loss.detach())
        return [x.item() for x in found]

    square = torch.ones(1024, 1024)
    serve({"steps": steps, "matmul": lambda: square @ square})


if __name__ == "__main__":
    main()
