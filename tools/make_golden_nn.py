"""Makes tests/fixtures/nn_*.npz: values and gradients of the nn parts, by torch in float64.

    python tools/make_golden_nn.py            # needs torch; the tests do not

The Transformer here is written independently, in the plainest way (one head and one document at a
time is what its masks mean), and shares with jaxlm nothing but the names and shapes of the
parameters. Every parameter is moved by N(0, 0.05) first: a fresh model has biases of 0 and scales
of 1, and a part that is left out would not be noticed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx

from jaxlm.core.tree import flatten
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.params import split

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"

SHAPE = {"hidden_size": 16, "num_layers": 3, "dtype": "float32"}
WINDOWS = {"window": [5, None], "softcap": 4.0}
LINEAR = {"type": "linear", "factor": 2.0}
MODELS: dict[str, dict[str, Any]] = {
    "gated": {
        **SHAPE,
        "attention": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "qk_norm": True, **WINDOWS},
        "ffn": {"intermediate_size": 24, "activation": "swiglu"},
        "norm": {"eps": 1e-4},
        "position": {"theta": 500.0},
        "head": {"softcap": 6.0},
        "embedding": {"scale": 4.0},
    },
    "plain": {
        **SHAPE,
        "attention": {"num_heads": 4, "bias": True, "out_bias": True},
        "ffn": {"intermediate_size": 24, "activation": "gelu_tanh", "bias": True},
        "norm": {"type": "layernorm"},
        "position": {"type": "learned", "max_seq_len": 40},
        "head": {"tied": False},
    },
    "interleaved": {
        **SHAPE,
        "attention": {"num_heads": 4, "num_kv_heads": 1, "bias": True, "scale": 0.3},
        "ffn": {"intermediate_size": 24, "activation": "geglu"},
        "position": {"fraction": 0.5, "interleaved": True, "scaling": LINEAR},
    },
}


def main() -> None:
    save("nn_attention", attention_cases())
    save("nn_norm", norm_cases())
    save("nn_cross_entropy", cross_entropy_cases())
    for name, values in MODELS.items():
        save(f"nn_transformer_{name}", transformer_case(values))


def save(name: str, arrays: dict[str, Any]) -> None:
    plain = {}
    for key, value in arrays.items():
        if isinstance(value, torch.Tensor):
            value = value.detach().numpy()
        value = np.asarray(value)
        plain[key] = value.astype(np.float32) if value.dtype == np.float64 else value
    path = FIXTURES / f"{name}.npz"
    np.savez_compressed(path, **plain)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def leaf(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """A normal float32 array, as a float64 leaf."""
    values = rng.normal(size=shape).astype(np.float32)
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def rows(lengths: list[list[int]], total: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions, segment ids) of rows that hold documents of these lengths, then padding."""
    positions = np.zeros((len(lengths), total), np.int32)
    segments = np.zeros((len(lengths), total), np.int32)
    for row, documents in enumerate(lengths):
        at = 0
        for number, length in enumerate(documents, start=1):
            positions[row, at : at + length] = np.arange(length)
            segments[row, at : at + length] = number
            at += length
    return positions, segments


def seen(positions: np.ndarray, segments: np.ndarray, window: int | None) -> torch.Tensor:
    """[B, T, T]: whether the row's token i sees token j, token by token."""
    batch, length = positions.shape
    mask = np.zeros((batch, length, length), bool)
    for b in range(batch):
        for i in range(length):
            for j in range(length):
                back = positions[b, i] - positions[b, j]
                same = segments[b, i] == segments[b, j] != 0
                mask[b, i, j] = same and back >= 0 and (window is None or back < window)
    return torch.tensor(mask)


def attention_cases() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    positions, segments = rows([[40], [11, 20, 6]], 40)
    q, k, v = leaf(rng, 2, 40, 4, 8), leaf(rng, 2, 40, 2, 8), leaf(rng, 2, 40, 2, 8)
    cotangent = rng.normal(size=(2, 40, 4, 8))
    out: dict[str, Any] = {"q": q, "k": k, "v": v, "cotangent": cotangent}
    out |= {"positions": positions, "segment_ids": segments}
    some = torch.tensor(segments != 0, dtype=torch.float64)[:, :, None, None]
    for name, window in {"full": None, "window": 7}.items():
        mask = seen(positions, segments, window)
        mask = mask | (torch.tensor(segments == 0)[:, :, None] & torch.eye(40, dtype=torch.bool))
        y = F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask[:, None], enable_gqa=True
        )
        y = y.transpose(1, 2) * some  # a query that sees nothing gives zeros
        grads = torch.autograd.grad((y * torch.tensor(cotangent)).sum(), (q, k, v))
        out |= {f"{name}/out": y}
        out |= {f"{name}/d{n}": g for n, g in zip("qkv", grads, strict=True)}
    return out


def norm_cases() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    x, scale, bias = leaf(rng, 3, 5, 12), leaf(rng, 12), leaf(rng, 12)
    cotangent = rng.normal(size=(3, 5, 12))
    out: dict[str, Any] = {"x": x, "scale": scale, "bias": bias, "cotangent": cotangent}
    layer = F.layer_norm(x, (12,), scale, bias, eps=1e-3)
    rms = F.rms_norm(x, (12,), scale, eps=1e-3)
    for name, y, inputs in (("layer", layer, (x, scale, bias)), ("rms", rms, (x, scale))):
        grads = torch.autograd.grad((y * torch.tensor(cotangent)).sum(), inputs)
        out |= {f"{name}/out": y}
        out |= {f"{name}/d{n}": g for n, g in zip(("x", "scale", "bias"), grads, strict=False)}
    return out


def cross_entropy_cases() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    hidden, kernel, bias = leaf(rng, 2, 7, 6), leaf(rng, 6, 19), leaf(rng, 19)
    targets = rng.integers(0, 19, size=(2, 7))
    weights = torch.tensor(rng.uniform(size=(2, 7)))
    out: dict[str, Any] = {"hidden": hidden, "kernel": kernel, "bias": bias}
    out |= {"targets": targets, "weights": weights}
    plain = hidden @ kernel + bias
    for name, z, smoothing, z_loss in (
        ("plain", plain, 0.0, 0.0),
        ("smooth", plain, 0.1, 0.0),
        ("z", plain, 0.0, 0.01),
        ("all", 3.0 * torch.tanh(plain / 3.0), 0.2, 0.02),
    ):
        loss = F.cross_entropy(
            z.flatten(0, 1),
            torch.tensor(targets).flatten(),
            reduction="none",
            label_smoothing=smoothing,
        ).unflatten(0, (2, 7))
        loss = loss + z_loss * torch.logsumexp(z, -1) ** 2
        inputs = (hidden, kernel, bias)
        grads = torch.autograd.grad((loss * weights).sum(), inputs, retain_graph=True)
        out |= {f"{name}/loss": loss}
        out |= {f"{name}/d{n}": g for n, g in zip(("hidden", "kernel", "bias"), grads, strict=True)}
    return out


# -------------------------------------------------------------------------------- the Transformer


def transformer_case(values: dict[str, Any]) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    config = TransformerConfig(**{**values, "window": tuple(values.get("window", ()))})
    _, params, _ = split(config.build(29, rngs=nnx.Rngs(0)))
    weights = {
        path: torch.tensor(
            (np.asarray(value) + rng.normal(size=value.shape) * 0.05).astype(np.float32),
            dtype=torch.float64,
            requires_grad=True,
        )
        for path, value in flatten(params).items()
    }
    positions, segments = rows([[33], [9, 17, 4]], 33)
    tokens, targets = rng.integers(0, 29, size=(2, 2, 33)).astype(np.int32)
    logits = transformer(config, weights, torch.tensor(tokens).long(), positions, segments)
    loss = F.cross_entropy(
        logits.flatten(0, 1), torch.tensor(targets).long().flatten(), reduction="none"
    ).unflatten(0, (2, 33))
    loss = (loss * torch.tensor(segments != 0)).sum() / (segments != 0).sum()
    grads = torch.autograd.grad(loss, tuple(weights.values()))
    return {
        "config": json.dumps(values),
        "tokens": tokens,
        "targets": targets,
        "positions": positions,
        "segment_ids": segments,
        "logits": logits,
        "loss": loss,
        **{f"params/{path}": w for path, w in weights.items()},
        **{f"grads/{path}": g for path, g in zip(weights, grads, strict=True)},
    }


def transformer(
    c: TransformerConfig,
    w: dict[str, torch.Tensor],
    tokens: torch.Tensor,
    positions: np.ndarray,
    segments: np.ndarray,
) -> torch.Tensor:
    """Logits [B, T, V]."""
    x = w["embed/table"][tokens] * c.embedding.scale
    if "position/table" in w:
        x = x + w["position/table"][torch.tensor(positions).long()]
    for index in range(c.num_layers):
        layer = {
            path.removeprefix("layers/"): value[index]
            for path, value in w.items()
            if path.startswith("layers/")
        }
        x = x + attend(c, layer, norm(c, layer, "attention_norm", x), positions, segments, index)
        x = x + feed_forward(c, layer, norm(c, layer, "ffn_norm", x))
    x = norm(c, w, "final_norm", x)
    head = w["embed/table"].T if c.head.tied else w["unembed/kernel"]
    return cap(x @ head, c.head.softcap)


def norm(c: TransformerConfig, w: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    scale = w[f"{name}/scale"]
    if f"{name}/bias" not in w:
        return F.rms_norm(x, scale.shape, scale, eps=c.norm.eps)
    return F.layer_norm(x, scale.shape, scale, w[f"{name}/bias"], eps=c.norm.eps)


def attend(
    c: TransformerConfig,
    w: dict,
    x: torch.Tensor,
    positions: np.ndarray,
    segments: np.ndarray,
    index: int,
) -> torch.Tensor:
    def project(name: str) -> torch.Tensor:
        y = torch.einsum("btd,dnh->btnh", x, w[f"attention/{name}/kernel"])
        bias = w.get(f"attention/{name}/bias")
        return y if bias is None else y + bias

    q, k, v = project("query"), project("key"), project("value")
    if c.attention.qk_norm:
        q = F.rms_norm(q, q.shape[-1:], w["attention/query_norm/scale"], eps=c.norm.eps)
        k = F.rms_norm(k, k.shape[-1:], w["attention/key_norm/scale"], eps=c.norm.eps)
    if "position/table" not in w:
        q, k = rotate(c, q, positions), rotate(c, k, positions)
    repeats = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(repeats, 2), v.repeat_interleave(repeats, 2)
    scale = c.attention.scale or 1 / math.sqrt(q.shape[-1])
    scores = cap(torch.einsum("btnh,bsnh->bnts", q, k) * scale, c.attention.softcap)
    windows = c.attention.window or (None,)
    mask = seen(positions, segments, windows[index % len(windows)])
    scores = scores.masked_fill(~mask[:, None], -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    y = torch.einsum("bnts,bsnh->btnh", weights, v)
    y = torch.einsum("btnh,nhd->btd", y, w["attention/out/kernel"])
    return y + w.get("attention/out/bias", 0)


def rotate(c: TransformerConfig, x: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
    """Rotary positions as a product of complex numbers."""
    rotary = c.position[0]
    size = int(x.shape[-1] * rotary.fraction)
    part, rest = x[..., :size], x[..., size:]
    if rotary.interleaved:
        numbers = torch.complex(part[..., 0::2], part[..., 1::2])
    else:
        numbers = torch.complex(part[..., : size // 2], part[..., size // 2 :])
    stretch = rotary.scaling.factor if rotary.scaling else 1.0
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    angles = torch.tensor(positions / stretch)[..., None] / rotary.theta**exponents
    numbers = numbers * torch.exp(1j * angles)[:, :, None]
    if rotary.interleaved:
        part = torch.stack([numbers.real, numbers.imag], -1).flatten(-2)
    else:
        part = torch.cat([numbers.real, numbers.imag], -1)
    return torch.cat([part, rest], -1)


def feed_forward(c: TransformerConfig, w: dict, x: torch.Tensor) -> torch.Tensor:
    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        y = x @ w[f"ffn/{name}/kernel"]
        return y + w.get(f"ffn/{name}/bias", 0)

    if c.ffn.activation == "swiglu":
        return linear("down", F.silu(linear("gate", x)) * linear("up", x))
    if c.ffn.activation == "geglu":
        return linear("down", F.gelu(linear("gate", x)) * linear("up", x))
    assert c.ffn.activation == "gelu_tanh"
    return linear("down", F.gelu(linear("up", x), approximate="tanh"))


def cap(x: torch.Tensor, limit: float | None) -> torch.Tensor:
    return x if limit is None else limit * torch.tanh(x / limit)


if __name__ == "__main__":
    main()
