"""A run that counts n-grams: the model of `jaxlm.ngrams`, in a run's folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm import api
from jaxlm.api.ngram_files import build_file, convert_file
from jaxlm.cli.shared.figures import print_figures
from jaxlm.core import config as configs
from jaxlm.core.config import Resolved, UserError
from jaxlm.core.numbers import percent
from jaxlm.data.rows.stream import WindowStream
from jaxlm.evals.likelihood import Likelihood
from jaxlm.evals.run import evaluate_run
from jaxlm.evals.samples import _pieces
from jaxlm.info import describe_run
from jaxlm.ngrams.binary import read_binary
from jaxlm.ngrams.counting import count
from jaxlm.ngrams.model import NgramModel
from jaxlm.ngrams.on_disk import work as on_disk
from jaxlm.ngrams.smoothing.witten_bell import WittenBell
from jaxlm.run import RunConfig, load_saved
from jaxlm.training.loading import load_trained
from jaxlm.training.session import Session
from tests import tiny
from tests.several import in_two

ORDER = 4
TRAIN = "import sys; from jaxlm.cli import main; sys.exit(main(sys.argv[1:]))"


def config_of(run: Path, *changes: str) -> Resolved[RunConfig]:
    return tiny.load(
        "transformer",
        f"model={{type: ngram, order: {ORDER}}}",
        "model.vocab_size=264",
        "objective={type: ngram, smoothing: {type: witten_bell}}",
        "optimizer=null",
        "data.seq_len=64",
        "train.steps=null",
        "train.epochs=1",
        "train.batch_size=16",
        "checkpoint.every_steps=2",
        "checkpoint.keep_last=9",
        "eval.every_steps=null",
        "sample={prompts: ['the ', xq], max_tokens: 30}",
        f"run_dir={run}",
        "logging.tensorboard=false",
        *changes,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ngram") / "run"
    assert api.fit(config_of(folder, "mesh={data: 1, num_devices: 1}")).code == 0
    return folder


@pytest.fixture(scope="module")
def counted(run: Path) -> tuple[NgramModel, Any]:
    """The same model from the documents, and the session."""
    session = Session.open(load_saved(run).config, report=lambda _: None)
    documents = session.prepared.splits["train"].documents
    tokens = np.concatenate([documents.document(i) for i in range(len(documents))])
    bos = session.prepared.tokenizer.bos_id
    counts = count(tokens, order=ORDER, vocab_size=265, bos=bos, never=[264])
    return WittenBell().estimate(counts), session


def final(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())["final"]
    return found


def test_it_is_the_model_of_its_documents(run: Path, counted: Any) -> None:
    want, session = counted
    tables = load_trained(str(run), report=lambda _: None)[2]
    for n, level in enumerate(want.levels, start=1):
        own = tables[f"level_{n}"]
        assert own["log_prob"].shape == level.log_prob.shape
        finite = np.isfinite(level.log_prob)
        np.testing.assert_allclose(
            np.asarray(own["log_prob"])[finite], level.log_prob[finite], atol=1e-5
        )
        np.testing.assert_allclose(own["backoff"], level.backoff, atol=1e-5)
    rows = session.prepared.splits["validation"].rows
    nats = weights = 0.0
    for i in range(len(rows)):
        made = session.transform(0)(rows[i], i)
        real = rows[i]["tokens"][: int((rows[i]["segment_ids"] > 0).sum())]
        log_p = np.pad(want.log_probs(real)[1:], (0, 65 - len(real)))
        counts = made["loss_weights"] > 0
        nats, weights = nats - log_p[counts].sum(), weights + counts.sum()
    assert final(run)["eval/loss"] == pytest.approx(nats / weights, abs=1e-4)
    assert final(run)["eval/bits_per_char"] < 5


def test_the_orders_that_matched_are_those_of_the_model(
    run: Path, counted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    want, session = counted
    rows = session.prepared.splits["validation"].rows
    orders, nats = [], []
    for i in range(len(rows)):
        made = session.transform(0)(rows[i], i)
        real = rows[i]["tokens"][: int((rows[i]["segment_ids"] > 0).sum())]
        log_p, matched = want.matched(real)
        counts = made["loss_weights"][: len(real) - 1] > 0
        orders.append(matched[1:][counts])
        nats.append(-log_p[1:][counts])
    order, bits = np.concatenate(orders), np.concatenate(nats) / np.log(2)
    table = json.loads((run / "result.json").read_text())["matched_orders"]["rows"]
    assert [row[0] for row in table] == list(range(1, ORDER + 1))
    for number, share, mean in table:
        own = order == number
        assert share == pytest.approx(own.mean(), abs=1e-6)
        if own.any():
            assert mean == pytest.approx(bits[own].mean(), abs=1e-3)
        else:
            assert mean is None
    page = (run / "report.html").read_text()
    assert "Matched context" in page and percent(table[-1][1]) in page
    print_figures(evaluate_run(str(run), report=lambda _: None)[1])
    assert f"{table[-1][1]:.4f}" in capsys.readouterr().out


def test_samples_say_the_order_that_matched_each_token(run: Path, counted: Any) -> None:
    want, session = counted
    tokenizer = session.prepared.tokenizer
    (record,) = map(json.loads, (run / "samples.jsonl").read_text().splitlines())
    for sample in record["samples"]:
        pieces, prompt = sample["marks"]["pieces"], sample["prompt"]
        assert sample["marks"]["prompt"] == len(prompt)
        written = "".join(text for text, _ in pieces)
        assert written == prompt + sample["text"]
        own = list(written.encode())  # a token is a byte
        _, orders = want.matched(np.array([tokenizer.bos_id, *own]))
        assert [order for _, order in pieces] == orders[1:].tolist()
    assert max(order for _, order in pieces) > 2
    session_like = SimpleNamespace(special_tokens={"<s>": 9}, token_bytes=TOKENS, unk_id=None)
    shown = _pieces(session_like, [9, 0, 1, 2, 3, 4, 2], [7, 1, 2, 3, 4, 5, 6])
    assert shown == [["a", 1], ["汉", 4], ["<FF>", 5], ["<B1>", 6]]
    page = (run / "report.html").read_text()
    assert "Colour: order of the longest stored n-gram" in page and '<i style="--p:' in page


def test_a_file_from_disk_has_the_model_of_the_run(counted: Any, tmp_path: Path) -> None:
    want, session = counted
    config = config_of(tmp_path / "run").config
    assert "4-grams of" in build_file(config, tmp_path / "m.ngrams", memory=300_000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.ngrams"]
    found, words = read_binary(tmp_path / "m.ngrams", verify=True)
    for own, level in zip(found.levels, want.levels, strict=True):
        np.testing.assert_array_equal(own.key, level.key)
        np.testing.assert_array_equal(own.log_prob, level.log_prob.astype(np.float32))
    tokenizer = session.prepared.tokenizer
    assert words[tokenizer.bos_id] == "<s>" and words[tokenizer.encode(" ")[-1]] == "▁"
    (tmp_path / "other").mkdir()
    build_file(config, tmp_path / "other" / "m.arpa.gz")
    convert_file(tmp_path / "other" / "m.arpa.gz", tmp_path / "again.ngrams")
    again, names = read_binary(tmp_path / "again.ngrams")
    assert names == words
    tokens = session.prepared.splits["validation"].documents.document(0)
    np.testing.assert_allclose(again.log_probs(tokens), found.log_probs(tokens), rtol=1e-5)
    with pytest.raises(UserError, match="objective: n-grams are counted by objective ngram"):
        build_file(tiny.load("transformer").config, tmp_path / "x.ngrams")


def test_it_continues_a_text_with_the_most_likely_tokens(run: Path, counted: Any) -> None:
    want, session = counted
    text = jaxlm.load(run).generate("the ", max_tokens=12, temperature=0)
    tokenizer = session.prepared.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode("the ")]
    assert len(text) > 2
    for token in tokenizer.encode(text):
        log_p = want.next_log_probs(np.array(ids))
        assert log_p[token] > log_p.max() - 1e-4
        ids.append(token)
    assert describe_run(run)["num_params"] > 1000


def test_the_perplexities_of_texts_are_of_the_loss_of_a_run(run: Path, counted: Any) -> None:
    documents = counted[1].prepared.splits["validation"].documents
    texts = [documents.document(i).tolist() for i in range(len(documents))]
    model = jaxlm.load(run)
    found = np.log(model.perplexity(texts))
    window = f"data.seq_len={documents.num_tokens}"  # the whole split: no context is cut
    loss = model.evaluate([window])["eval/loss"]
    assert np.average(found, weights=[len(t) - 1 for t in texts]) == pytest.approx(loss, rel=1e-4)


def test_it_scores_continuations(run: Path, counted: Any) -> None:
    want, session = counted
    context = session.prepared.splits["validation"].documents.document(0)[:20].tolist()
    likeliest: list[int] = []
    for _ in range(5):
        log_p = want.next_log_probs(np.array(context + likeliest))
        likeliest.append(int(log_p.argmax()))
    less = int(np.flatnonzero((log_p < log_p.max() - 1e-3) & np.isfinite(log_p))[0])
    model = jaxlm.load(run)
    pairs = [(context, likeliest), (context, [*likeliest[:-1], less]), (context[:1], context[1:])]
    found = Likelihood(model.program, model.params)(pairs)
    sums = [want.log_probs(np.array(a + b))[len(a) :].sum() for a, b in pairs]
    assert [each.logprob for each in found] == pytest.approx(sums, rel=1e-4)
    assert [each.greedy for each in found] == [True, False, False]


def test_a_run_that_is_cut_anywhere_ends_with_the_same_model(run: Path, tmp_path: Path) -> None:
    cut = tmp_path / "run"
    shutil.copytree(run, cut)
    (cut / "result.json").unlink()
    for folder in sorted((cut / "checkpoints").iterdir())[1:]:
        if folder.name.isdigit():
            shutil.rmtree(folder)
    assert api.fit(load_saved(cut), must_exist=True).result["final"] == final(run)


TOKENS = [b"a", b"\xe6", b"\xb1", b"\x89", b"\xff", *[b""] * 5]
ON_DISK = "objective.memory=0.001"  # in parts


def test_a_run_on_disk_is_that_in_memory_and_continues_when_it_is_killed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    whole = on_disk.Work.write

    def killed(work: Any, name: str, arrays: Any) -> None:
        made.append(name)
        if len(made) == 12:
            raise KeyboardInterrupt
        whole(work, name, arrays)

    config = config_of(tmp_path / "run", ON_DISK, "mesh={data: 1, num_devices: 1}")
    monkeypatch.setattr(on_disk.Work, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        api.fit(config)
    assert list((tmp_path / "run" / "ngrams.work").glob("*/*.npz"))
    first = set(made[:11])
    outcome = api.fit(config)
    assert outcome.result["final"]["param_sha256"] == final(run)["param_sha256"]
    assert not first & set(made[12:]) and "prob.4.1" in made, "finished units are not made again"
    assert not (tmp_path / "run" / "ngrams.work").exists()


def test_windows_that_were_not_read_are_not_counted(counted: Any) -> None:
    """A stream has the tokens of its windows, and begins again after a gap."""
    rows, bos = counted[1].prepared.splits["train"].rows, 257
    documents = rows.documents
    tokens = np.concatenate([documents.document(i) for i in range(len(documents))])
    first = np.isin(np.arange(len(tokens)), documents.offsets)
    for chosen in ([*range(len(rows))], [0, 1, 5, 6, 9, len(rows) - 1], [3]):
        want: list[int] = []
        for i in chosen:
            begin, end = 64 * i, min(64 * i + 64, len(tokens))
            if (i - 1 not in chosen or first[begin]) and tokens[begin] != bos:
                want.append(bos)
            want += tokens[begin:end].tolist()
            if i + 1 not in chosen and end < len(tokens) and not first[end]:
                want.append(int(tokens[end]))
        found = WindowStream(rows, np.array(chosen), bos)
        assert len(found) == len(want) and found.read(0, len(found)).tolist() == want
        assert found.read(7, 50).tolist() == want[7:50]
        assert found.read(len(want) - 3, len(want) + 9).tolist() == want[-3:]
        assert not len(found.read(len(want), len(want) + 9))


def test_a_checkpoint_with_the_text_itself_continues(run: Path) -> None:
    """Earlier versions kept the tokens of each window in its row."""
    config = load_saved(run).config
    prepared = Session.open(config, report=lambda _: None).prepared
    tables = load_trained(str(run), report=lambda _: None)[2]
    read = np.asarray(tables["text"])
    earlier = {**tables, "text": np.where(np.arange(65) < 40, read * 99, 0).astype(np.int32)}
    found = config.objective.finish_with(earlier, config, prepared)
    np.testing.assert_array_equal(found["level_4"]["log_prob"], tables["level_4"]["log_prob"])
    batch = {"segment_ids": jnp.ones((2, 64)), "row": jnp.array([3, 70])}
    marked = config.objective.count({"text": jnp.zeros((128, 65), jnp.int32)}, batch)["text"]
    assert np.flatnonzero(np.asarray(marked).any(axis=1)).tolist() == [3, 70]


def test_what_a_run_does_not_count_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path / "few", "train.epochs=null", "train.steps=1", "eval.every_steps=1")
    with caplog.at_level("WARNING", logger="jaxlm"):
        Session.open(config.config, report=lambda _: None)
    assert "counting takes 1 epoch, and the run has" in caplog.text
    assert "eval.every_steps: the model is uniform until the last step" in caplog.text


def test_devices_count_their_rows_together(run: Path, tmp_path: Path) -> None:
    outcome = api.fit(config_of(tmp_path / "many", "mesh={data: 4, tensor: 2}"))
    assert outcome.result["final"]["param_sha256"] == final(run)["param_sha256"]


def test_processes_count_their_rows_together(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    config = config_of(tmp_path / "two", "mesh={data: 4}", ON_DISK).config
    path.write_text(configs.to_yaml(config))
    code, outputs = in_two(TRAIN, "train", str(path))
    assert code == 0, outputs
    assert final(tmp_path / "two")["param_sha256"] == final(run)["param_sha256"]


def test_what_does_not_fit_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="objective: ngram counts n-grams; set model.type to ngram"):
        api.fit(config_of(tmp_path / "a", "model={type: rnn}"))
    with pytest.raises(UserError, match="objective: ngram counts windows of running text"):
        api.fit(config_of(tmp_path / "b", "data.packing=whole"))
    with pytest.raises(UserError, match="^data.order: stream begins positions again in each row"):
        api.fit(config_of(tmp_path / "c", "data.order=stream"))
    with pytest.raises(UserError, match="^objective.bos: 265, but the model has ids up to 263; "):
        api.fit(config_of(tmp_path / "d", "objective.bos=265"))
    with pytest.raises(UserError, match=r"^objective.smoothing.weights: 1 of them for orders 0 to"):
        api.fit(
            config_of(tmp_path / "g", "objective.smoothing={type: jelinek_mercer, weights: [1]}")
        )
    gradient = ("objective={type: causal_lm}", "optimizer={type: adamw}")
    with pytest.raises(
        UserError, match="^objective: causal_lm needs the gradient of a head, and model.type n"
    ):
        api.fit(config_of(tmp_path / "e", *gradient))
