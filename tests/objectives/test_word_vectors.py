"""Word2Vec: batches, updates and losses, against loops over pairs as word2vec.c has them."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import jax
import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.core.rows import text_rows
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.data.tokenizers.words import WordTokenizer
from jaxlm.mesh import MeshConfig, to_global_whole
from jaxlm.models.rnn import RNNConfig
from jaxlm.models.word_vectors import Subwords, WordVectorsConfig
from jaxlm.objectives.base_windows import Windows
from jaxlm.objectives.cbow import CBOW
from jaxlm.objectives.skip_gram import SkipGram
from jaxlm.optim.sgd import SGD
from jaxlm.training.feed import batch_spec
from jaxlm.training.program import make_program
from jaxlm.training.sparse import SparseLearner
from tests import tiny
from tests.vectors.test_sampling import chi_square

WORDS = ["the", "sea", "of", "names", "turns", "under", "low", "moon"]
COUNTS = [0, 0, 400, 90, 80, 40, 20, 12, 7, 3]
TOKENIZER = WordTokenizer(WORDS, counts=COUNTS)
LENGTH, DIM = 40, 6
SMALL: dict[str, Any] = {"window": 2, "pool": 4, "block": 8, "negatives": 3, "sample": 0.05}
SUBWORDS = Subwords(shortest=2, longest=3, buckets=11)
CASES = {
    "skip_gram": SkipGram(**SMALL),
    "skip_gram_paths": SkipGram(**SMALL, softmax="hierarchical", longest_path=7),
    "skip_gram_subwords": SkipGram(**SMALL, subwords=SUBWORDS, most_subwords=9),
    "cbow": CBOW(**SMALL),
    "cbow_paths": CBOW(**SMALL, softmax="hierarchical", longest_path=7),
    "cbow_subwords": CBOW(**SMALL, subwords=SUBWORDS, most_subwords=9),
}


def text(seed: int, length: int = LENGTH) -> dict[str, Any]:
    """A row of three documents, padded at its end."""
    rng = np.random.RandomState(seed)
    tokens = rng.choice(len(COUNTS), length + 1, p=np.array(COUNTS) / sum(COUNTS))
    segments = np.sort(rng.randint(1, 4, length + 1)).astype(np.int32)
    segments[-5:] = 0
    zeros = np.zeros(length + 1, np.int32)
    return {"tokens": tokens.astype(np.int32), "segment_ids": segments, "positions": zeros}


def batch_of(objective: Windows, rows: int = 2, length: int = LENGTH) -> dict[str, np.ndarray]:
    transform = objective.host_transform(TOKENIZER, seed=3)
    made = [transform(text(i, length), i) for i in range(rows)]
    return {name: np.stack([row[name] for row in made]) for name in made[0]}


def learner_of(
    objective: Windows, mesh: MeshConfig = tiny.ONE, vocab_size: int = len(COUNTS), rows: int = 2
) -> SparseLearner:
    model = WordVectorsConfig(hidden_size=DIM, subwords=objective.subwords, vocab_size=vocab_size)
    program = make_program(mesh=mesh.build(), model=model, objective=objective, batch_size=rows)
    return SparseLearner(program, SGD(learning_rate=0.02, clip_norm=None))


def tables_of(learner: SparseLearner) -> dict[str, np.ndarray]:
    return tiny.near_fresh(learner.program.abstract_params, std=0.7)


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


class Loops:
    """Pairs one by one, in float64; the updates of a block are added after it."""

    def __init__(self, objective: Windows, tables: dict[str, np.ndarray], rate: float) -> None:
        self.objective, self.rate = objective, rate
        self.input = tables["input"].astype(np.float64)
        self.output = tables["output"].astype(np.float64)
        self.loss = self.num = 0.0

    def run(self, batch: dict[str, np.ndarray]) -> None:
        size, window = self.objective.block, self.objective.window
        for k in range(int(batch["blocks"].max())):
            self.new = self.input.copy(), self.output.copy()
            for b in range(len(batch["words"])):
                row = {name: value[b] for name, value in batch.items()}
                for place in range(window + k * size, window + (k + 1) * size):
                    if row["segments"][place]:
                        self.word(row, place, k)
            self.input, self.output = self.new

    def near(self, row: Any, a: int, b: int, center: int) -> bool:
        same = row["segments"][a] == row["segments"][b] > 0
        return a != b and same and abs(a - b) <= row["radius"][center]

    def word(self, row: Any, place: int, k: int) -> None:
        """The pairs that belong to the block of a word."""
        around = [i for i in range(len(row["words"])) if abs(i - place) <= self.objective.window]
        if isinstance(self.objective, CBOW):
            context = [i for i in around if self.near(row, place, i, place)]
            if context:
                self.num += 1
                mean = np.mean([self.vector(row, i) for i in context], axis=0)
                change = self.target(mean, row, place, k)
                for i in context:
                    self.change_input(row, i, change)
        elif self.objective.softmax == "negative":  # the word is the input
            for i in around:
                if self.near(row, place, i, i):
                    self.pair(row, place, i, k)
        else:
            for i in around:
                if self.near(row, i, place, place):
                    self.pair(row, i, place, k)

    def pair(self, row: Any, source: int, target: int, k: int) -> None:
        self.num += 1
        self.change_input(row, source, self.target(self.vector(row, source), row, target, k))

    def rows(self, row: Any, place: int) -> list[int]:
        grams = row["subwords"][place] if "subwords" in row else []
        return [int(row["words"][place]), *(int(g) for g in grams if g >= 0)]

    def vector(self, row: Any, place: int) -> np.ndarray:
        return self.input[self.rows(row, place)].mean(0)

    def change_input(self, row: Any, place: int, change: np.ndarray) -> None:
        for i in self.rows(row, place):
            self.new[0][i] += change

    def target(self, x: np.ndarray, row: Any, place: int, k: int) -> np.ndarray:
        """Changes the outputs for one vector and its target; the change of the vector."""
        word = int(row["words"][place])
        if self.objective.softmax == "negative":
            share = self.objective.negatives / self.objective.pool
            drawn = [int(n) for n in row["negatives"][k]]
            asked = [(word, 1, 1.0), *((n, 0, share) for n in drawn if n != word)]
        else:
            signs = zip(row["nodes"][place], row["signs"][place], strict=True)
            asked = [(int(node), int(sign > 0), 1.0) for node, sign in signs if sign]
        change = np.zeros_like(x)
        for i, label, weight in asked:
            p = sigmoid(x @ self.output[i])
            self.loss -= weight * np.log(p if label else 1 - p)
            g = weight * self.rate * (label - p)
            change += g * self.output[i]
            self.new[1][i] += g * x
        return change


@pytest.mark.parametrize("objective", CASES.values(), ids=CASES)
def test_updates_and_losses_are_those_of_loops_over_pairs(objective: Windows) -> None:
    learner, batch = learner_of(objective), batch_of(objective)
    tables = tables_of(learner)
    loops = Loops(objective, tables, rate=0.05)
    loops.run(batch)
    after, sums = jax.jit(objective.update)(*jax.device_put((tables, batch)), 0.05)
    assert float(sums["loss"][1]) == loops.num > 30
    assert float(sums["loss"][0]) == pytest.approx(loops.loss, rel=1e-5)
    for name, expected in (("input", loops.input), ("output", loops.output)):
        assert np.abs(expected - tables[name]).max() > 0.05
        np.testing.assert_allclose(after[name], expected, atol=1e-6)
    still = Loops(objective, tables, rate=0.0)
    still.run(batch)
    step = jax.jit(learner.program.eval_step)
    found = step(*jax.device_put((tables, batch)), None)[0]
    assert float(found["loss"][0]) == pytest.approx(still.loss, rel=1e-5)


@pytest.mark.parametrize("objective", CASES.values(), ids=CASES)
def test_rows_are_as_their_spec_says(objective: Windows) -> None:
    made = objective.host_transform(TOKENIZER, seed=3)(text(0), 0)
    objective.transform_spec(text_rows(LENGTH + 1)).check(made, "here")


def test_radii_are_uniform_and_words_are_lost_before_windows() -> None:
    objective = SkipGram(window=5, sample=0.05)
    row = text(1, 40_000)
    made = objective.host_transform(TOKENIZER, seed=0)(row, 7)
    kept = made["segments"] > 0
    radii = np.bincount(made["radius"][kept])[1:]
    assert len(radii) == 5 and chi_square(radii, np.full(5, radii.sum() / 5)) < 4
    there = np.bincount(row["tokens"][:-1][row["segment_ids"][:-1] > 0], minlength=10)
    left = np.bincount(made["words"][kept], minlength=10)
    share = np.maximum(COUNTS, 1) / np.sum(COUNTS) / 0.05
    keep = np.minimum(1, (np.sqrt(share) + 1) / share)
    for word in range(2, 10):
        deviation = np.sqrt(there[word] * keep[word] * (1 - keep[word])) + 1e-9
        assert abs(left[word] - there[word] * keep[word]) / deviation < 4
    assert left[2] < 0.7 * there[2]
    # Without gaps, so that distances are those of the words that are left.
    assert kept[5:-5].nonzero()[0].tolist() == list(range(kept.sum()))
    negatives = made["negatives"][: made["blocks"]]
    weights = np.array(COUNTS[2:]) ** 0.75
    drawn = np.bincount(negatives.ravel(), minlength=10)[2:]
    assert chi_square(drawn, negatives.size * weights / weights.sum()) < 4


def test_what_is_drawn_is_of_the_seed_and_the_place_alone() -> None:
    objective = CASES["skip_gram"]
    first = objective.host_transform(TOKENIZER, seed=3)
    second = objective.host_transform(TOKENIZER, seed=3)
    second(text(0), 0)
    for other, equal in ((second(text(1), 5), True), (second(text(1), 6), False)):
        mine = first(text(1), 5)
        assert all((mine[name] == other[name]).all() for name in mine) == equal


def compiled(vocab_size: int) -> Any:
    learner = learner_of(CASES["skip_gram"], vocab_size=vocab_size)
    spec = batch_spec(CASES["skip_gram"].transform_spec(text_rows(LENGTH + 1)), 2, learner.mesh)
    return learner, learner.compile(spec)


def test_a_step_reads_and_writes_the_rows_of_its_words_alone() -> None:
    """No instruction makes another table than the one that is donated, and the time is the same."""
    batch = batch_of(CASES["skip_gram"])
    seconds = {}
    for size in (1_003, 300_007):
        learner, step = compiled(size)
        made = re.findall(rf"= f32\[{size},{DIM}\]\S* ([\w-]+)\(", step.as_text())
        in_place = {"scatter", "dynamic-update-slice"}
        moved = {"parameter", "get-tuple-element", "bitcast", "fusion"}
        assert set(made) & in_place and set(made) <= in_place | moved
        state, on_mesh = tiny_state(learner), to_global_whole(batch, learner.mesh)
        took = []
        for _ in range(8):
            begin = time.process_time()
            state, _ = jax.block_until_ready(step(state, {}, on_mesh))
            took.append(time.process_time() - begin)
        seconds[size] = min(took)
    assert seconds[300_007] < 3 * seconds[1_003] + 2e-3


def tiny_state(learner: SparseLearner) -> Any:
    return learner.create(jax.device_put(tables_of(learner), learner.program.param_shardings))


@pytest.mark.parametrize("name", ["skip_gram", "cbow_subwords"])
def test_eight_devices_step_as_one(name: str) -> None:
    objective, found = CASES[name], []
    batch = batch_of(objective, rows=8)
    for mesh in (tiny.ONE, MeshConfig(data=4, fsdp=2)):
        learner = learner_of(objective, mesh, rows=8)
        spec = batch_spec(objective.transform_spec(text_rows(LENGTH + 1)), 8, learner.mesh)
        step, state = learner.compile(spec), tiny_state(learner)
        for _ in range(3):
            state, metrics = step(state, {}, to_global_whole(batch, learner.mesh))
        found.append(jax.device_get((state["params"], metrics["loss"])))
    one, eight = found
    np.testing.assert_allclose(eight[1], one[1], rtol=1e-5)
    for table in one[0]:
        np.testing.assert_allclose(eight[0][table], one[0][table], atol=1e-5)


def test_the_vector_of_a_word_is_the_mean_of_its_rows() -> None:
    model = WordVectorsConfig(hidden_size=DIM, subwords=SUBWORDS, vocab_size=12)
    rows = np.random.RandomState(0).randn(12 + 11, DIM).astype(np.float32)
    found = model.word_vectors({"input": rows}, TOKENIZER)
    table, lengths = SUBWORDS.table(TOKENIZER)
    assert found.shape == (10, DIM) and lengths[3] == 7  # <s, <se, se, sea, ea, ea>, a>
    expected = np.mean([rows[3], *rows[12 + table[3, :7]]], axis=0)
    np.testing.assert_allclose(found[3], expected, atol=1e-6)
    plain = WordVectorsConfig(hidden_size=DIM, vocab_size=12)
    assert (plain.word_vectors({"input": rows}, TOKENIZER) == rows[:10]).all()


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    learner, batch = learner_of(CASES["skip_gram"]), batch_of(CASES["skip_gram"])
    tables = tables_of(learner)
    tables["output"][2] = np.nan  # each block has "the"
    after, sums = jax.jit(learner.objective.update)(*jax.device_put((tables, batch)), 0.1)
    assert not np.isfinite(sums["loss"][0])
    for name in tables:
        np.testing.assert_array_equal(after[name], tables[name])


def test_what_does_not_fit_is_a_users_error() -> None:
    objective = CASES["skip_gram"]
    with pytest.raises(UserError, match="set model.type to word_vectors"):
        objective.check(RNNConfig())
    with pytest.raises(UserError, match="needs the counts of words"):
        objective.host_transform(ByteTokenizer(), seed=0)
    with pytest.raises(UserError, match="longest_path: is not known without data"):
        dataclasses.replace(objective, softmax="hierarchical").check_resolved()
