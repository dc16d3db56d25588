"""A run as a model of EleutherAI's lm-evaluation-harness (the extra `eval`).

    jaxlm eval runs/quickstart --lm-eval my_task --include-path tasks/

`Harness` has the methods that the harness asks of a model (lm_eval.api.model.LM); it needs no
lm_eval itself. Requests are objects with `args`: (context, continuation), (text,) or (context,
{"until": [...], "max_gen_toks": 64}). Tasks may be local: a YAML file whose `dataset_path` is json
and whose `data_files` are JSONL files, in the folder of `--include-path`, without any hub.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jaxlm.core.config import UserError, parse
from jaxlm.core.errors import few
from jaxlm.core.measures import Measure
from jaxlm.core.sampling import DRAWING, Sampling
from jaxlm.data.prompts import ids_of
from jaxlm.evals.likelihood import Likelihood, Pair, split_ids
from jaxlm.generate.generator import Generator
from jaxlm.generate.writing import writer_of
from jaxlm.hf.generation import IDLE, KNOWN, OFF, without_off
from jaxlm.tasks.base import NO_LIMIT

log = logging.getLogger("jaxlm")
TOKENS = 256  # of an answer, where a task does not say
NAMES = {**KNOWN, "until": "stop", "max_gen_toks": "max_tokens"}  # of generation_kwargs
WINDOW = 2048  # tokens of a window of a long text, where the model has no limit
BATCH = 16  # answers that are written together


class Harness:
    """The interface of a model for the harness. run: a `jaxlm.api.Run`, or what has its `program`,
    `params`, `tokenizer`, `config`, `ends` and `path`.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        self.likelihood = Likelihood(run.program, run.params)
        self._rendered = False  # whether contexts are written by the chat template

    # ---------------------------------------------------------------------------- log-likelihoods

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """(log p(continuation | context), whether it is what is written greedily)."""
        pairs = [self._pair(*request.args) for request in requests]
        self._report_cut(sum(map(self.likelihood.is_cut, pairs)), len(pairs))
        found = self.likelihood(pairs)
        return [(each.logprob, each.greedy) for each in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """log p(text), of windows that together predict every token once."""
        windows = [self._windows(request.args[0]) for request in requests]
        scores = iter(self.likelihood([pair for each in windows for pair in each]))
        return [sum(next(scores).logprob for _ in each) for each in windows]

    def _pair(self, context: str, continuation: str) -> Pair:
        tokenizer = self.run.tokenizer
        if self._rendered:
            ids = self._encoded(context)
            return ids, tokenizer.encode(continuation)
        return split_ids(tokenizer, context, continuation, self.run.ends.bos)

    def _windows(self, text: str) -> list[Pair]:
        """The first window begins after bos or eos; each other one has the token before it as its
        context, the last one as many as there is room for.
        """
        (start, *_), ids = split_ids(self.run.tokenizer, "", text, True)
        room, every = self.likelihood.longest or WINDOW, [start, *ids]
        found: list[Pair] = []
        for first in range(1, len(every), room):
            last = min(first + room, len(every))
            found.append((every[max(0, last - room - 1) : first], every[first:last]))
        return found

    # --------------------------------------------------------------------------------- generation

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """The text written after each context, to the first of its stop strings or the end."""
        asked = [_sampling(request.args[1]) for request in requests]
        rooms = [self._room(sampling) for sampling in asked]
        prompts = [self._encoded(request.args[0]) for request in requests]
        cut = [len(ids) > room for ids, room in zip(prompts, rooms, strict=True)]
        self._report_cut(sum(cut), len(cut))
        groups: dict[Sampling, list[int]] = {}
        for n in sorted(range(len(asked)), key=lambda n: len(prompts[n])):
            groups.setdefault(asked[n], []).append(n)
        found = [""] * len(asked)
        for sampling, members in groups.items():
            for first in range(0, len(members), BATCH):
                chosen = members[first : first + BATCH]
                texts = self._written([prompts[n][-rooms[n] :] for n in chosen], sampling)
                for n, text in zip(chosen, texts, strict=True):
                    found[n] = text
        return found

    def _room(self, sampling: Sampling) -> int:
        """The tokens that a prompt may have."""
        longest, tokens = self.likelihood.longest, sampling.max_tokens
        if longest is None:
            return NO_LIMIT
        if longest <= tokens:
            raise UserError(
                f"max_gen_toks: {tokens} but the model has {longest} positions; lower it in the "
                "task's generation_kwargs"
            )
        return longest - tokens

    def _report_cut(self, cut: int, total: int) -> None:
        if cut:
            log.warning(
                "--lm-eval: %d of %d prompts lose their beginning: with the answer they are longer "
                "than the model's %s positions",
                cut,
                total,
                self.likelihood.longest,
            )

    def _written(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[str]:
        tokenizer = self.run.tokenizer
        rows = self._generator(sampling)(self.run.params, prompts)
        texts = [tokenizer.decode([i for i in row if i < tokenizer.vocab_size]) for row in rows]
        for stop in sampling.stop:
            texts = [text.partition(stop)[0] for text in texts]
        return texts

    def _encoded(self, context: str) -> list[int]:
        tokenizer = self.run.tokenizer
        if self._rendered:  # the template writes bos itself
            return [*tokenizer.encode_with_offsets(context, special=True)[0]]
        return [*split_ids(tokenizer, context, "", self.run.ends.bos)[0]]

    def _generator(self, sampling: Sampling) -> Generator:
        if sampling not in self._generators:
            run = self.run
            trained, ends = run.config.data is not None, run.ends
            ids = ids_of(run.tokenizer, run.config.sample.eos_ids, trained=trained, ends=ends)
            writer = writer_of(run.program, sampling, run.tokenizer, ids, ends)
            self._generators[sampling] = writer.generator
        return self._generators[sampling]

    @cached_property
    def _generators(self) -> dict[Sampling, Generator]:
        return {}

    # -------------------------------------------------------------------------------------- chats

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as the run's chat template writes them."""
        from jaxlm.tasks.conversations import renderer_of

        renderer = renderer_of(self.run.tokenizer)
        self._rendered = True
        return renderer.template.text(
            list(chat_history),
            tools=None,
            variables=renderer.variables,
            add_generation_prompt=add_generation_prompt,
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the template, which the results name."""
        own = getattr(self.run.tokenizer, "chat_template", None)
        return None if own is None else str(own.source)

    @property
    def tokenizer_name(self) -> str:
        """The key of the requests in the harness's cache."""
        return str(self.run.path).replace("/", "__")


def _sampling(given: Mapping[str, Any]) -> Sampling:
    """The sampling of a task's generation_kwargs. Raises `UserError` for what is not known."""
    said = {name: value for name, value in given.items() if value is not None}
    known = {*NAMES, *IDLE}
    if unknown := [n for n in said if n not in known and (n not in OFF or said[n] != OFF[n])]:
        raise UserError(
            f"generation_kwargs: {few(unknown)} has no effect here; remove it from the task's file"
        )
    found = {"max_tokens": TOKENS, **{NAMES[n]: said[n] for n in NAMES if n in said}}
    stop = found.get("stop", ())
    found["stop"] = [text for text in ([stop] if isinstance(stop, str) else stop) if text]
    if said.get("do_sample", float(said.get("temperature", 0)) > 0):
        found = {"temperature": 1.0, **found}
        if found.get("num_beams", 1) != 1:
            raise UserError("generation_kwargs: a beam search does not sample; remove num_beams")
    else:
        found = {n: v for n, v in found.items() if n not in DRAWING} | {"temperature": 0.0}
    try:
        return parse(Sampling, without_off(found))
    except UserError as error:
        raise UserError(f"generation_kwargs: {error}") from None


def evaluate_harness(
    run: Any,
    tasks: Sequence[str],
    *,
    include_path: str | None = None,
    shots: int | None = None,
    limit: int | None = None,
    chat: bool = False,
) -> list[Measure]:
    """The harness's figures of a run: "task/acc", and its standard error "task/acc_stderr".

    tasks: names that the harness or `include_path` has. Raises `UserError` without lm_eval, and for
    a task that is in neither.
    """
    try:
        import lm_eval
        from lm_eval.api.model import LM
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError("--lm-eval: needs lm_eval; run: pip install 'jaxlm[eval]'") from None
    manager = TaskManager(include_path=include_path)
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        raise UserError(
            f"--lm-eval: the harness has no task {few(unknown)}; name the folder of its YAML file "
            "by --include-path"
        )
    model = type("JaxLM", (Harness, LM), {"__init__": _begin})(run)
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=list(tasks),
        num_fewshot=shots,
        limit=limit,
        task_manager=manager,
        apply_chat_template=chat,
        bootstrap_iters=1000,
    )
    return figures(found["results"], found.get("higher_is_better", {}))


def _begin(self: Any, run: Any) -> None:
    from lm_eval.api.model import LM

    LM.__init__(self)
    Harness.__init__(self, run)


def figures(
    results: Mapping[str, Mapping[str, Any]], higher: Mapping[str, Mapping[str, Any]]
) -> list[Measure]:
    """The harness's {task: {"acc,none": value}} as measures; a filter other than none is named."""
    measures = []
    for task, values in results.items():
        for key, value in values.items():
            name, _, chosen = key.partition(",")
            if not chosen or not isinstance(value, int | float):
                continue
            up = higher.get(task, {}).get(name)
            measures.append(
                Measure(
                    f"{task}/{name}" + ("" if chosen == "none" else f"/{chosen}"),
                    float(value),
                    better=None if up is None else ("higher" if up else "lower"),
                )
            )
    return measures
