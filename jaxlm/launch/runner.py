"""Runs the steps of a plan, as a dry run prints them.

    runner = Runner(secrets=("WANDB_API_KEY",))
    runner.run(steps)                # raises StepFailed at the first that fails

Each command is printed before it is run, and its output line by line. The values of secrets are
replaced by *** in both.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.exit_codes import DONE, FINAL
from jaxlm.launch.group import GroupRunner
from jaxlm.launch.steps import (
    Argv,
    Await,
    Command,
    Follow,
    Group,
    Outcome,
    Step,
    WriteFile,
    WriteSecrets,
)

DRAIN_SECONDS = 1.0  # how long a log is followed after the end of the run
FOLLOW_TRIES = 5  # connections in a row that break immediately


class StepFailed(Exception):
    """A step failed; the rest of its list is not run."""


class Lost(StepFailed):
    """The machines are gone."""


class Runner:
    """`ended` is the last report of an `Outcome` or a `Group`: (exit code, newest checkpoint)."""

    def __init__(
        self,
        secrets: tuple[str, ...] = (),
        *,
        say: Callable[[str], None] = lambda line: print(line, flush=True),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        missing = [name for name in secrets if not os.environ.get(name)]
        if missing:
            raise UserError(
                f"secrets: {', '.join(missing)}: not set in the environment; export the variable, "
                "or remove its name from secrets"
            )
        self._values = [os.environ[name] for name in secrets]
        self._print, self._sleep = say, sleep
        self.ended: tuple[int, int] | None = None

    def say(self, line: str) -> None:
        """Prints a line without any secret's value."""
        for value in self._values:
            line = line.replace(value, "***")
        self._print(line)

    def pause(self, seconds: float) -> None:
        self._sleep(seconds)

    def run(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self.say(f"# {step.why}")
            _RUN[type(step)](self, step)

    def word_of(self, argv: Argv, words: tuple[str, ...]) -> str | None:
        """The first of `words` that a command prints as a state; None if it prints none of them.

        "" means no output. None if the command fails.
        """
        code, state = self._capture(argv)
        found = set(state.split()) or {""}
        return None if code else next((word for word in words if word in found), None)

    # ----------------------------------------------------------------------------- kinds of steps

    def _command(self, step: Command) -> None:
        if step.unless is not None and self._capture(step.unless)[0] == 0:
            self.say(f"# not needed: {shlex.join(step.unless)} succeeded")
            return
        self.say(f"$ {step.shell().splitlines()[0] if step.stdin else step.shell()}")
        for attempt in range(1, step.tries + 1):
            code = self._stream(step.argv, step.stdin)
            if code == 0 or step.may_fail:
                return
            if attempt < step.tries:
                self.say(f"# exit code {code}; try {attempt + 1} of {step.tries} follows")
                self._sleep(10.0 * attempt)
        raise StepFailed(f"{step.why}: {step.argv[0]} ended with exit code {code}")

    def _write_file(self, step: WriteFile) -> None:
        step.path.parent.mkdir(parents=True, exist_ok=True)
        step.path.write_text(step.text, encoding="utf-8")
        self.say(f"# wrote {step.path}")

    def _write_secrets(self, step: WriteSecrets) -> None:
        step.path.parent.mkdir(parents=True, exist_ok=True)
        step.path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(step.path, flags, 0o600), "w", encoding="utf-8") as file:
            for name in step.names:
                file.write(f"export {name}={shlex.quote(os.environ[name])}\n")
        self.say(f"# wrote {step.path} (mode 600): {', '.join(step.names)}")

    def _await(self, step: Await) -> None:
        shown = ""
        while True:
            code, state = self._capture(step.argv)
            words = set(state.split())
            if code == 0 and words & set(step.until):
                self.say(f"# {state}")
                return
            if words & set(step.never):
                raise Lost(f"{step.why}: {state}")
            if state != shown:
                self.say(f"# {state or 'no answer yet'}; checked again every {step.seconds:g} s")
                shown = state
            self._sleep(step.seconds)

    def _follow(self, step: Follow) -> None:
        self.say(f"$ {step.shell()}")
        breaks = 0
        while True:
            began = time.monotonic()
            code, why = self._watched(step)
            why = why or self._state_of(step)
            if why == "over" or (why is None and code == 0 and not step.again):
                return
            if why is not None:
                raise Lost(f"the machines are gone: {why}")
            # If the state cannot be read either, this machine is offline: wait.
            early = code != 0 and time.monotonic() - began < step.seconds
            if early and self._capture(step.state)[0] == 0:
                breaks += 1
            elif not early:
                breaks = 0
            if breaks >= FOLLOW_TRIES:
                raise StepFailed(
                    f"{step.why}: {step.argv[0]} ended {breaks} times with code {code}"
                )
            self._sleep(min(step.seconds, 5.0))

    def _watched(self, step: Follow) -> tuple[int, str | None]:
        """(exit code of the command, why it was ended): see `_state_of`."""
        process = subprocess.Popen(
            step.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        looked, rest, why = time.monotonic(), b"", None
        try:
            while True:
                ended = process.poll() is not None
                chunk = process.stdout.read()
                *lines, rest = (rest + (chunk or b"")).split(b"\n")
                for line in lines:
                    self.say(line.decode(errors="replace"))
                if ended and not chunk:
                    return process.returncode, why
                if chunk and why is not None:  # there is still output
                    looked = time.monotonic() + DRAIN_SECONDS - step.seconds
                if time.monotonic() - looked >= step.seconds:
                    if why is not None:
                        return 0, why
                    why, looked = self._state_of(step), time.monotonic()
                    if why is not None:  # the rest of the log is read first
                        looked += DRAIN_SECONDS - step.seconds
                if not chunk:
                    time.sleep(0.1)
        finally:
            if rest:
                self.say(rest.decode(errors="replace"))
            _end(process)

    def _state_of(self, step: Follow) -> str | None:
        """ "over", a word of `lost`, or None while the run continues."""
        word = self.word_of(step.state, (*step.over, *step.lost))
        return "over" if word is not None and word in step.over else word

    def _outcome(self, step: Outcome) -> None:
        self.say(f"$ {step.shell()}")
        for attempt in range(step.tries):
            _, text = self._capture(step.argv)
            codes = [code for word, code in step.words if word in text.split()]
            found = (worst(codes), 0) if codes else read_outcome(text)
            if found is not None:
                self.ended = found
                self.say(f"# exit code {found[0]}, newest checkpoint {found[1]}")
                return
            self._sleep(10.0 * (attempt + 1))
        raise StepFailed(f"{step.why}: no process reported its exit code")

    def _group(self, step: Group) -> None:
        self.say(f"$ {step.shell()}")
        self.ended = GroupRunner(step, self.say, self._sleep).run()

    # ---------------------------------------------------------------------------------- processes

    def _stream(self, argv: Argv, stdin: str | None) -> int:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise _not_started(argv[0], error) from None
        assert process.stdout is not None
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(stdin or "")
        for line in process.stdout:
            self.say(line.rstrip("\n"))
        return process.wait()

    def _capture(self, argv: Argv) -> tuple[int, str]:
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        except OSError as error:
            raise _not_started(argv[0], error) from None
        return done.returncode, done.stdout.strip()


_RUN: dict[type, Callable[[Runner, Any], None]] = {
    Command: Runner._command,
    WriteFile: Runner._write_file,
    WriteSecrets: Runner._write_secrets,
    Await: Runner._await,
    Follow: Runner._follow,
    Outcome: Runner._outcome,
    Group: Runner._group,
}


def read_outcome(text: str) -> tuple[int, int] | None:
    """(exit code, newest checkpoint) from the output of all machines; None if none has a code.

    A code that a restart cannot fix comes first, then any other failure.
    """
    codes = [int(code) for code in re.findall(r"^jaxlm-exit (\d+)$", text, re.MULTILINE)]
    steps = [int(step) for step in re.findall(r"^jaxlm-checkpoint (\d+)$", text, re.MULTILINE)]
    return (worst(codes), max(steps, default=0)) if codes else None


def worst(codes: Iterable[int]) -> int:
    """The one exit code of several processes."""
    return min(codes, key=lambda code: (code == DONE, code not in FINAL, code))


def _not_started(program: str, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{program}: not found; install it, and check that it is on PATH")
    reason = (error.strerror or str(error)).lower()
    return UserError(
        f"{program}: cannot be started ({reason}); check the program and its arguments"
    )


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
