"""Words and the words around them: what `skip_gram` and `cbow` have in common.

A text loses frequent words first (`sample`), then each word i that is left gets a radius r_i,
drawn uniformly from 1 to `window`; the words at a distance of at most r_i in its document are its
context. The softmax over the vocabulary, by which a vector x predicts a target, is replaced by

    negative        -log s(x . u_target) - sum_k log s(-x . u_k),  k drawn from counts ** power
    hierarchical    -sum_n log s(+-x . u_n) over the inner nodes n on the path to the target

Updates are those of stochastic gradient descent on the sum over a small block of words: gradients
of the rows that the block reads are added to these rows, so the cost of a step does not depend on
the vocabulary (`jaxlm.training.sparse`). A step takes the blocks of its rows one after the other.

Pairs share their negatives within a block: `pool` words are drawn for its `block` words, and each
counts `negatives / pool` times for each pair, so that the expected gradient is that of `negatives`
drawn for each pair, while scores are products of matrices (Ji et al. 2016, arXiv:1604.04661). A
word of skip-gram is in about `window + 1` pairs, so a negative of its block counts for more of them
than one of CBOW: its outputs get longer and its inputs shorter than with negatives of each pair,
the more words share a pool. Blocks of 8 words, not 16, halve this and take a sixth more time. The
pool has one word from each of `pool` equal parts of the distribution: none is more or less likely,
and the pools differ less. As in word2vec.c, a negative that is the target of a pair does not count
for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm.core.config import UserError, field, type_name
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.models.word_vectors import Subwords, WordVectorsConfig
from jaxlm.nn.word_blocks import Block, Targets, added, block_of, gathered, score_loss
from jaxlm.objectives.base import LOSS, Loss, Objective, Transform, record_rng
from jaxlm.vectors.huffman import Tree, huffman
from jaxlm.vectors.sampling import Drawing, keep_probability, strata

if TYPE_CHECKING:
    from flax import nnx

    from jaxlm.core.types import Batch, Cache, ModelConfig, Tokenizer

Params = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Windows(Objective, abstract=True):
    """The base of objectives that learn vectors from pairs of words that are near each other."""

    learner: ClassVar[str] = "jaxlm.training.sparse:SparseLearner"
    cpu_threads: ClassVar[int | None] = 1  # a block is many small operations
    displays: ClassVar[tuple[Measure, ...]] = (LOSS,)

    window: int = field(5, "the largest distance of two words that predict each other", ge=1)
    softmax: Literal["negative", "hierarchical"] = field(
        "negative", "what replaces the softmax over the vocabulary"
    )
    negatives: int = field(5, "words drawn for each pair, which it must tell from the target", ge=1)
    pool: int = field(80, "negatives drawn for the pairs of a block, which share them", ge=1)
    power: float = field(
        0.75, "negatives are drawn by this power of their counts", ge=0, le=1, affects="host"
    )
    sample: float = field(
        1e-3,
        "words with a larger share of the text are left out at random; 0: none",
        ge=0,
        affects="host",
    )
    block: int = field(16, "words of a row whose updates are made together", ge=1)
    subwords: Subwords | None = field(None, "n-grams of a word; null: those of the model")
    longest_path: int | None = field(
        None, "nodes on the longest path of the hierarchical softmax; null: from the counts", ge=1
    )
    most_subwords: int | None = field(
        None, "n-grams of a word that are used at most; null: those of the longest word", ge=1
    )

    def why_silent(self, model: ModelConfig) -> str | None:
        return "learns vectors of words and writes no text"

    # --------------------------------------------------------------------------------- its config

    def check(self, model: ModelConfig) -> None:
        own = type_name(type(self))
        if not isinstance(model, WordVectorsConfig):
            raise UserError(
                f"objective: {own} trains tables of word vectors; set model.type to word_vectors"
            )
        if self.subwords not in (None, model.subwords):
            raise UserError(
                "objective.subwords: differ from model.subwords; remove them from the objective"
            )

    def resolve(self, prepared: Any, model: ModelConfig) -> Windows:
        assert isinstance(model, WordVectorsConfig), "check"
        counts = counts_of(prepared.tokenizer, self)
        changes: dict[str, Any] = {"subwords": model.subwords}
        if self.softmax == "hierarchical" and self.longest_path is None:
            changes["longest_path"] = max(1, int(huffman(counts).lengths.max()))
        if model.subwords is not None and self.most_subwords is None:
            changes["most_subwords"] = int(model.subwords.table(prepared.tokenizer)[1].max())
        return self.replace(**changes)

    def check_resolved(self) -> None:
        if self.softmax == "hierarchical" and self.longest_path is None:
            raise UserError("objective.longest_path: is not known without data; set it, as to 20")
        if self.subwords is not None and self.most_subwords is None:
            raise UserError("objective.most_subwords: is not known without data; set it, as to 40")

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> Any:
        return model.build(model.vocab_size, rngs=rngs)

    # --------------------------------------------------------------------------------------- rows

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        counts = counts_of(tokenizer, self)
        keep = keep_probability(counts, self.sample)
        draw = Drawing(counts, self.power)
        tree = huffman(counts) if self.softmax == "hierarchical" else None
        grams = None if self.subwords is None else self.subwords.table(tokenizer)
        before = self.window

        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            rng = record_rng(seed, index)
            tokens, segments = row["tokens"][:-1], row["segment_ids"][:-1]
            kept = (segments > 0) & (rng.random_sample(len(tokens)) < keep[tokens])
            words = tokens[kept]
            count = len(words)
            blocks = self._blocks(len(tokens))
            length = blocks * self.block + 2 * before
            made: dict[str, Any] = {
                name: np.zeros(length, np.int32) for name in ("words", "segments", "radius")
            }
            middle = slice(before, before + count)
            made["words"][middle], made["segments"][middle] = words, segments[kept]
            made["radius"][middle] = 1 + (rng.random_sample(count) * before).astype(np.int32)
            if tree is None:
                used = -(-count // self.block)
                made["negatives"] = np.zeros((blocks, self.pool), np.int32)
                made["negatives"][:used] = draw(strata(rng, used, self.pool))
            else:
                made |= self._paths(tree, made["words"])
            if grams is not None:
                made["subwords"] = self._grams(grams, made["words"], len(counts))
            return {**made, "segment_ids": segments, "blocks": np.int32(-(-count // self.block))}

        return transform

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        length = rows.sizes["T"] - 1
        blocks = self._blocks(length)
        padded = blocks * self.block + 2 * self.window
        entries = {name: Entry((padded,)) for name in ("words", "segments", "radius")}
        if self.softmax == "negative":
            entries["negatives"] = Entry((blocks, self.pool))
        else:
            path = self.longest_path or 1
            entries |= {name: Entry((padded, path)) for name in ("nodes", "signs")}
        if self.subwords is not None:
            entries["subwords"] = Entry((padded, self.most_subwords or 1))
        entries |= {"segment_ids": Entry(("T",)), "blocks": Entry(())}
        return RowSpec(entries, T=length)

    def _blocks(self, length: int) -> int:
        return -(-length // self.block)

    def _paths(self, tree: Tree, words: np.ndarray) -> dict[str, np.ndarray]:
        """The nodes of the hierarchical softmax for each word, cut to `longest_path`."""
        assert self.longest_path is not None, "resolve"
        inside = np.arange(self.longest_path) < tree.lengths[words, None]
        nodes, codes = (_columns(x, self.longest_path)[words] for x in (tree.nodes, tree.codes))
        signs = np.where(inside, 1 - 2 * codes.astype(np.int32), 0).astype(np.int32)
        return {"nodes": nodes, "signs": signs}

    def _grams(self, table: tuple[np.ndarray, np.ndarray], words: np.ndarray, first: int) -> Any:
        """The rows of the input table for the n-grams of each word; `first` is that of bucket 0."""
        assert self.most_subwords is not None, "resolve"
        buckets, lengths = table
        inside = np.arange(self.most_subwords) < lengths[words, None]
        return np.where(inside, first + _columns(buckets, self.most_subwords)[words], -1)

    # ---------------------------------------------------------------------------- loss and updates

    def inputs(self, block: Block) -> jax.Array:
        """Rows [B, I, G] of the input table that are read: of the words, and of their n-grams."""
        raise NotImplementedError

    def vectors(self, x: jax.Array, block: Block) -> jax.Array:
        """The vectors that are compared with targets, of those of the inputs."""
        return x

    def targets(self, block: Block) -> Targets:
        """What the vectors are compared with."""
        raise NotImplementedError

    def update(
        self, params: Params, batch: Batch, rate: jax.Array
    ) -> tuple[Params, dict[str, tuple[jax.Array, jax.Array]]]:
        """(the tables after all blocks of a batch, metrics), traceable. A block whose loss is not
        finite changes nothing.
        """

        def one(k: jax.Array, carry: tuple) -> tuple:
            tables, total, count = carry
            block = block_of(batch, k, size=self.block, window=self.window)
            rows, targets = self.inputs(block), self.targets(block)
            x, y = gathered(tables["input"], rows), tables["output"][targets.ids]
            loss, (dx, dy) = jax.value_and_grad(self._block_loss, (0, 1))(x, y, block, targets)
            good = jnp.isfinite(loss)
            dx, dy = (jnp.where(good, -rate * d, 0) for d in (dx, dy))
            tables = {
                "input": added(tables["input"], rows, dx),
                "output": added(tables["output"], targets.ids[..., None], dy),
            }
            return tables, total + loss, count + targets.num

        zero = jnp.zeros((), jnp.float32)
        tables, loss, count = lax.fori_loop(0, batch["blocks"].max(), one, (params, zero, zero))
        return tables, {"loss": (loss, count), "objective": (loss, count)}

    def loss(self, model: Any, batch: Batch, *, key: Any, cache: Cache | None) -> Loss:
        tables = {"input": model.input.get_value(), "output": model.output.get_value()}

        def one(k: jax.Array, carry: tuple) -> tuple:
            total, count = carry
            block = block_of(batch, k, size=self.block, window=self.window)
            targets = self.targets(block)
            x = gathered(tables["input"], self.inputs(block))
            loss = self._block_loss(x, tables["output"][targets.ids], block, targets)
            return total + loss, count + targets.num

        zero = jnp.zeros((), jnp.float32)
        loss, count = lax.fori_loop(0, batch["blocks"].max(), one, (zero, zero))
        return Loss(loss, count, {"loss": (loss, count)}, cache)

    def _block_loss(self, x: jax.Array, y: jax.Array, block: Block, targets: Targets) -> jax.Array:
        return score_loss(self.vectors(x, block), y, targets)

    def flops_per_token(self, model: Any, seq_len: int) -> float:
        """FLOPs of the scores that define the loss, as if no word were left out: a word has
        window + 1 neighbours in the mean.
        """
        compared = 1 + self.negatives if self.softmax == "negative" else self.longest_path or 1
        return 2.0 * model.config.hidden_size * (self.window + 1) * compared

    def _rows(self, words: jax.Array, subwords: jax.Array | None) -> jax.Array:
        """[..., G] rows of the input table: a word's own, and those of its n-grams."""
        own = words[..., None]
        return own if subwords is None else jnp.concatenate([own, subwords], axis=-1)

    def _sampled(self, block: Block, pairs: jax.Array, words: jax.Array) -> jax.Array:
        """[B, I, M] how often each negative counts for each input, of pairs [B, I, J] with the
        words [B, J]: `negatives / pool` times for each pair of which it is not the target.
        """
        assert block.negatives is not None
        other = words[:, :, None] != block.negatives[:, None, :]
        weights = jnp.einsum("bij,bjm->bim", pairs, other.astype(pairs.dtype))
        return weights * (self.negatives / self.pool)


def counts_of(tokenizer: Tokenizer, objective: Objective) -> np.ndarray:
    """[V] int64: how often the text of a tokenizer has each word."""
    counts = getattr(tokenizer, "counts", None)
    if counts is None:
        raise UserError(
            f"tokenizer: objective {type_name(type(objective))} needs the counts of words, which "
            "this tokenizer has not kept; use {type: words}"
        )
    return np.asarray(counts, np.int64)


def _columns(table: np.ndarray, count: int) -> np.ndarray:
    """The table cut, or padded with zeros, to this number of columns."""
    missing = max(count - table.shape[1], 0)
    return np.pad(table, ((0, 0), (0, missing)))[:, :count]
