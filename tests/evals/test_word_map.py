"""Words on their principal axes: the places, and the picture of them in a report."""

from __future__ import annotations

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxlm.cli.shared.figures import print_figures
from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers.words import WordTokenizer
from jaxlm.evals.word_map import PLACES, SHARE, WordMap
from jaxlm.models.transformer import TransformerConfig
from jaxlm.models.vectors import VectorsConfig
from jaxlm.report.sections.word_map import WordMap as Picture
from jaxlm.report.sections.word_map import _free
from jaxlm.vectors.projection import project
from jaxlm.vectors.table import WordVectors

WORDS = ["a", "b", "c", "d", "e"]


@pytest.fixture
def table() -> WordVectors:
    return WordVectors(WORDS, np.random.default_rng(0).normal(0, 1, (5, 7)).astype(np.float32))


def test_a_terminal_shows_the_figures_and_not_the_places(capsys: pytest.CaptureFixture) -> None:
    measures = [SHARE.of(0.25), PLACES.of({"word_map": {"a": [0, 1]}, "missing": []})]
    print_figures(measures)
    assert capsys.readouterr().out.split() == ["share", "0.2500"]


def test_places_are_the_principal_components(table: WordVectors) -> None:
    found = project(table, WORDS)
    rows = table.unit - table.unit.mean(0)
    values, axes = np.linalg.eigh(np.cov(rows.T))  # another way than the singular values
    wanted = rows @ axes[:, ::-1][:, :2]
    signs = np.sign((wanted * found.places).sum(0))
    np.testing.assert_allclose(found.places, wanted * signs, atol=1e-6)
    assert found.share == pytest.approx(values[-2:].sum() / values.sum())
    assert (found.places.max(0) == np.abs(found.places).max(0)).all(), "largest ones are positive"


def test_two_words_and_equal_words(table: WordVectors) -> None:
    two = project(table, ["a", "b"])
    distance = np.linalg.norm(table.unit[0] - table.unit[1])
    assert two.share == pytest.approx(1) and np.ptp(two.places[:, 0]) == pytest.approx(distance)
    same = WordVectors(["x", "y"], np.ones((2, 3), np.float32))
    assert project(same, ["x", "y"]).share == pytest.approx(0, abs=1e-9)


def test_the_picture_has_each_word_at_its_place() -> None:
    places = {"<king>": [1.0, 0.5], "queen": [-1.0, -0.5], "sun": [0.0, 0.0]}
    result = {"map/places": {"word_map": places, "missing": ["zebra"]}, "final": {}}
    html = str(Picture().html(SimpleNamespace(result=result)))
    assert "&lt;king&gt;" in html and "<king>" not in html and "zebra" in html
    found = re.findall(r'class="(\w+)" style="left:([\d.]+)%;top:([\d.]+)%">([^<]+)<', html)
    where = {name: (side, float(x), float(y)) for side, x, y, name in found}
    assert where["sun"] == ("right", 50, 50)
    assert where["&lt;king&gt;"][0] == "left" and where["&lt;king&gt;"][1] > 90
    assert where["queen"][1] < 10 and where["queen"][2] > 50 > where["&lt;king&gt;"][2]
    assert html.count("h0") == 3
    assert Picture().html(SimpleNamespace(result={"final": {}})) is None


def test_names_at_one_place_are_moved_apart() -> None:
    taken: list[tuple[float, float, float]] = []
    places = [_free("word", 0.5, 0.5, taken) for _ in range(6)]
    assert len(set(places)) == 6 and places[:2] == [("right", 0.5), ("left", 0.5)]
    assert _free("far", 0.2, 0.5, taken) == ("right", 0.5)
    assert _free("edge", 0.95, 0.5, taken)[0] == "left"


def session_of(model: object, tokenizer: object) -> SimpleNamespace:
    return SimpleNamespace(
        config=SimpleNamespace(model=model),
        prepared=SimpleNamespace(tokenizer=tokenizer),
        program=SimpleNamespace(mesh=jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])),
    )


def test_the_evaluator_takes_the_words_that_the_vocabulary_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = WordTokenizer(["king", "queen", "sun"])
    rows = np.random.default_rng(1).normal(0, 1, (5, 4)).astype(np.float32)
    session = session_of(VectorsConfig(hidden_size=4), tokenizer)
    share, places = WordMap(words=("sun", "zebra", "king")).measure(session, {"table": rows}, None)
    assert share.value == pytest.approx(1) and places.value["missing"] == ["zebra"]
    assert [*places.value["word_map"]] == ["sun", "king"]
    every = WordMap().measure(session, {"table": rows}, None)[1]
    assert [*every.value["word_map"]] == ["king", "queen", "sun"]
    none = WordMap(words=("zebra", "king"))
    assert none.prepare(session) is not None and "no picture" in caplog.text
    assert none.measure(session, {"table": rows}, None) == []
    with pytest.raises(UserError, match="shows vectors of words, which model.type transformer"):
        WordMap().prepare(session_of(TransformerConfig(), tokenizer))
