"""Writes tests/fixtures/rnn_{bidirectional,seq2seq}_*.npz: torch's two-way layers, and recurrent
encoder-decoders written with torch's layers, with values and gradients under torch's names, and
the texts that these write greedily to each source.

    python tools/make_golden_seq2seq.py        (needs torch)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}
V, E, H, A, B, S, T = 11, 5, 6, 4, 3, 190, 176
LENGTHS = torch.tensor([190, 150, 173])
START, STEPS, SEEDS, MARGIN = 0, 64, 40, 3e-4

# name: cell, attention, input feeding, bridge, layers of encoder and decoder, both ways, tied head
CASES = {
    "gru_bahdanau": ("gru", "bahdanau", False, "dense", 1, 1, True, False),
    "lstm_bahdanau": ("lstm", "bahdanau", False, "dense", 2, 2, False, True),
    "lstm_general": ("lstm", "luong_general", True, "copy", 2, 2, False, False),
    "gru_dot": ("gru", "luong_dot", False, "copy", 1, 1, False, True),
    "elman_concat": ("elman", "luong_concat", True, "dense", 1, 2, True, False),
    "lstm_concat": ("lstm", "luong_concat", False, "zero", 1, 1, True, False),
    "gru_none": ("gru", "none", False, "copy", 1, 1, False, False),
    "lstm_none": ("lstm", "none", False, "dense", 2, 2, True, False),
}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for cell in LAYERS:
        np.savez_compressed(FIXTURES / f"rnn_bidirectional_{cell}.npz", **bidirectional(cell))
    for name, case in CASES.items():
        found = filter(None, (seq2seq(seed, *case) for seed in range(SEEDS)))
        arrays = max(found, key=lambda arrays: fewest_ids(arrays["greedy"]))
        np.savez_compressed(FIXTURES / f"rnn_seq2seq_{name}.npz", **arrays)
        print(name, fewest_ids(arrays["greedy"]), flush=True)


def bidirectional(cell: str) -> dict[str, np.ndarray]:
    """Two layers over documents of unequal length; zeros after a document's end."""
    module = randomise(LAYERS[cell](E, H, 2, bidirectional=True))
    x = torch.randn(S, B, E, requires_grad=True)
    outputs, last = read(module, x)
    d_outputs = torch.randn_like(outputs) / S**0.5
    d_last = [torch.randn_like(s) for s in last]
    loss = (outputs * d_outputs).sum() + sum(
        (s * d).sum() for s, d in zip(last, d_last, strict=True)
    )
    loss.backward()
    arrays = {"x": x, "grad_x": x.grad, "lengths": LENGTHS, "outputs": outputs}
    arrays |= {"d_outputs": d_outputs}
    for name, end, d_end in zip("hc"[: len(last)], last, d_last, strict=True):
        arrays |= {f"{name}_n": end, f"d_{name}_n": d_end}
    return numpy(arrays | parameters(module))


def seq2seq(seed, cell, attention, feeding, bridge, encoder_layers, layers, both, tied):
    """Logits of a text given a source, the gradients of sum(logits * d_logits), and greedy texts.

    None where a choice of the greedy texts is close.
    """
    torch.manual_seed(seed)
    model = randomise(Seq2Seq(cell, attention, feeding, bridge, encoder_layers, layers, both, tied))
    source, text = torch.randint(V, (S, B)), torch.randint(V, (T, B))
    greedy = answered(model, source)
    if greedy is None:
        return None
    logits = model(source, text)
    d_logits = torch.randn_like(logits) / T**0.5
    (logits * d_logits).sum().backward()
    arrays = {"source": source.T, "lengths": LENGTHS, "text": text.T, "greedy": greedy.T}
    arrays |= {"logits": logits.transpose(0, 1), "d_logits": d_logits.transpose(0, 1)}
    return numpy(arrays | parameters(model))


@torch.no_grad()
def answered(model, source):  # [S, B] -> [STEPS, B], or None
    """The tokens that follow START, by the whole text so far at every step."""
    encoded, text = read(model.encoder, model.embed(source)), torch.full((1, B), START)
    for _ in range(STEPS):
        best = model.decode(*encoded, text)[-1].topk(2)
        if (best.values[:, 0] - best.values[:, 1]).min() < MARGIN:
            return None
        text = torch.cat([text, best.indices[:, 0][None]])
    return text[1:]


def fewest_ids(texts):  # [B, STEPS]
    """The number of different ids in the dullest of the texts."""
    return min(len(set(row.tolist())) for row in texts)


class Seq2Seq(nn.Module):
    """Step by step, as the papers read."""

    def __init__(self, cell, attention, feeding, bridge, encoder_layers, layers, both, tied):
        super().__init__()
        self.attention, self.feeding, self.layers = attention, feeding, layers
        source = 2 * H if both else H
        output = E if tied else H
        extra = source if attention == "bahdanau" else output if feeding else 0
        self.embed = nn.Embedding(V, E)
        self.encoder = LAYERS[cell](E, H, encoder_layers, bidirectional=both)
        self.decoder = LAYERS[cell](E + extra, H, layers)
        self.states = "hc" if cell == "lstm" else "h"
        self.bridge = bridge
        if bridge == "dense":
            self.bridges = nn.ModuleDict({n: nn.Linear(source, layers * H) for n in self.states})
        if attention in ("bahdanau", "luong_concat"):
            self.query, self.key = nn.Linear(H, A, bias=False), nn.Linear(source, A, bias=False)
            self.score = nn.Parameter(torch.zeros(A))
        if attention == "luong_general":
            self.key = nn.Linear(source, H, bias=False)
        if attention == "bahdanau":
            self.readout = nn.Linear(H + E + source, 2 * output)
        elif attention != "none":
            self.readout = nn.Linear(source + H, output, bias=False)
        self.output = output
        self.head = nn.Parameter(torch.zeros(V, output)) if not tied else None
        self.head_bias = nn.Parameter(torch.zeros(V))

    def forward(self, source, text):  # [S, B], [T, B] -> [T, B, V]
        return self.decode(*read(self.encoder, self.embed(source)), text)

    def decode(self, hidden, last, text):
        state = self.first_state(last)
        fed = torch.zeros(B, self.output)
        outputs = []
        for x in self.embed(text):
            if self.attention == "bahdanau":
                context = self.look(state[0][-1], hidden)
                s, state = self.step(torch.cat([x, context], -1), state)
                pairs = self.readout(torch.cat([s, x, context], -1))
                y = torch.maximum(pairs[:, 0::2], pairs[:, 1::2])
            else:
                s, state = self.step(torch.cat([x, fed], -1) if self.feeding else x, state)
                y = s
                if self.attention != "none":
                    y = torch.tanh(self.readout(torch.cat([self.look(s, hidden), s], -1)))
                fed = y
            outputs.append(y)
        head = self.embed.weight if self.head is None else self.head
        return torch.stack(outputs) @ head.T + self.head_bias

    def step(self, x, state):
        given = state if len(state) > 1 else state[0]
        y, state = self.decoder(x[None], given)
        return y[0], state if isinstance(state, tuple) else (state,)

    def first_state(self, last):
        if self.bridge == "copy":
            return last
        if self.bridge == "zero":
            return tuple(torch.zeros(self.layers, B, H) for _ in last)
        ways = 2 if self.encoder.bidirectional else 1
        made = []
        for name, state in zip(self.states, last, strict=True):
            end = torch.cat(list(state[-ways:]), -1)  # the last layer's: forward, backward
            end = self.bridges[name](end)
            end = torch.tanh(end) if name == "h" else end
            made.append(torch.stack(end.chunk(self.layers, -1)))
        return tuple(made)

    def look(self, query, hidden):  # [B, H], [S, B, D] -> [B, D]
        if self.attention in ("bahdanau", "luong_concat"):
            scores = torch.tanh(self.query(query) + self.key(hidden)) @ self.score
        else:
            keys = hidden if self.attention == "luong_dot" else self.key(hidden)
            scores = (keys * query).sum(-1)
        padding = torch.arange(S)[:, None] >= LENGTHS
        weights = torch.softmax(scores.masked_fill(padding, -torch.inf), 0)  # [S, B]
        return (weights[..., None] * hidden).sum(0)


def read(module, x):
    packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    outputs, last = module(packed)
    last = last if isinstance(last, tuple) else (last,)
    return pad_packed_sequence(outputs, total_length=len(x))[0], last


def randomise(module):
    """Weights that keep signals near 1; embeddings are larger, so that texts do not settle."""
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, std=3.0 if name in ("embed.weight", "head") else 0.4)
    return module


def parameters(module):
    arrays = dict(module.named_parameters())
    return arrays | {f"grad.{name}": p.grad for name, p in arrays.items()}


def numpy(tensors):
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


if __name__ == "__main__":
    main()
