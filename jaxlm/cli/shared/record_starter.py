"""The part of a starter config that depends on a task: for files of a recognised format."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlm.core.errors import UserError
from jaxlm.data.detect import Found


@dataclass(frozen=True)
class Start:
    """What a config says for records of a task of `jaxlm.data.formats`; a task and an objective are
    YAML.
    """

    about: str
    task: str
    objective: str
    causal: bool


_ANSWER = "{type: causal_lm}"
_PAIR = (
    "{type: prompt_completion, template: plain, prompt_column: source, completion_column: target}"
)
STARTS = {
    "chat": Start("chat; answers are learnt", "{type: chat, template: plain}", _ANSWER, True),
    "prompt_completion": Start(
        "prompts and completions, which are learnt",
        "{type: prompt_completion, template: plain}",
        _ANSWER,
        True,
    ),
    "translation": Start("translation, as an answer to the source", _PAIR, _ANSWER, True),
    "summarisation": Start("summaries, as an answer to the source", _PAIR, _ANSWER, True),
    "question_answering": Start(
        "question answering by a span of the context",
        "{type: question_answering}",
        "{type: question_answering}",
        False,
    ),
    "tagging": Start("a tag for each token", "{type: tagging}", "{type: tagging}", False),
}


def start_of(found: Found) -> Start:
    """Raises `UserError` where no task trains on records of the files' format."""
    assert found.task is not None
    if found.task not in STARTS:
        raise UserError(
            f"{found.format}: records of {found.task}, for which there is no task to train; name "
            "files of another format (`jaxlm data formats` lists them)"
        )
    return STARTS[found.task]
