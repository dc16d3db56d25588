"""One rule for relative paths: they start where the command is started, and a run keeps them
absolute.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxlm.api import fit
from jaxlm.core import config as configs
from jaxlm.core.config import UserError
from jaxlm.core.config_paths import anchored, moved, path_keys
from jaxlm.core.exit_codes import INTERRUPTED
from jaxlm.run import InitConfig, load_run, load_saved
from tests.hooks import At, terminate

SMOKE = Path(__file__).parents[2] / "configs/smoke/transformer.yaml"
DATA = "{type: text, source: {type: text, files: texts/*.txt}, seq_len: 16}"
SMALL = [
    "cache_dir=cache",
    "train.steps=4",
    "train.prefetch=0",
    "train.batch_size=8",
    "optimizer.schedule.warmup=0",
    "sample.prompts=[]",
    "eval.at_end=false",
    "mesh.num_devices=1",
]


def write_texts(folder: Path, names: str = "abcdefgh") -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.txt").write_text(f"the text {name} is here. " * 20)


def test_a_second_stage_needs_a_tokenizer(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("model: {type: transformer}\ntokenizer: null\n")
    (tmp_path / "stage.yaml").write_text("objective: {type: causal_lm}\n")
    with pytest.raises(UserError, match="init.from: .*/run has no tokenizer, and .*stage.yaml nam"):
        load_run(tmp_path / "stage.yaml", [f"init.from={tmp_path}/run"])


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("texts/*.txt", ["/there/texts/*.txt"]),
        ("./a.txt", ["/there/a.txt"]),
        ("[../a.txt, '/b.txt', '~/c.txt']", ["/there/../a.txt", "/b.txt", "~/c.txt"]),
    ],
)
def test_relative_paths_are_made_absolute(written, kept):
    words = ["init.from=null", "tokenizer={type: huggingface, path: t/tokenizer.json}"]
    words += [f"data={DATA}", f"data.source.files={written}", "train.compiled=step"]
    config = load_run(SMOKE, words).config
    changed = anchored(config, "/there")
    assert list(changed.data.source.files) == kept
    assert changed.tokenizer.path == "/there/t/tokenizer.json"
    assert changed.train.compiled == "/there/step" and changed.run_dir.startswith("/there/runs/")
    assert changed.init.from_ is None
    assert anchored(changed, "/elsewhere") == changed
    differ = {line.partition(":")[0] for line in configs.diff(config, changed)}
    assert differ <= path_keys(config)


def test_what_is_in_a_folder_moves_with_it():
    words = ["tokenizer={type: saved, path: /a/base/tokenizer}", f"data={DATA}"]
    words += ["data.source.files=['/a/base2/b.txt', '/a/base/*.txt', c.txt]"]
    config = load_run(SMOKE, words).config.replace(init=InitConfig(from_="/a/base"))
    config = moved(config, "/a/base", "/b")
    assert (config.init.from_, config.tokenizer.path) == ("/b", "/b/tokenizer")
    assert config.data.source.files == ("/a/base2/b.txt", "/b/*.txt", "c.txt")


def test_a_mixture_and_several_sources_are_reached():
    part = "{data: {type: text, sources: {x: {type: csv, files: a.csv}}}}"
    config = load_run(SMOKE, [f"data={{type: mixture, parts: {{p: {part}}}}}"]).config
    assert anchored(config, "/f").data.parts["p"].data.sources["x"].files == ("/f/a.csv",)
    assert "data.parts.p.data.sources.x.files" in path_keys(config)


def test_an_error_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    for files in ("b.txt", "no/*.txt"):
        source = configs.parse(
            type(load_run(SMOKE).config.data), {"source": {"type": "text", "files": files}}
        ).source
        with pytest.raises(UserError, match=f"looked from {tmp_path}"):
            list(source.documents())


def test_a_run_is_resumed_from_another_folder(tmp_path, monkeypatch, shared_programs):
    """Its own config says where its files are; they may be moved, their content may not change.

    Each start ends by a signal: one program, which another number of steps would not be.
    """

    def train(resolved, step, **options):
        outcome = fit(resolved, hooks=[At({step: terminate})], **options)
        assert outcome.code == INTERRUPTED and f"after step {step} of 4" in outcome.message

    write_texts(tmp_path / "here/texts")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = tmp_path / "run"
    train(load_run(SMOKE, [*SMALL, f"data={DATA}", f"run_dir={run}"]), 1)
    saved = load_saved(run).config
    assert saved.data.source.files == (f"{tmp_path}/here/texts/*.txt",)
    assert saved.cache_dir == f"{tmp_path}/here/cache"

    monkeypatch.chdir(tmp_path / "there")
    train(load_saved(run), 2, must_exist=True)
    (tmp_path / "here/texts").rename(tmp_path / "there/moved")
    with pytest.raises(UserError, match="matches no file|no such file"):
        fit(load_saved(run), must_exist=True)
    train(load_saved(run, ["data.source.files=moved/*.txt"]), 3, must_exist=True)
    (tmp_path / "there/moved/a.txt").write_text("another text. " * 20)
    with pytest.raises(UserError, match="is not what the run was trained on"):
        fit(load_saved(run), must_exist=True)
