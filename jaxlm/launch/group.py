"""Processes of one machine that train one run: they start, end and restart together.

    code, checkpoint = GroupRunner(step, say, time.sleep).run()

When one fails, the others are ended, because they wait for it in their next collective. Then all
restart from the last checkpoint, as long as there is progress. SIGINT, SIGTERM and SIGHUP are
passed on once, as SIGTERM: all save and end, and nothing restarts. A second SIGINT or SIGTERM
kills. A closed terminal (SIGHUP) may come twice and never kills; under `nohup` it is ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial

from jaxlm.core.exit_codes import DONE, FINAL, INTERRUPTED
from jaxlm.launch.budget import Budget, newest_checkpoint
from jaxlm.launch.steps import Group, Member

POLL_SECONDS = 0.1
# After a first clean exit the others write their last checkpoint; after a crash they may report it;
# after a kill they hang.
LEAVE_SECONDS, REPORT_SECONDS, KILLED_SECONDS = 600.0, 20.0, 0.0


class GroupRunner:
    """Runs a `Group` to its end."""

    def __init__(
        self, group: Group, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._group, self._say, self._sleep = group, say, sleep
        self._asked = False  # to save and end, by any signal
        self._insisted = 0  # how many of them were SIGINT or SIGTERM
        self._processes: list[subprocess.Popen] = []
        self._sent: set[int] = set()  # pids that got their SIGTERM; a second one would kill

    def run(self) -> tuple[int, int]:
        """(exit code, newest checkpoint) of the last attempt."""
        budget = Budget(self._group.max_restarts, newest_checkpoint(self._group.run_dir))
        with self._passing_signals_on():
            while True:
                code = self._attempt()
                progress = newest_checkpoint(self._group.run_dir)
                if code in FINAL or self._asked:
                    return code, progress
                if not budget.spend(progress):
                    self._say(
                        f"error: exit code {code}, and no newer checkpoint in "
                        f"{self._group.max_restarts} restarts; fix the error in the log, then "
                        "launch again"
                    )
                    return code, progress
                self._say(
                    f"# exit code {code}: starting again from checkpoint {progress} "
                    f"({budget.left} more without a newer one)"
                )
                self._sleep(budget.pause)

    def _attempt(self) -> int:
        if self._asked:  # one came while this waited to start again
            return INTERRUPTED
        port = str(_free_port())
        self._processes, self._sent = [], set()
        for member in self._group.members:
            self._processes.append(self.start_member(member, port))
        self._send()  # a signal may have come while they were started
        try:
            first = self._wait_for_first()
            self._wait_for_others(first)
        finally:
            left = [number for number, p in enumerate(self._processes) if p.poll() is None]
            for process in self._processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
        if left:
            self._say(f"# ended the others: {_numbers(left)}")
        codes = [process.returncode for process in self._processes]
        others = [code for i, code in enumerate(codes) if i not in (first, *left)]
        return _verdict([codes[first], *others])

    def start_member(self, member: Member, port: str) -> subprocess.Popen:
        given = dict(member.environment)
        if member.coordinator is not None:
            given[member.coordinator] = f"localhost:{port}"
        # a session of its own, or Ctrl-C would reach it beside what is passed on
        start = partial(
            subprocess.Popen,
            member.argv,
            env=os.environ | given,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        if member.log is None:
            return start()
        member.log.parent.mkdir(parents=True, exist_ok=True)
        with member.log.open("ab") as file:
            return start(stdout=file, stderr=subprocess.STDOUT)

    def _wait_for_first(self) -> int:
        """The number of a process that has ended: the first, or of several one that failed."""
        while True:
            ended = [i for i, p in enumerate(self._processes) if p.poll() is not None]
            if ended:
                first = max(ended, key=lambda i: self._processes[i].returncode != DONE)
                code = self._processes[first].returncode
                if code != DONE and len(self._processes) > 1:
                    self._say(f"# process {first} {_how(code)}")
                    log = self._group.members[first].log
                    if log is not None:
                        self._say(f"#   its output: {log}")
                return first
            time.sleep(POLL_SECONDS)

    def _wait_for_others(self, first: int) -> None:
        code = self._processes[first].returncode
        orderly = code in (DONE, INTERRUPTED)
        wait = LEAVE_SECONDS if orderly else KILLED_SECONDS if code < 0 else REPORT_SECONDS
        limit = time.monotonic() + wait
        while time.monotonic() < limit:
            codes = [process.poll() for process in self._processes]
            if None not in codes:
                return
            if orderly and any(c not in (None, DONE, INTERRUPTED) for c in codes):
                return
            time.sleep(POLL_SECONDS)

    # ------------------------------------------------------------------------------------- signals

    @contextlib.contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._pass_on) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, _: object) -> None:
        again, self._asked = self._asked, True
        self._insisted += number != signal.SIGHUP
        self._send()
        if self._insisted > 1:
            what = "killing them"
        elif again:
            return
        else:
            what = "all save and end; SIGTERM or Ctrl-C again to kill them"
        self._say(f"# {signal.Signals(number).name}: {what}")

    def _send(self) -> None:
        """After a signal, SIGTERM to each process that has had none; SIGKILL after a second one."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                if self._insisted > 1:
                    process.kill()
                elif self._asked and process.pid not in self._sent:
                    self._sent.add(process.pid)
                    process.send_signal(signal.SIGTERM)


def _verdict(codes: list[int]) -> int:
    """One exit code for all: one that a restart cannot fix, else that of the first that failed."""
    codes = [128 - code if code < 0 else code for code in codes]
    final = [code for code in codes if code in FINAL and code != DONE]
    failed = [code for code in codes if code != DONE]
    return (final or failed or [DONE])[0]


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by {signal.Signals(-code).name}"


def _numbers(numbers: list[int]) -> str:
    return f"process{'es' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _free_port() -> int:
    with socket.create_server(("localhost", 0)) as free:
        return free.getsockname()[1]
