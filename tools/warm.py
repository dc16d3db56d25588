"""Starts `jaxlm` commands in processes of their own, in a fraction of the time that imports take.

    with WarmLauncher() as launcher:             # or FreshLauncher(): plain `python -m jaxlm`
        process = launcher.start(["train", "run.yaml"], Path("log.txt"))
        process.kill(signal.SIGKILL)
        process.wait()                           # -9

A warm launcher is a server that imports everything once and forks for each command. That is sound
as long as the server has one thread and no jax backend, which it checks before every fork: what
follows (devices, threads, compilation, files) is the child's own. Several threads may share a
launcher. `environment` holds variables that a command has in addition to the launcher's. `before`
lists what is called in the command's process before the command: ("strikes:at_change", folder, 3)
is `at_change(folder, 3)` of tools/strikes.py. `program` is Python source that runs in place of
`jaxlm`, as `python -c` would run it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TRUE = ("y", "yes", "t", "true", "on", "1")
# {type of a setting of jax: how it reads a variable}
READ: dict[type, Callable[[str], Any]] = {
    bool: lambda text: text.lower() in TRUE,
    int: int,
    float: float,
    str: str,
    type(None): str,
}


class Process:
    """A command under way; `pid` is its real process."""

    def __init__(self, pid: int, reap: Callable[[], int]) -> None:
        self.pid, self._reap = pid, reap
        self._code: int | None = None
        self._handle = os.pidfd_open(pid)

    def running(self, wait_seconds: float = 0.0) -> bool:
        """Whether it runs still; returns early when it ends within `wait_seconds`."""
        if self._code is not None:
            return False
        ready, _, _ = select.select([self._handle], [], [], wait_seconds)
        return not ready

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def wait(self, seconds: float = 600.0) -> int:
        """Its exit code, or minus the signal that ended it; killed when it takes too long."""
        if self._code is None:
            if self.running(seconds):
                self.kill()
                self._code = self._reap()
                raise TimeoutError(f"pid {self.pid}: still running after {seconds} s")
            self._code = self._reap()
            os.close(self._handle)
        return self._code


class FreshLauncher:
    """Each command in an interpreter of its own, as a user starts it."""

    name = "fresh"

    def start(
        self,
        arguments: list[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        before: Sequence[Sequence[Any]] = (),
    ) -> Process:
        command = ["-m", "jaxlm", *arguments]
        if before:
            command = [__file__, json.dumps({"start": arguments, "before": list(before)})]
        with log.open("ab") as file:
            child = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**_environment(), **(environment or {})},
            )
        return Process(child.pid, child.wait)

    def __enter__(self) -> FreshLauncher:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Group:
    """Processes that train one run together: killed one by one, restarted only together.

    `kill` takes one of them, or all, by `choose`; the others are ended a moment later, as
    `jaxlm launch local` does: they wait for the dead one in their next collective.
    """

    def __init__(self, members: list[Process], choose: Callable[[int], list[int]]) -> None:
        self._members, self._choose = members, choose
        self.pid = members[0].pid

    def running(self, wait_seconds: float = 0.0) -> bool:
        """Whether all of them run still."""
        return self._members[0].running(wait_seconds) and all(p.running() for p in self._members)

    def kill(self, number: int = signal.SIGKILL) -> None:
        for index in self._choose(len(self._members)):
            self._members[index].kill(number)

    def wait(self, seconds: float = 600.0) -> int:
        """0 where all ended so; -9 where one was killed, else the first other code."""
        while self.running(0.01):
            seconds -= 0.01
            if seconds < 0:
                break
        if any(not p.running() and p.wait() != 0 for p in self._members):
            for process in self._members:
                if process.running(0.2):
                    process.kill()
        codes = [process.wait(max(seconds, 1.0)) for process in self._members]
        return -signal.SIGKILL if -signal.SIGKILL in codes else next(filter(None, codes), 0)


class WarmLauncher:
    """Each command in a fork of a process that has imported everything."""

    name = "warm"

    def __init__(self) -> None:
        self._turn = threading.Lock()  # one request at a time
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_of_the_server(),
        )

    def start(
        self,
        arguments: list[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        before: Sequence[Sequence[Any]] = (),
        program: str | None = None,
    ) -> Process:
        request: dict[str, Any] = {"program": program}
        request |= {"start": arguments, "log": str(log), "cwd": os.getcwd(), "before": list(before)}
        pid = self._ask({**request, "environment": {**_environment(), **(environment or {})}})
        return Process(pid, lambda: self._ask({"reap": pid}))

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        with self._turn:
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            reply = self._server.stdout.readline()
        if not reply:
            raise RuntimeError("the warm launcher has ended; its messages are above")
        return int(reply)

    def running(self) -> bool:
        return self._server.poll() is None

    def __enter__(self) -> WarmLauncher:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed
            self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def _of_the_server() -> dict[str, str]:
    """Without jax's variables: its settings keep their defaults, until a command has its own. And
    OpenBLAS would start threads at numpy's import.
    """
    kept = {k: v for k, v in _environment().items() if not k.startswith("JAX_")}
    return {**kept, "OPENBLAS_NUM_THREADS": "1"}


# ------------------------------------------------------------------------------------------ server


def serve() -> None:
    """Answers requests, one JSON object a line, with a pid or an exit code."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but replies may go where they go
    _import_everything()
    for line in sys.stdin:
        request = json.loads(line)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            _check_sound()
            answer = os.fork()
            if answer == 0:
                _run(request)
        replies.write(f"{answer}\n")
        replies.flush()


def _import_everything() -> None:
    import grain  # noqa: F401
    import tensorboardX.event_file_writer  # noqa: F401
    from orbax.checkpoint import v1  # noqa: F401

    import jaxlm

    for module in pkgutil.walk_packages(jaxlm.__path__, "jaxlm."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(module.name)


def _check_sound() -> None:
    from jax._src import xla_bridge

    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads: a fork would copy their locks without them"
    assert not xla_bridge._backends, "a jax backend is up: a fork would share its state"


def _run(request: dict[str, Any]) -> None:
    """In the child: the command, with its output in the log; never returns."""
    code: Any = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["cwd"])
        _have_environment(request["environment"])
        code = _command(request) if request["program"] is None else _program(request)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _have_environment(wanted: Mapping[str, str]) -> None:
    """The variables of a command; jax's, which it reads at its import, are read again. The server
    was started without them.
    """
    import jax

    for name in os.environ.keys() - wanted.keys() - {"OPENBLAS_NUM_THREADS"}:
        del os.environ[name]
    os.environ.update(wanted)
    for name, value in wanted.items():
        setting = name.lower()
        if setting in jax.config.values:
            kind = type(jax.config.values[setting])
            assert kind in READ, f"{name}: {kind} is not read again"
            jax.config.update(setting, READ[kind](value))
    sys.path[1:1] = [p for p in wanted["PYTHONPATH"].split(os.pathsep) if p not in sys.path]


def _program(request: dict[str, Any]) -> int:
    """Runs a program as `python -c` does, with the functions that are called when it exits."""
    sys.argv = ["-c", *request["start"]]
    try:
        exec(compile(request["program"], "<program>", "exec"), {"__name__": "__main__"})
        return 0
    finally:
        atexit._run_exitfuncs()


def _command(request: dict[str, Any]) -> int:
    """Runs the calls that are asked for before the command, and the command."""
    for place, *values in request["before"]:
        module, _, function = place.partition(":")
        getattr(importlib.import_module(module), function)(*values)
    from jaxlm.cli import main

    return main(request["start"])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(_command(json.loads(sys.argv[1])))
    serve()
