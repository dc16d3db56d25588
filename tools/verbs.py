"""jaxlm's verbs again and again in one process, without tracing the same programs each time.

    with warm_programs():
        answer = run_verb(["info", "runs/a", "--json"])
        answer.code, answer.out, answer.err, answer.crash

The programs of equal configs are made once and shared; everything else (files, data, checks) is
done by each verb as in a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from jaxlm.cli import main


@dataclass(frozen=True)
class Answer:
    """The output of a verb, its exit code, and the last lines of a traceback, if there was one."""

    code: int
    out: str
    err: str
    crash: str = ""

    @property
    def lines(self) -> list[str]:
        return [*self.out.splitlines(), *self.err.splitlines()]


def run_verb(words: list[str]) -> Answer:
    """Runs a verb in this process."""
    out, err, crash, code = io.StringIO(), io.StringIO(), "", 1
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")  # each verb warns as if it were the first
                code = main(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            crash = " | ".join(traceback.format_exc().strip().splitlines()[-3:])
    text = out.getvalue() + err.getvalue()
    if not crash and "Traceback (most recent call last)" in text:  # of a thread
        crash = " | ".join(text.strip().splitlines()[-3:])
    return Answer(code, out.getvalue(), err.getvalue(), crash)


@contextlib.contextmanager
def warm_programs() -> Iterator[None]:
    """A block in which equal programs are made, traced and compiled once."""
    import jax
    import numpy as np

    from jaxlm.core.tree import flatten
    from jaxlm.evals import sums as evaluate
    from jaxlm.generate import completions, writing
    from jaxlm.training import build
    from jaxlm.training.learner import GradientLearner
    from jaxlm.training.program import Program

    def shared(make: Any, *, first: bool = False) -> Any:
        """`make`, called once for equal arguments; `first`: a Program, which is compared as is."""
        kept: dict[Any, Any] = {}

        def once(*args: Any, **named: Any) -> Any:
            key = (id(args[0]), repr(args[1:]), repr(named)) if first else repr((args, named))
            if key not in kept:
                kept[key] = (args, make(*args, **named))  # the arguments too: an id is used again
            return kept[key][1]

        return once

    own_step = evaluate.SplitSums.step.func
    make_step = shared(lambda program: own_step(_Of(program)), first=True)
    step = property(lambda self: make_step(self.program))
    own_compile = GradientLearner.compile
    compiled: dict[Any, Any] = {}

    def compile_once(learner: GradientLearner, *args: Any) -> Any:
        """The step of a learner; its program (which is shared), optimizer and steps make it."""
        key = (id(learner.program), repr((learner.optimizer.config, learner.total_steps, args)))
        if key not in compiled:
            compiled[key] = (learner, own_compile(learner, *args))
        return compiled[key][1]

    own_draw = Program.draw
    drawn: dict[Any, Any] = {}

    def draw_once(program: Program) -> dict[str, Any]:
        """Fresh parameters, which do not depend on the loss, except for the head that it needs."""
        shapes = {path: x.shape for path, x in flatten(program.abstract_params).items()}
        head = getattr(program.objective, "head", None)
        key = repr((program.model, head, program.adapter, program.seed, program.mesh.shape, shapes))
        if key not in drawn:
            drawn[key] = jax.device_get(own_draw(program))
        copy = jax.tree.map(np.array, drawn[key])  # a step is donated it
        return jax.device_put(copy, program.param_shardings)

    generator = shared(writing.Generator, first=True)
    with contextlib.ExitStack() as stack:
        for owner, name, new in (
            (build, "make_program", shared(build.make_program)),
            (GradientLearner, "compile", compile_once),
            (Program, "draw", draw_once),
            (evaluate.SplitSums, "step", step),
            (writing, "Generator", generator),
            (completions, "Generator", generator),
        ):
            stack.enter_context(mock.patch.object(owner, name, new))
        yield


@dataclass(frozen=True)
class _Of:
    program: Any
