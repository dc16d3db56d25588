"""The steps of a launch, as data and as shell code.

    step = Command(why="show the version", argv=("gcloud", "version"))
    print(step.shell())                          # gcloud version

A dry run prints `shell()`, which can be pasted into bash; the runner does the same from the same
fields. No step has the value of a secret, only the name of its variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxlm.launch.shell import assignments, command, comment, heredoc, join, quote

Argv = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """`why`: one line for people."""

    why: str

    def shell(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Command(Step):
    """A program, run to its end.

    stdin: its input. unless: a command; if it succeeds, this one is skipped. tries: how often it is
    tried, with longer and longer pauses. may_fail: a failure is ignored.
    """

    argv: Argv
    stdin: str | None = None
    unless: Argv | None = None
    tries: int = 1
    may_fail: bool = False

    def shell(self) -> str:
        text = command(self.argv)
        if self.unless is not None:
            text = f"{command(self.unless)} >/dev/null 2>&1 || {text}"
        if self.tries > 1:
            text = f"for try in {{1..{self.tries}}}; do {text} && break; sleep $((try * 10)); done"
        if self.may_fail:
            text += " || true"
        return text if self.stdin is None else f"{text} {heredoc(self.stdin)}"


@dataclass(frozen=True, kw_only=True)
class WriteFile(Step):
    """A file of this machine."""

    path: Path
    text: str

    def shell(self) -> str:
        path, folder = quote(str(self.path)), quote(str(self.path.parent))
        return f"mkdir -p {folder} && cat > {path} {heredoc(self.text)}"


@dataclass(frozen=True, kw_only=True)
class WriteSecrets(Step):
    """A file that only its owner can read, of `export NAME=value` lines from the environment."""

    path: Path
    names: tuple[str, ...]

    def shell(self) -> str:
        path, folder = quote(str(self.path)), quote(str(self.path.parent))
        return (
            f"(umask 077 && mkdir -p {folder} && rm -f {path} && for name in "
            f'{" ".join(self.names)}; do printf \'export %s=%q\\n\' "$name" "${{!name}}"; done '
            f"> {path})"
        )


@dataclass(frozen=True, kw_only=True)
class Await(Step):
    """Polls a state until it prints one of the words of `until`.

    A word of `never` means that this will not happen.
    """

    argv: Argv
    until: tuple[str, ...]
    never: tuple[str, ...] = ()
    seconds: float = 30.0

    def shell(self) -> str:
        good, bad = "|".join(self.until), "|".join(self.never)
        stop = f'grep -qwE "{bad}" <<< "$state" && break; ' if bad else ""
        return (
            f"until state=$({command(self.argv)}); "
            f'grep -qwE "{good}" <<< "$state"; do {stop}sleep {self.seconds:g}; done'
        )


@dataclass(frozen=True, kw_only=True)
class Follow(Step):
    """A command that shows a log, while a state is polled.

    `lost`: words of the state for lost machines, which end the attempt. `over`: words for the end
    of the run; "" means no output. If the command ends before either, it is started again if it
    failed (a connection broke) or if `again` (its end means nothing).
    """

    argv: Argv
    state: Argv
    lost: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    again: bool = False
    seconds: float = 30.0

    def shell(self) -> str:
        ends = [
            f"{name}: {', '.join(w or 'no output' for w in words)}"
            for name, words in (("the run has ended", self.over), ("lost", self.lost))
            if words
        ]
        lines = (
            command(self.argv),
            comment(f"meanwhile, every {self.seconds:g} s ({'; '.join(ends)}):"),
            comment(f"  {join(self.state)}"),
        )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Outcome(Step):
    """A command that prints how the run ended: `jaxlm-exit CODE` and `jaxlm-checkpoint STEP`.

    Several machines print several lines; see `read_outcome`. `words`: (word of a state, exit code)
    for a command that prints a state instead.
    """

    argv: Argv
    words: tuple[tuple[str, int], ...] = ()
    tries: int = 3

    def shell(self) -> str:
        return command(self.argv)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One process of a group.

    coordinator: the variable that receives localhost:PORT; None: the process needs no port. log:
    the file of the process's output; None: the screen.
    """

    argv: Argv
    environment: Mapping[str, str] = field(default_factory=dict)
    coordinator: str | None = None
    log: Path | None = None

    def shell(self) -> str:
        given = assignments(self.environment)
        if self.coordinator is not None:
            given.append(f"{self.coordinator}=localhost:$PORT")
        line = " ".join([*given, join(self.argv)])
        return line if self.log is None else f"{line} > {quote(str(self.log))} 2>&1"


@dataclass(frozen=True, kw_only=True)
class Group(Step):
    """Processes of this machine that train one run: when one fails, all are started again.

    Each start takes a free port. run_dir: the run's folder, whose newest checkpoint shows the
    progress. max_restarts: restarts in a row without a newer checkpoint.
    """

    members: tuple[Member, ...]
    run_dir: Path
    max_restarts: int

    def shell(self) -> str:
        lines = []
        logs = {member.log.parent for member in self.members if member.log is not None}
        if logs:
            lines.append(f"mkdir -p -- {join(sorted(map(str, logs)))}")
        if any(member.coordinator is not None for member in self.members):
            program = 'import socket; s = socket.create_server(("localhost", 0)); '
            program += "print(s.getsockname()[1])"
            lines.append(f"PORT=$({join((self.members[0].argv[0], '-c', program))})")
        lines += [f"{member.shell()} &" for member in self.members]
        lines.append("wait")
        lines.append(
            comment(
                "when one fails, the others are ended and all are started again: at most "
                f"{self.max_restarts} times without a newer checkpoint in {self.run_dir}"
            )
        )
        return "\n".join(lines)
