"""The real GRU encoder-decoder of the package g2p-en as ours: it spells out how a word is said.

    python tools/import_g2p.py activationist jaxlm
    activationist   AE2 K T IH0 V EY1 SH AH0 N IH0 S T

g2p-en 2.1.0 (Park & Kim 2019, github.com/Kyubyong/g2p, Apache-2.0) keeps 29 graphemes and 74
phonemes apart, each with an embedding of its own. Here they are one vocabulary, graphemes first;
the head is shut for graphemes. The package is fetched once, and its checksum is pinned.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.data.reading.archives import read_members
from jaxlm.data.reading.fetch import fetch
from jaxlm.models.rnn_encoder import EncoderConfig
from jaxlm.models.rnn_seq2seq import RNNSeq2SeqConfig

REQUIREMENT = "g2p-en==2.1.0"
SHA256 = "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f"  # of the wheel

GRAPHEMES = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
ARPABET = """AA* AE* AH* AO* AW* AY* B CH D DH EH* ER* EY* F G HH IH* IY* JH K L M N NG OW* OY*
    P R S SH T TH UH* UW UW* V W Y Z ZH"""  # * is each of three stresses
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>"]
for sound in ARPABET.split():
    PHONEMES += [sound.replace("*", s) for s in "012"] if "*" in sound else [sound]

FIRST = len(GRAPHEMES)  # the id of the first phoneme
START, END = FIRST + PHONEMES.index("<s>"), FIRST + PHONEMES.index("</s>")
MAX_PHONEMES = 20  # as the package has it
SHUT = -1e9  # the bias of what is never written


def config() -> RNNSeq2SeqConfig:
    return RNNSeq2SeqConfig(
        cell="gru",
        hidden_size=256,
        encoder=EncoderConfig(bidirectional=False),
        attention="none",
        bridge="copy",
        prompt=EncodeSource(start_id=START),
        dtype="float32",
    )


def members() -> dict[str, bytes]:
    """The package's weights and code."""
    archive = fetch(REQUIREMENT, SHA256, archive="wheel")
    return read_members(archive, ["g2p_en/checkpoint20.npz", "g2p_en/g2p.py"])


def parameters(content: bytes) -> dict[str, Any]:
    """The parameters of `config().build` from the package's checkpoint20.npz."""
    with np.load(io.BytesIO(content)) as arrays:
        w = dict(arrays)
    encoder = jax.tree.map(lambda a: a[None], {"forward": cell(w, "enc")})  # a stack of one layer
    head = np.concatenate([np.zeros((FIRST, w["fc_w"].shape[1]), np.float32), w["fc_w"]])
    bias = np.concatenate([np.full(FIRST, SHUT, np.float32), w["fc_b"]])
    return {
        "embed": {"table": np.concatenate([w["enc_emb"], w["dec_emb"]])},
        "encoder": {"layers": encoder},
        "decoder": {"layers_0": cell(w, "dec")},
        "unembed": {"kernel": head.T, "bias": bias},
    }


def cell(w: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """A GRU: its two biases are added, except those of the candidate."""
    b_x, b_h = w[f"{name}_b_ih"], w[f"{name}_b_hh"]
    gates = len(b_x) // 3 * 2
    bias = np.concatenate([b_x[:gates] + b_h[:gates], b_x[gates:]])
    return {
        "input": {"kernel": w[f"{name}_w_ih"].T, "bias": bias},
        "recurrent": {"kernel": w[f"{name}_w_hh"].T, "bias": b_h[gates:]},
    }


def pronounce(params: dict[str, Any], words: Sequence[str]) -> list[list[str]]:
    """The phonemes of each word, greedily."""
    length = 1 + max(map(len, words))
    tokens = np.zeros((len(words), length), np.int32)
    real = np.zeros_like(tokens)
    for row, word in enumerate(words):
        symbols = [*word, "</s>"]
        unknown = GRAPHEMES.index("<unk>")
        ids = [GRAPHEMES.index(s) if s in GRAPHEMES else unknown for s in symbols]
        tokens[row, : len(ids)], real[row, : len(ids)] = ids, 1
    written = np.asarray(writer()(params, tokens, real))
    rows = (row[: list(row).index(END)] if END in row else row for row in written)
    return [[PHONEMES[i - FIRST] for i in row] for row in rows]


@cache
def writer() -> Any:
    """A jitted (params, tokens [B, S], real [B, S]) -> ids [B, MAX_PHONEMES]."""
    make = lambda: config().build(FIRST + len(PHONEMES), rngs=nnx.Rngs(0))  # noqa: E731
    graph = nnx.split(nnx.eval_shape(make))[0]

    @jax.jit
    def write(params: Any, tokens: jax.Array, real: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params)
        positions = jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
        encoded = model.encode(tokens, positions=positions, segment_ids=real)
        one = jnp.ones((len(tokens), 1), jnp.int32)

        def step(state: Any, place: jax.Array) -> tuple[Any, jax.Array]:
            cache, token = state
            hidden, cache, *_ = model(token, positions=one * place, segment_ids=one, cache=cache)
            token = model.logits(hidden).argmax(-1).astype(jnp.int32)
            return (cache, token), token[:, 0]

        cache = model.init_cache(len(tokens), MAX_PHONEMES, encoded)
        state = (cache, one * START)
        return jax.lax.scan(step, state, jnp.arange(MAX_PHONEMES))[1].T

    return write


def main() -> None:
    words = sys.argv[1:] or ["activationist"]
    params = parameters(members()["g2p_en/checkpoint20.npz"])
    for word, phonemes in zip(words, pronounce(params, words), strict=True):
        print(f"{word}\t{' '.join(phonemes)}")


if __name__ == "__main__":
    main()
