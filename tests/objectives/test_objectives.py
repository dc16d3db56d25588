"""What is asked of every objective: its batches, its draws, what it learns, and on which mesh."""

from __future__ import annotations

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.data.loader import Loader
from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.data.prompt_formats.fill_blank import FillBlank
from jaxlm.evals.evaluators import evaluators_of
from jaxlm.generate import Ends, Generator, Sampling, Writer, encode_prompt
from jaxlm.mesh import MeshConfig, local_rows
from jaxlm.nn.heads.classify import Classify
from jaxlm.objectives.base import record_rng
from jaxlm.training.compatibility import check_fit
from jaxlm.training.feed import Feed, batch_spec
from jaxlm.training.session import Session
from tests import tiny

SMOKE = sorted(path.stem for path in tiny.SMOKE.glob("*.yaml"))
DRAWN = ("bert", "t5", "glm")
LABELLED = (
    "data={type: records, source: {type: synthetic, labels: [a, b]}, seq_len: 32}",
    "data.task={type: classification}",
    "objective={type: classification}",
    "sample.prompts=[]",
)


@cache
def setup(name: str, *overrides: str):
    config = tiny.load(name, *overrides).config
    check_fit(config)
    return tiny.prepared(config)


def loader(name: str, *overrides: str, places=None, seed: int = 0, **how) -> Loader:
    config, data = setup(name, *overrides)
    rows = data.rows("train", batch_size=8, seed=seed)
    transform = config.objective.host_transform(data.tokenizer, seed)
    return Loader(rows, transform, 8, places, **how)


# ------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("name", [*SMOKE, "labels"])
@pytest.mark.parametrize("seq_len", [32, 45])
def test_shapes_without_data_are_those_of_the_loader(name, seq_len):
    how = ("transformer", *LABELLED) if name == "labels" else (name,)
    limit = {"bert": ("model.position={type: learned, max_seq_len: 46}",)}
    limit["glm"] = ("model.position={type: learned_blocks, max_seq_len: 46}",)
    how = (*how, f"data.seq_len={seq_len}", *limit.get(name, ()))
    config, _ = setup(*how)
    with loader(*how) as batches:
        batch = next(batches.batches())
    batch.pop("id")
    found = {key: (array.shape, array.dtype) for key, array in batch.items()}
    assert config.objective.transform_spec(config.data.row_spec()).batch(8) == found


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)


@pytest.mark.parametrize("name", DRAWN)
def test_draws_depend_on_no_host_and_no_restart(name):
    with (
        loader(name) as one,
        loader(name, places=range(4)) as a,
        loader(name, places=[4, 5, 6, 7]) as b,
    ):
        steps = [next(batches) for batches in [one.batches()] for _ in range(40)]
        halves = zip(a.batches(30), b.batches(30), strict=False)
        for step, parts in zip(range(30, 40), halves, strict=False):
            joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            assert same(joined, steps[step])
    epoch = one.rows_per_epoch
    rows = {(int(i), e): out for e in (0, 1) for i, out in _epoch(name, e, epoch)}
    again = [not same(rows[i, 0], rows[i, 1]) for i, e in rows if e]
    assert np.mean(again) > 0.9  # another epoch draws again


def _epoch(name: str, epoch: int, size: int):
    with loader(name) as batches:
        for index in range(epoch * size, (epoch + 1) * size):
            row = batches.row(index)
            yield row.pop("id"), row


def test_the_draws_of_a_row_are_those_of_its_own_seed():
    """Whatever was drawn before, in this thread or in another one."""

    def drawn(index: int) -> np.ndarray:
        rng = record_rng(3, index)
        uniform, _ = rng.random_sample(5), rng.normal()  # which keeps a second number for later
        return np.append(uniform, rng.normal())

    places = [*range(50), 2**40]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(drawn, places * 4))
    for index, numbers in zip(places * 4, found, strict=True):
        rng = np.random.RandomState([3, index & 0xFFFFFFFF, index >> 32])
        expected = [*rng.random_sample(5), *rng.normal(size=2)[1:]]
        np.testing.assert_array_equal(numbers, expected)


@pytest.mark.parametrize("name", DRAWN)
def test_validation_is_drawn_once_for_all(name):
    """The same whatever the run's seed and the batch's size."""
    found = []
    for seed, size in ((1, 8), (2, 4)):
        config, data = setup(name, f"seed={seed}", f"eval.batch_size={size}")
        (evaluator,) = evaluators_of(Session(config, data, tiny.program(config)))
        loader = evaluator.measuring.whole.loader
        found.append([loader.row(index) for index in range(8)])
        loader.close()
    assert all(same(a, b) for a, b in zip(*found, strict=True))


# ----------------------------------------------------------------------------------- what is traced

# Another value of every field that an objective or a model has.
PREDICTION = {"label_smoothing": 0.25, "z_loss": 0.5}
OTHERS = {
    "transformer": PREDICTION,
    "bert": PREDICTION
    | {"rate": 0.5, "masked": 0.5, "random": 0.25, "whole_words": True, "mask": 7},
    "t5": PREDICTION
    | {"density": 0.25, "mean_span": 2.0, "sentinels": (7, 8), "start": 9, "multiple_of": 4},
    "glm": PREDICTION
    | {"density": 0.25, "mean_span": 2.0, "long_rows": 0.25, "multiple_of": 4}
    | {"mask": 7, "long_mask": 8, "start": 9, "end": 10, "answers": 3},
    "labels": {"classes": ("a", "b", "c"), "head": Classify(dropout=0.5), "label_smoothing": 0.25},
}
OF_MODELS = {"family": "gpt2"}
FORMATS = {"t5": EncodeSource(start_id=9), "glm": FillBlank(start_id=9, blank_ids=(7, 8))}


@pytest.mark.parametrize("name", OTHERS)
def test_a_loss_is_traced_from_what_an_objective_says_it_is(name):
    """The program does not know what else it holds, nor the ids in a model's config."""
    config = tiny.load(*(("transformer", *LABELLED) if name == "labels" else (name,))).config
    objective, model = config.objective, config.model
    if name == "labels":
        objective = objective.replace(classes=("a", "b"))
    rows = objective.transform_spec(config.data.row_spec())
    spec = {k: jax.ShapeDtypeStruct(*of) for k, of in rows.batch(config.train.batch_size).items()}

    def traced(objective, model) -> str:
        program = tiny.program(config, objective=objective, model=model)

        def loss(params, batch, key):
            own = nnx.merge(program.graphdef, params)
            return program.objective.loss(own, batch, key=key, cache=None).loss_sum

        text = str(jax.make_jaxpr(loss)(program.abstract_params, spec, jax.random.key(0)))
        return re.sub("0x[0-9a-f]+", "", text)

    fields = {f.name for f in dataclasses.fields(objective)}
    assert fields == set(OTHERS[name])
    plain = traced(objective, model)
    for field, value in OTHERS[name].items():
        other = objective.replace(**{field: value})
        assert other != objective
        same = traced(other, model) == plain
        assert same == (other.traced() == objective.traced()), field
    names = {"prompt": FORMATS[name]} if name in FORMATS else {}
    for field, value in (OF_MODELS | names).items():
        if not hasattr(model, field):
            continue
        other = model.replace(**{field: value})
        assert other != model and other.traced() == model.traced()
        assert traced(objective, other) == plain, field


# ----------------------------------------------------------------------------------------- training

STEPS = 25


def train(name: str, mesh: MeshConfig, steps: int) -> np.ndarray:
    """The losses of some steps."""
    config, data = setup(name, "train.batch_size=16", "optimizer.learning_rate=1e-2")
    config = config.replace(train=config.train.replace(steps=STEPS))
    learner = tiny.learner(config, mesh)
    batches = Loader(
        data.rows("train", batch_size=16, seed=1),
        config.objective.host_transform(data.tokenizer, 1),
        16,
        local_rows(16, learner.mesh),
        threads=0,
        prefetch=0,
    )
    spec = config.objective.transform_spec(data.row_spec)
    step = learner.compile(batch_spec(spec, 16, learner.mesh))
    state, losses = tiny.state_of(learner), []
    with Feed(batches, learner.mesh, 0, ahead=0) as feed:
        for _ in range(steps):
            state, metrics = step(state, {}, next(feed)[1])
            total, weight = jax.device_get(metrics["objective"])
            losses.append(total / weight)
    return np.array(losses)


@pytest.mark.parametrize("name", DRAWN)
def test_it_learns_and_a_mesh_changes_nothing(name):
    one = train(name, tiny.ONE, STEPS)
    assert one[0] == pytest.approx(np.log(264), abs=0.3)
    assert one[-5:].mean() < one[0] - 2
    if name == "glm":  # whose rows have places of their own; the others: test_mesh_gradients
        split = train(name, MeshConfig(data=2, fsdp=2, tensor=2), 2)  # the second sees gradients
        np.testing.assert_allclose(split, one[:2], rtol=1e-5)


# ------------------------------------------------------------------------------- what goes together

REFUSED = [
    ("transformer", "masked_lm", "set model.attention.is_causal to false"),
    ("lstm", "masked_lm", "one transformer without an encoder"),
    ("t5", "masked_lm", "one transformer without an encoder"),
    ("transformer", "span_corruption", "needs an encoder that reads the source"),
    ("bert", "span_corruption", "needs an encoder that reads the source"),
    ("bert", "blank_infilling", "needs a causal transformer without an encoder"),
    ("t5", "blank_infilling", "needs a causal transformer without an encoder"),
    ("lstm", "blank_infilling", "needs a causal transformer without an encoder"),
    ("bert", "causal_lm", "asks for the next token, which this model sees"),
    ("t5", "causal_lm", "has no source text for the model's encoder"),
]


@pytest.mark.parametrize(("name", "objective", "says"), REFUSED)
def test_models_that_cannot_learn_it(name, objective, says):
    with pytest.raises(UserError, match=says) as error:
        setup(name, f"objective={{type: {objective}}}", "sample.prompts=[]")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", DRAWN)
def test_ids_after_the_tokenizers_are_taken_from_the_top(name):
    """264 ids, of which 259 are the tokenizer's; and the size that would do where they lack."""
    config, data = setup(name)
    c = config.objective
    found = {"bert": lambda: [c.mask], "t5": lambda: [*c.sentinels]}
    found["glm"] = lambda: [c.mask, c.long_mask, c.start]
    ids = found[name]()
    assert ids == [263, 262, 261][: len(ids)]
    assert c.resolve(data, config.model) == c, "a resumed run has the same"
    with pytest.raises(UserError, match=f"model.vocab_size to at least {259 + len(ids)}"):
        setup(name, "model.vocab_size=null")


def test_what_a_model_writes_after():
    config, data = setup("t5")
    assert config.objective.start == config.model.prompt.start_id == data.tokenizer.pad_id
    config, data = setup("glm")
    assert config.model.prompt == FillBlank(start_id=261, blank_ids=(263, 262))
    assert config.objective.end == data.tokenizer.eos_id
    ids = encode_prompt(data.tokenizer, "ab", config.model, Ends(bos=True, eos=True))
    assert ids == [data.tokenizer.bos_id, 97, 98, 262]  # a long blank: it is continued


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_what_writes_no_text_takes_no_prompts(name):
    with pytest.raises(UserError, match=r"sample.prompts: the objective .* no text"):
        setup(name, "sample.prompts=[a]")


def test_a_prefix_decoder_fills_blanks_by_the_order_alone():
    config, data = setup("transformer", "objective={type: blank_infilling}", "sample.prompts=[]")
    assert config.model.prompt is None and config.objective.mask == 263
    assert "after a prefix" in config.objective.why_silent(config.model)
    program = tiny.program(config.replace(model=config.model.replace(dropout=0.0)))
    with loader("transformer", "objective={type: blank_infilling}", "sample.prompts=[]") as rows:
        batch = next(rows.batches())
    batch.pop("id")
    metrics = jax.jit(program.eval_step)(tiny.params_of(program), batch, None)[0]
    other = {**batch, "places": batch["places"] * 0}
    again = jax.jit(program.eval_step)(tiny.params_of(program), other, None)[0]
    assert metrics["loss"][0] == again["loss"][0] > 0
    blind = {**batch, "prefix": batch["prefix"] & False}
    third = jax.jit(program.eval_step)(tiny.params_of(program), blind, None)[0]
    assert third["loss"][0] != metrics["loss"][0]


def test_a_model_of_blanks_goes_by_their_places():
    config, _ = setup("glm")
    program = tiny.program(config)
    params, step = tiny.params_of(program), jax.jit(program.eval_step)
    with loader("glm") as rows:
        batch = next(rows.batches())
    batch.pop("id")
    loss = step(params, batch, None)[0]["loss"][0]
    for part in (0, 1):
        places = batch["places"].copy()
        places[..., part] = 0
        assert step(params, {**batch, "places": places}, None)[0]["loss"][0] != loss


def test_ids_after_the_tokenizers_add_nothing_to_a_text():
    config, data = setup("glm")

    class Given(Generator):
        def with_scores(self, params, prompts, **options):
            return [(np.array([97, 263, 98, data.tokenizer.eos_id]), 0.0)]

    model = SimpleNamespace(model=config.model)
    generator = Given(model, Sampling(), eos_id=data.tokenizer.eos_id, pad_id=0)
    assert Writer(data.tokenizer, generator, Ends(bos=True, eos=True))({}, ["x"], seed=0) == ["ab"]


def test_rows_longer_than_the_models_positions():
    for name, says in (("glm", "pass the model's 33 positions"), ("bert", "longer than the model")):
        with pytest.raises(UserError, match=says):
            setup(name, "data.seq_len=33")
