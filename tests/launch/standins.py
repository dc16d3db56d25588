"""Executables that stand in for gcloud, kubectl, sbatch and their like.

    standins = StandIns(tmp_path, "gcloud")
    standins.answer(r"describe", "WAITING_FOR_RESOURCES", "ACTIVE")   # in turn; the last one stays
    standins.answer(r"tpu-vm ssh .*outcome", code=0, "jaxlm-exit 0")
    standins.calls                               # [["gcloud", "compute", ...], ...], in order

Each records its words and what it reads, and answers by the first rule that matches its words.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PROGRAM = """#!{python} -IS
import fcntl, json, os, re, subprocess, sys
folder = {folder!r}
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
line = " ".join(words)
with open(os.path.join(folder, "lock"), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    files = {{}}
    for word in words:
        if os.path.isfile(word):
            files[word] = [oct(os.stat(word).st_mode & 0o777), open(word, errors="replace").read()]
    with open(os.path.join(folder, "calls"), "a") as calls:
        calls.write(json.dumps([words, files]) + "\\n")
    with open(os.path.join(folder, "rules")) as file:
        rules = json.load(file)
    for rule in rules:
        if re.search(rule["match"], line):
            text, code, run = rule["answers"][min(rule["used"], len(rule["answers"]) - 1)]
            rule["used"] += 1
            break
    else:
        text, code, run = "", 0, None
    with open(os.path.join(folder, "rules"), "w") as file:
        json.dump(rules, file)
if text:
    print(text, flush=True)
if run:
    code = subprocess.run(["bash", "-c", run, *words]).returncode
sys.exit(code)
"""


class StandIns:
    """Stand-ins in a folder that belongs in front of PATH."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.bin = folder / "standins", folder / "standins" / "bin"
        self.bin.mkdir(parents=True, exist_ok=True)
        (self.folder / "calls").unlink(missing_ok=True)
        self._rules: list[dict] = []
        self._write()
        for name in names:
            path = self.bin / name
            path.write_text(PROGRAM.format(python=sys.executable, folder=str(self.folder)))
            path.chmod(0o755)

    def answer(self, match: str, *texts: str, code: int = 0, run: str | None = None) -> None:
        """What a command that matches prints, call by call, and its exit code; `run` is bash."""
        self.answers(match, *[(text, code, run) for text in texts or ("",)])

    def answers(self, match: str, *answers: tuple[str, int, str | None]) -> None:
        self._rules.append({"match": match, "answers": answers, "used": 0})
        self._write()

    def reset(self) -> None:
        """Rules begin again, and nothing has been called."""
        (self.folder / "calls").unlink(missing_ok=True)
        self._write()

    @property
    def calls(self) -> list[list[str]]:
        return [words for words, _ in self._records()]

    @property
    def files(self) -> list[dict[str, list[str]]]:
        """For each call the files that its words name, as they were: [mode, text]."""
        return [files for _, files in self._records()]

    @property
    def everything(self) -> str:
        """All that was ever given to a stand-in by its words."""
        return json.dumps(self.calls)

    def lines(self, match: str = "") -> list[str]:
        return [line for line in map(" ".join, self.calls) if match in line]

    def _records(self) -> list:
        path = self.folder / "calls"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def _write(self) -> None:
        (self.folder / "rules").write_text(json.dumps(self._rules))


RECORDER = """#!/bin/sh
printf '%s\\0' "${{0##*/}}" "$@" "" >> {calls}
case "$0" in */python | */srun) env -0 > {environment} ;; esac
case "$*" in
    *"-c import socket"*) echo 4321 ;;
    *" describe "*) echo ACTIVE; exit 1 ;; # there when it is waited for, not before it is made
esac
"""


class Recorders:
    """Stand-ins that only record their words, in a few milliseconds: for hundreds of launches."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self._calls, self._environment = folder / "calls", folder / "environment"
        for name in names:
            self.add(self.bin / name)

    def add(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RECORDER.format(calls=self._calls, environment=self._environment))
        path.chmod(0o755)

    def words(self) -> set[str]:
        """Every word of every call since the last look."""
        if not self._calls.exists():
            return set()
        found = set(self._calls.read_bytes().decode().split("\0"))
        self._calls.unlink()
        return found

    def environment(self) -> set[str]:
        """NAME=value of the last call."""
        if not self._environment.exists():
            return set()
        return set(self._environment.read_bytes().decode().split("\0"))
