"""The blocks of a guide in Markdown, and how they are followed in an empty folder.

A block of commands (`sh`, `python`) is run, unless a comment before it says why not:

    <!-- not run: needs two hosts -->
    <!-- not trained: finetuning.md trains one -->
    <!-- without: pyarrow -->

The second one is of trainings that another block shows: their config is resolved and shown instead.
The third one is run as where a package is not installed.
A block with a file's name after its language ("```yaml mine.yaml") is written to that file. After a
command, "# exit code 2" gives the expected code, and a `text` block that follows has lines of its
output, in which "..." is anything. "NAME=value jaxlm ..." sets a variable for that command alone.
`<!-- continues: ... -->` at the top of a page: it needs the run runs/transformer of
getting-started.md.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from jaxlm.cli import main

COMMANDS = ("sh", "bash", "shell", "console", "python")
FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S
)
ASSIGNMENT = re.compile(r"[A-Z_]+=")
NOT_RUN = "not run: "
NOT_TRAINED = "not trained: "
WITHOUT = "without: "


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the file that it is, its text, the comment before it."""

    language: str
    file: str
    text: str
    note: str
    line: int
    follows: bool  # directly after another block

    @property
    def is_command(self) -> bool:
        return self.language in COMMANDS and not self.file

    @property
    def is_run(self) -> bool:
        return self.is_command and not self.note.startswith(NOT_RUN)


def blocks(text: str) -> Iterator[Block]:
    end = -1
    for found in FENCE.finditer(text):
        language, _, file = found["info"].partition(" ")
        line = text.count("\n", 0, found.start("info")) + 1
        follows = end >= 0 and not text[end : found.start()].strip()
        yield Block(language, file.strip(), found["text"], found["note"] or "", line, follows)
        end = found.end()


def follow(page: Path) -> None:
    """Does what a page says, in the working folder, from its first block to its last."""
    names: dict[str, object] = {}
    output = ""
    for block in blocks(page.read_text(encoding="utf-8")):
        place = f"{page.name}:{block.line}"
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text)
        elif block.language == "text" and block.follows and output:
            _expect(block.text, output, place)
        elif block.is_run and block.language == "python":
            exec(compile(block.text, place, "exec"), names)
        elif block.is_run:
            lines = _lines(block.text)
            if block.note.startswith(NOT_TRAINED):
                lines = [re.sub("^jaxlm (train|finetune) ", "jaxlm config show ", x) for x in lines]
            missing = block.note.removeprefix(WITHOUT) if block.note.startswith(WITHOUT) else ""
            with _without(missing):
                output = "".join(_run(line, place) for line in lines)
            continue
        output = ""


def _lines(text: str) -> list[str]:
    """The commands of a block; a line that ends in a backslash continues."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def _run(line: str, place: str) -> str:
    """The output of a command. Raises AssertionError for another exit code than the expected one.

    `jaxlm` runs in this process, anything else in a shell.
    """
    command, _, comment = line.partition(" # ")
    wanted = re.search(r"exit code (\d+)", comment)
    words = shlex.split(command)
    variables = dict(w.split("=", 1) for w in itertools.takewhile(ASSIGNMENT.match, words))
    if words[len(variables)] == "jaxlm":
        with mock.patch.dict(os.environ, variables):
            code, output = _jaxlm(words[len(variables) + 1 :])
    elif words[0] == "export":
        name, _, value = words[1].partition("=")
        os.environ.setdefault(name, value)
        return ""
    elif words[:2] == ["pip", "install"]:
        _install(Path(words[2]))
        return ""
    else:
        code, output = _shell(command)
    assert code == int(wanted[1] if wanted else 0), f"{place}: {command}: code {code}\n{output}"
    return output


def _jaxlm(words: list[str]) -> tuple[int, str]:
    target = None
    if ">" in words:
        target = Path(words[words.index(">") + 1])
        words = words[: words.index(">")]
    words = [name for word in words for name in _expanded(word)]
    if words[0] in ("train", "finetune"):
        given = " ".join(words)
        if " sample." not in given:
            words.append("sample.prompts=[]")  # `jaxlm generate` shows what models write
        if " mesh." not in given:
            words.append("mesh.num_devices=1")  # as on a laptop; a test has eight
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    if target is not None:
        target.write_text(out.getvalue())
    return code, out.getvalue() + err.getvalue()


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """No import of a package succeeds; "": all do."""
    own = {n: m for n, m in sys.modules.items() if package and n.partition(".")[0] == package}
    for name in own:
        del sys.modules[name]
    if package:
        sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(package, None)
        sys.modules.update(own)


def _install(project: Path) -> None:
    """Builds a wheel and installs it into a folder of sys.path, without the network."""
    site = Path("site-packages").resolve()
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--no-compile", "--target", site]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, f"./{project}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CONFIG_FILE": os.devnull},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Building wheel for" in done.stdout, done.stdout
    sys.path.append(str(site))
    importlib.invalidate_caches()


def _expanded(word: str) -> list[str]:
    """As a shell does: the files of a pattern, or the word itself."""
    return (sorted(glob.glob(word)) if "*" in word and "=" not in word else []) or [word]


def _shell(command: str) -> tuple[int, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    return done.returncode, done.stdout + done.stderr


def _expect(text: str, output: str, place: str) -> None:
    """Each line of a text is in the output, with anything in place of each "..."."""
    for line in text.splitlines():
        pattern = ".*".join(re.escape(part) for part in line.split("..."))
        assert re.search(pattern, output), f"{place}: {line!r} is not in\n{output}"
