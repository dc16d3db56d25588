"""Reads the fixtures of tools/make_golden_seq2seq.py in the layout of ours, and compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.nn.golden_rnn import largest

FIXTURES = Path(__file__).parents[1] / "fixtures"
FAMILY = "rnn_seq2seq"

# name: the config, beside the sizes that all have
CASES: dict[str, dict[str, Any]] = {
    "gru_bahdanau": {"cell": "gru", "attention": "bahdanau"},
    "lstm_bahdanau": {
        "attention": "bahdanau",
        "num_layers": 2,
        "encoder": {"num_layers": 2, "bidirectional": False},
        "tie_embeddings": True,
    },
    "lstm_general": {
        "attention": "luong_general",
        "input_feeding": True,
        "bridge": "copy",
        "num_layers": 2,
        "encoder": {"num_layers": 2, "bidirectional": False},
    },
    "gru_dot": {
        "cell": "gru",
        "attention": "luong_dot",
        "bridge": "copy",
        "encoder": {"bidirectional": False},
        "tie_embeddings": True,
    },
    "elman_concat": {
        "cell": "elman",
        "attention": "luong_concat",
        "input_feeding": True,
        "num_layers": 2,
    },
    "lstm_concat": {"attention": "luong_concat", "bridge": "zero"},
    "gru_none": {
        "cell": "gru",
        "attention": "none",
        "bridge": "copy",
        "encoder": {"bidirectional": False},
    },
    "lstm_none": {"attention": "none", "num_layers": 2, "encoder": {"num_layers": 2}},
}
SIZES = {"hidden_size": 6, "embedding_size": 5, "dtype": "float32"}
ADDITIVE = {"attention_size": 4}


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"rnn_{name}.npz") as data:
        return dict(data)


def config_of(name: str) -> Any:
    from jaxlm.models.rnn_encoder import EncoderConfig
    from jaxlm.models.rnn_seq2seq import RNNSeq2SeqConfig

    values = SIZES | CASES[name]
    if values["attention"] in ("bahdanau", "luong_concat"):
        values |= ADDITIVE
    return RNNSeq2SeqConfig(**values | {"encoder": EncoderConfig(**values.get("encoder", {}))})


def cell(golden: dict[str, np.ndarray], module: str, layer: str, *, grad: bool = False) -> dict:
    """A layer's parameters (or gradients): torch's two biases are one, except a GRU's candidate.

    Each of torch's summed biases has the gradient of the sum.
    """
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    start = ("grad." if grad else "") + module
    w_x, w_h, b_x, b_h = (golden[f"{start}{name}_l{layer}"] for name in names)
    size = w_h.shape[1]
    is_gru = len(w_h) == 3 * size
    bias, recurrent = b_x if grad else b_x + b_h, {"kernel": w_h.T}
    if is_gru:
        bias = np.concatenate([bias[: 2 * size], b_x[2 * size :]])
        recurrent["bias"] = b_h[2 * size :]
    return {"input": {"kernel": w_x.T, "bias": bias}, "recurrent": recurrent}


def reader(golden: dict[str, np.ndarray], module: str, layer: int, *, grad: bool = False) -> dict:
    """A layer in one direction or both."""
    both = {"forward": cell(golden, module, str(layer), grad=grad)}
    if f"{module}weight_ih_l{layer}_reverse" in golden:
        both["backward"] = cell(golden, module, f"{layer}_reverse", grad=grad)
    return both


def tree(golden: dict[str, np.ndarray], config: Any, *, grad: bool = False) -> dict:
    """All parameters (or gradients) of an encoder-decoder."""
    get = lambda name: golden[("grad." if grad else "") + name]  # noqa: E731
    has = lambda name: name in golden  # noqa: E731
    readers = [reader(golden, "encoder.", i, grad=grad) for i in range(config.encoder.num_layers)]
    encoder = {
        f"layers_{i}" if len(readers) > 1 else "layers": _stacked(layer)
        for i, layer in enumerate(readers)
    }
    decoder: dict[str, Any] = {
        f"layers_{i}": cell(golden, "decoder.", str(i), grad=grad) for i in range(config.num_layers)
    }
    first = decoder["layers_0"]["input"]
    columns, first["kernel"] = np.split(first["kernel"], [config.input_size])[::-1]
    if len(columns):
        decoder["context"] = {"kernel": columns}
    names = ("query", "key", "score", "readout")
    attention: dict[str, Any] = {}
    for name in names[:2]:
        if has(f"{name}.weight"):
            attention[name] = {"kernel": get(f"{name}.weight").T}
    if has("score"):
        attention["score"] = get("score")
    if attention:
        decoder["attention"] = attention
    if has("readout.weight"):
        decoder["readout"] = {"kernel": get("readout.weight").T}
    if has("readout.bias"):
        decoder["readout"]["bias"] = get("readout.bias")
    for name in "hc":
        if has(f"bridges.{name}.weight"):
            weight, bias = get(f"bridges.{name}.weight"), get(f"bridges.{name}.bias")
            decoder.setdefault("bridge", {})[name] = {"kernel": weight.T, "bias": bias}
    unembed = {"bias": get("head_bias")}
    if has("head"):
        unembed["kernel"] = get("head").T
    embed = {"table": get("embed.weight")}
    return {"embed": embed, "encoder": encoder, "decoder": decoder, "unembed": unembed}


def _stacked(layer: Any) -> Any:
    if isinstance(layer, dict):
        return {name: _stacked(value) for name, value in layer.items()}
    return layer[None]


def errors(name: str) -> dict[str, float]:
    """How far logits and gradients of ours are from torch's."""
    import jax
    from flax import nnx

    from jaxlm.nn.params import split

    golden, config = load(f"seq2seq_{name}"), config_of(name)
    vocab_size = len(golden["head_bias"])
    made = nnx.eval_shape(lambda: config.build(vocab_size, rngs=nnx.Rngs(0)))
    graphdef, abstract, _ = split(made)
    source, text = golden["source"].astype(np.int32), golden["text"].astype(np.int32)
    real = (np.arange(source.shape[1]) < golden["lengths"][:, None]).astype(np.int32)
    ones = np.ones_like(text)

    def in_order(tokens: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
        positions = np.arange(tokens.shape[1], dtype=np.int32) * ids
        return {"tokens": tokens, "positions": positions, "segment_ids": ids}

    def loss(params: Any) -> Any:
        model = nnx.merge(graphdef, params)
        out = model(**in_order(text, ones), encoded=model.encode(**in_order(source, real)))
        logits = model.logits(out.hidden)
        return (logits * golden["d_logits"]).sum(), logits

    params = tree(golden, config)
    shapes = jax.tree.map(lambda x: x.shape, abstract)
    assert jax.tree.map(lambda x: x.shape, params) == shapes
    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    return {
        "logits": largest(logits, golden["logits"]),
        "gradients": largest(gradients, tree(golden, config, grad=True), 1e-3),
    }
