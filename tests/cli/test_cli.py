"""The verbs of the command line on a run of seconds, and how its words are read."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import jax
import numpy as np
import pytest
import yaml

from jaxlm import cli
from jaxlm.cli.shared import parsing
from jaxlm.cli.shared.parsing import parse
from jaxlm.cli.shared.settings import Line, lines_of, print_settings
from jaxlm.cli.shared.texts import print_texts
from jaxlm.core.config import Setting, UserError, settings
from jaxlm.core.files import read_sealed, write_sealed
from jaxlm.data.tokenizers.characters import CharacterTokenizer
from jaxlm.generate import check_prompts
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.position import LearnedConfig
from jaxlm.run import load_run

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "configs/smoke/transformer.yaml")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps, whose cache the module's tests share."""
    folder = tmp_path_factory.mktemp("cli")
    words = ["train.steps=2", "checkpoint.every_steps=1", "mesh.num_devices=1", "mesh.data=1"]
    words += ["sample.prompts=[]", "eval.at_end=false", "logging.tensorboard=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXLM_CACHE", str(folder / "cache"))
        jax.config.update("jax_disable_most_optimizations", True)  # sooner compiled
        assert cli.main(["train", SMOKE, f"run_dir={folder / 'run'}", *words]) == 0
        yield folder / "run"
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def out(capsys):
    """Runs a command that must succeed; returns what it prints as its answer."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        answer = capsys.readouterr()
        assert code == 0, answer.err
        return answer.out

    return run


# ------------------------------------------------------------------------------------------ words


VERBS = parsing.command.list_commands(click.Context(parsing.command))


def test_options_and_settings_are_read_in_any_order():
    words = ["train", "a.yaml", "x.y=1", "z=2", "--process-id", "0", "--num-processes", "2"]
    expected = parse(words)
    for words in (
        ["train", "--process-id", "0", "a.yaml", "x.y=1", "--num-processes", "2", "z=2"],
        ["train", "a.yaml", "--num-processes=2", "x.y=1", "--process-id=0", "z=2"],
    ):
        assert parse(words).params == expected.params
    assert expected.info_name == "train"
    assert expected.params["config"] == "a.yaml"
    assert expected.params["overrides"] == ("x.y=1", "z=2")
    shown = parse(["config", "--yaml", "show", "a.yaml", "x=1"]).params
    assert (shown["action"], shown["config"], shown["overrides"]) == ("show", "a.yaml", ("x=1",))
    assert shown["as_yaml"]


def test_every_verb_has_help_with_examples_that_are_commands(capsys):
    for verb in VERBS:
        assert cli.main([verb, "--help"]) == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 100
        examples = re.findall(r"^  jaxlm (.*?)(?:    #.*)?$", text, re.MULTILINE)
        assert examples, text
        for line in examples:
            assert parse(shlex.split(line.split(" > ")[0])).info_name == verb
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {verb} " in listed for verb in VERBS)


def test_a_verb_is_one_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "global_.py").write_text(
        "from jaxlm.cli.shared.verb import verb\n"
        "@verb('say a word', section='Words', examples=(('global', ''),))\n"
        "def command():\n    'Says a word.'\n    print('a word')\n    return 3\n"
    )
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    assert cli.main(["global"]) == 3
    assert capsys.readouterr().out == "a word\n"
    assert cli.main(["--help"]) == 0
    assert "Words:\n  global  say a word" in capsys.readouterr().out
    assert cli.main(["globl"]) == 2
    assert "did you mean global" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "'trian' is not a verb; did you mean train"),
        (["fly"], "choose one of analogy, config, curve"),
        (["train"], "CONFIG is required;"),
        (["resume"], "RUN_DIR is required;"),
        (["config", "shwo", "a.yaml"], "'shwo' is unknown; did you mean show?"),
        (["train", "a.yaml", "--bogus"], "--bogus"),
        (["--bogus"], "--bogus"),
        (["generate", "a", "--top-k", "0"], "--top-k: '0' is out of range; write a whole"),
        (["generate", "a", "--top-p", "1.5"], "--top-p: '1.5' is out of range; write a number"),
        (["generate", "a", "--temperature", "nan"], "--temperature: 'nan'"),
        (["generate", "a", "--seed", "-1"], "--seed: '-1'"),
        (["generate", "a", "--beams", "0"], "--beams: '0' is out of range; write a whole"),
        (["generate", "a", "--seed"], "'--seed' requires an argument; `jaxlm generate --help`"),
        (["tokenizer", "train", "a.yaml"], "--out is required;"),
        (["info", "a", "b\nc"], "extra argument (b\\nc); `jaxlm info --help`"),
        (["export", "hf", "a", "--out", "b", "--dtype", "float3"], "did you mean float32"),
        (["train", "a.yaml", "--process", "1"], "'--process'; did you mean --process-id"),
        (["train", "--config", "a.yaml"], "dashes: `jaxlm train CONFIG key.sub=value`"),
        (["train", "caf\udce9.yaml"], "is not UTF-8 text"),
    ],
)
def test_a_wrong_word_gets_one_line(capsys, words, says):
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and says in line and "; " in line, line


def test_no_words_at_all_print_the_help_and_are_a_mistake(capsys):
    assert cli.main([]) == 2
    assert "Usage: jaxlm" in capsys.readouterr().out


def test_ctrl_c_ends_quietly_and_a_fault_of_ours_loudly(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxlm.doctor.examine", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr() == ("", "")

    def broken():
        raise RuntimeError("a fault")

    monkeypatch.setattr("jaxlm.doctor.examine", broken)
    with pytest.raises(RuntimeError):
        cli.main(["doctor"])


# ----------------------------------------------------------------------------------- config show


def sections(text: str) -> dict[str, dict[str, str]]:
    """{"What is set": {"train.steps": "3  # command line; ..."}} of what `config show` prints."""
    found: dict[str, dict[str, str]] = {}
    for block in text.split("\n\n"):
        head, *lines = block.strip().splitlines()
        found[head.removeprefix("# ")] = dict(
            line.split(": ", 1) for line in lines if line[0] != "#"
        )
    return found


def test_config_show_prints_what_is_set_then_choices_and_defaults_if_asked(out):
    words = ("config", "show", SMOKE, "train.steps=3", "data.source.seed=5")
    text = out(*words)
    assert "\x1b" not in text and f"# transformer.yaml is {SMOKE}" in text
    short = sections(text)
    assert list(short)[:2] == ["What is set", "Choices"] and "Defaults" not in short
    own = short["What is set"]
    assert re.match(r"3 +# command line; optimizer steps", own["train.steps"])
    assert re.match(r"5 +# command line; ", own["data.source.seed"])
    assert re.match(r"32 +# transformer.yaml:8; tokens", own["data.seq_len"])
    assert re.match(r"transformer +# transformer.yaml:10; ", own["model.type"])
    assert "optimizer.beta1" not in own
    choices = short["Choices"]
    assert re.match(
        r"transformer +# one of (\w+, )*rnn, rnn_seq2seq, transformer\b", choices["model.type"]
    )
    assert re.match(r"shuffle +# one of shuffle, stream$", choices["data.order"])
    assert re.match(r"null +# one of .*, null$", choices["model.quantization"])
    full = sections(out(*words, "--all"))
    rest = full["Defaults"]
    assert re.match(r"0.9 +# decay of the first.*; >= 0 and < 1$", rest["optimizer.beta1"])
    assert full["What is set"] == own and not rest.keys() & own.keys()
    described = {setting.path for setting in settings(load_run(SMOKE))}
    assert rest.keys() | own.keys() >= described


@pytest.mark.parametrize("width", [60, 120])
def test_config_show_is_coloured_and_as_wide_as_it_on_a_terminal_alone(monkeypatch, width):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    lines = lines_of(load_run(SMOKE))
    plain = {}
    for kind, coloured in ((Terminal, True), (io.StringIO, False)):
        file = kind()
        print_settings(lines, defaults=True, file=file)
        assert ("\x1b[" in file.getvalue()) == coloured
        plain[kind] = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
    below = [line for line in plain[Terminal].splitlines() if line.startswith("    # ")]
    assert below and max(map(len, below)) <= width
    said = [re.sub(r"[\s#]+", " ", text) for text in plain.values()]
    assert said[0] == said[1]  # nothing is cut
    assert all(line.setting.path in plain[io.StringIO] for line in lines)


def test_config_show_needs_no_jax_and_gives_the_same():
    """Every shipped config, in a process where placeholders take jax's place, and here with it."""
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from jaxlm.core.without_jax import reading, without_jax\n"
        "from jaxlm.core.config import UserError, to_yaml\n"
        "def shown(path):\n"
        "    from jaxlm.cli.shared.settings import lines_of\n"
        "    from jaxlm.run import load_run\n"
        "    try:\n"
        "        resolved = load_run(path)\n"
        "    except UserError as error:\n"
        "        return str(error)\n"
        "    return [to_yaml(resolved.config), [[*map(repr, l)] for l in lines_of(resolved)]]\n"
    )
    paths = [str(path) for path in sorted((ROOT / "configs").rglob("*.yaml"))]
    apart = program + (
        f"with without_jax():\n    found = [shown(path) for path in {paths!r}]\n"
        "assert not {'jax', 'flax', 'numpy', 'jaxlm.run'} & sys.modules.keys()\n"
        "def read():\n    import jax.numpy as jnp\n    return int(jnp.arange(3).sum() + 1)\n"
        "assert reading(read) == 4\n"  # what needs jax is read with it
        "import jaxlm.mesh, jax\n"
        "assert jaxlm.mesh.MeshConfig().build().size == jax.device_count()\n"  # the real ones
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", apart], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    names: dict = {}
    exec(program, names)
    assert json.loads(done.stdout) == [names["shown"](path) for path in paths]


def test_config_show_as_yaml_can_be_run_again(out, tmp_path):
    first = out("config", "show", SMOKE, "train.steps=3", "--yaml")
    assert yaml.safe_load(first)["train"]["steps"] == 3
    again = tmp_path / "again.yaml"
    again.write_text(first)
    assert out("config", "show", again, "--yaml") == first


def test_files_of_one_name_are_told_apart():
    rows = [
        Line(Setting("a.files", "x" * 200, "where from", "one/run.yaml:3"), "", False),
        Line(Setting("b", None, "nothing", "two/run.yaml:4"), "", False),
    ]
    file = io.StringIO()
    print_settings(rows, file=file)
    text = file.getvalue()
    assert "x" * 200 in text
    assert "one/run.yaml:3" in text and "two/run.yaml:4" in text


# ------------------------------------------------------------------------------------ using a run


def test_info(out, trained, tmp_path):
    found = json.loads(out("info", trained, "--json"))
    assert (found["step"], found["total_steps"]) == (2, 2)
    assert found["data"]["step"] == 2 and found["data"]["rows"] == 16
    assert [item["step"] for item in found["checkpoints"]] == [1, 2]
    assert all(item["committed"] and item["size_bytes"] > 1e5 for item in found["checkpoints"])
    result = json.loads((trained / "result.json").read_text())["final"]
    for name in ("num_params", "param_sha256", "config_sha256"):
        assert found[name] == result[name]
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    assert json.loads(out("info", moved, "--json")) == {**found, "run_dir": str(moved)}
    text = out("info", moved)
    assert f"{found['num_params']:,}" in text and found["param_sha256"] in text
    assert text.count("checkpoint ") == 2 and "MiB" in text


def test_info_counts_the_parameters_itself(out, trained):
    """Against the sizes in the checkpoint's own list of arrays, added up by hand."""
    state = json.loads((trained / "checkpoints/00000002/state.json").read_text())["arrays"]
    sizes = [np.prod(shape) for path, (_, shape) in state.items() if path.startswith("params/")]
    assert json.loads(out("info", trained, "--json"))["num_params"] == sum(sizes)


@pytest.mark.parametrize("words", ["config show SMOKE", "data inspect SMOKE", "info RUN"])
def test_looking_imports_no_jax(trained, out, words):
    """Each in a fresh process, which prints what it prints here, where jax is imported."""
    words = [{"SMOKE": SMOKE, "RUN": str(trained)}.get(word, word) for word in words.split()]
    program = (
        "import sys\nfrom jaxlm import cli\n"
        f"assert cli.main({words!r}) == 0\n"
        "assert not {'jax', 'jaxlib', 'flax', 'optax', 'orbax'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == out(*words)


def test_info_reports_a_damaged_run(out, trained, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(trained, damaged)
    (damaged / "checkpoints/00000002/data.json").write_text("{")
    found = json.loads(out("info", damaged, "--json"))
    assert found["step"] == 1 and "data.json" in found["problems"][0]
    (damaged / "checkpoints/00000001/data.json").unlink()
    text = out("info", damaged)
    assert "no good checkpoint" in text and "problem" in text


def test_generate_prints_prompt_and_text(out, trained):
    words = ("generate", trained, "--prompt", "ab", "--prompt", "c", "--max-tokens", "4")
    lines = [json.loads(line) for line in out(*words, "--json").splitlines()]
    assert [line["prompt"] for line in lines] == ["ab", "c"]
    assert all(line["step"] == 2 for line in lines)
    first, second = lines
    divided = f"ab{first['text']}\n{'-' * 40}\nc{second['text']}\n"
    assert out(*words) == divided
    greedy = (*words, "--temperature", "0")
    assert out(*greedy) == out(*greedy, "--seed", "9")


def test_generate_searches_with_beams(out, trained):
    words = ("generate", trained, "--prompt", "ab", "--max-tokens", "4", "--beams", "3")
    assert out(*words) == out(*words, "--seed", "9")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--beams", "4", "--top-k", "3"],
            "--beams: a beam search does not sample; leave --top-k out",
        ),
        (
            ["--beams", "4", "--temperature", "0"],
            "a beam search does not sample; leave --temperature out",
        ),
        (["--length-penalty", "2"], "--length-penalty: needs a beam search; add --beams 4"),
    ],
)
def test_a_search_draws_nothing(trained, words, message, capsys):
    assert cli.main(["generate", str(trained), *words]) == 2
    assert message in capsys.readouterr().err


def test_generate_with_a_draft_writes_the_same_greedy_text(out, trained):
    words = ("generate", trained, "--prompt", "ab", "--prompt", "c", "--max-tokens", "8")
    greedy = (*words, "--temperature", "0")
    assert out(*greedy, "--draft", trained, "--num-drafts", "3") == out(*greedy)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-drafts", "4"], "--num-drafts: needs a draft model; add --draft RUN_DIR"),
        (["--beams", "4", "--draft", "a"], "--draft: does not work with a beam search"),
        (["--draft", "{tmp}/none"], "none: not a run directory"),
        (["--draft", "{tmp}/other"], "other has another tokenizer than .*; draft with a run of th"),
    ],
)
def test_a_draft_that_does_not_go_with_the_run(trained, tmp_path, words, message, capsys):
    shutil.copytree(trained, tmp_path / "other")
    shutil.rmtree(tmp_path / "other/tokenizer")
    tokenizer = CharacterTokenizer("abc", True)
    tokenizer.save(tmp_path / "other/tokenizer")
    found = read_sealed(tmp_path / "other/identity.json")  # a run that was trained with it
    found["identity"]["tokenizer"] = tokenizer.fingerprint()
    write_sealed(tmp_path / "other/identity.json", found)
    words = [word.format(tmp=tmp_path) for word in words]
    assert cli.main(["generate", str(trained), *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_generated_text_is_plain_where_nobody_looks():
    file = io.StringIO()
    print_texts(["[bold]a"], [" :smile: b\n"], file)
    assert file.getvalue() == "[bold]a :smile: b\n\n"


def test_eval_prints_figures_and_json(out, trained):
    found = json.loads(out("eval", trained, "--json"))
    assert found["step"] == 2 and 0 < found["final"]["eval/loss"] < 7
    text = out("eval", trained)
    assert "step 2" in text and f"{found['final']['eval/loss']:.4f}" in text
    earlier = json.loads(out("eval", trained, "--step", "1", "--json"))
    assert earlier["step"] == 1 and earlier["final"] != found["final"]


def test_report_prints_where_it_is(out, trained):
    path = Path(out("report", trained).strip())
    assert path == trained / "report.html" and path.stat().st_size > 10_000


def test_resume_of_a_finished_run_changes_nothing(out, trained):
    before = (trained / "metrics.jsonl").read_bytes()
    assert "done" in out("resume", trained)
    assert (trained / "metrics.jsonl").read_bytes() == before


# ------------------------------------------------------------------------------ data, tokenizer


def test_data_prepare_and_inspect(out, trained):
    manifest = json.loads(out("data", "prepare", SMOKE))
    assert manifest["splits"]["train"]["documents"] + manifest["splits"]["validation"][
        "documents"
    ] == 40  # fmt: skip
    text = out("data", "inspect", SMOKE, "--rows", "2")
    assert text.count("row ") >= 4 and "train:" in text and "validation:" in text
    assert "padding" in text and "segment 1" in text
    assert "train:" not in out("data", "inspect", SMOKE, "--split", "validation")


def test_tokenizer_train_makes_one_that_can_be_used(out, trained, tmp_path):
    folder = tmp_path / "tokenizer"
    said = out("tokenizer", "train", SMOKE, "--out", folder, "tokenizer.type=characters")
    ids = int(re.search(r": (\d+) ids, sha256 [0-9a-f]{64}$", said.strip())[1])
    saved = ("tokenizer.type=saved", f"tokenizer.path={folder}")
    manifest = json.loads(out("data", "prepare", SMOKE, *saved))
    assert manifest["tokenizer"] in said and ids > 20


def test_empty_prompts_need_a_start_token():
    model = TransformerConfig(position=(LearnedConfig(max_seq_len=8),))
    with pytest.raises(UserError, match="give some text"):
        check_prompts([[1], []], 8, model)
    with pytest.raises(UserError, match="at most 5 tokens"):
        check_prompts([[1], [1, 2, 3]], 8, model)
    check_prompts([[1, 2, 3]], 5, model)
