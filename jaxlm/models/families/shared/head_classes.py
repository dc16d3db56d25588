"""Classes of transformers that have a head for a task in place of one over the vocabulary.

A family has a table of its model's tensors, and a class has one of its head's:

    TaskClass("GPT2ForSequenceClassification", "GPT2Model", Classify(pool="last", bias=False),
              linear("score"))

`TaskClass.heads` are the heads that such a file can have: the class for sequences is a classifier,
or with one label a regressor. The order of labels is that of `id2label` in config.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxlm.core.config import to_dict
from jaxlm.core.errors import UserError, shown
from jaxlm.models.families.shared.tensor import Tensor
from jaxlm.nn.heads.base import NAME, TaskHeadConfig
from jaxlm.nn.heads.classify import Classify
from jaxlm.nn.heads.tag import Tag

SINGLE, REGRESSION = "single_label_classification", "regression"
SEVERAL = "multi_label_classification"


def linear(name: str, path: str = NAME) -> tuple[Tensor, ...]:
    """A linear layer of a file as the map of a head, with the bias where the head has one."""
    return (
        Tensor(f"{name}.weight", f"{path}/kernel", "O I -> I O"),
        Tensor(f"{name}.bias", f"{path}/bias", "O -> O"),
    )


@dataclass(frozen=True)
class TaskClass:
    """A class of transformers with a head for a task."""

    name: str
    base: str  # the class of the model without a head
    head: TaskHeadConfig
    tensors: tuple[Tensor, ...]  # of the head, by the file's names
    values: Mapping[str, Any] = field(default_factory=dict)  # of config.json, which the class says
    names: str = ""  # how the model's tensors are named in these files; see `jaxlm.hf.matching`

    @property
    def heads(self) -> tuple[TaskHeadConfig, ...]:
        other = self.head.for_number
        return (self.head,) if other is None else (self.head, other)

    def has(self, head: TaskHeadConfig) -> bool:
        """Whether a file of this class can hold a head; dropout is a run's and not in it."""
        return any(known.replace(dropout=head.dropout) == head for known in self.heads)

    def without_head(self, values: Any) -> Any:
        """A config.json of this class as that of its model alone."""
        return values | {"architectures": [self.base], **self.values}

    def model_of(self, model: Any) -> Any:
        """A model with no parameters beyond those that a file of this class has."""
        pooler = getattr(self.head, "pool", None) == "pooler"
        plain = {"tied": True, "bias": False, "transform": None, "num_relations": 0}
        return model.replace(head=model.head.replace(**plain, pooler=pooler))

    # ---------------------------------------------------------------------------------- config.json

    def read(self, values: Mapping[str, Any]) -> tuple[TaskHeadConfig, tuple[str, ...]]:
        """The head and the labels of a config.json. Raises `UserError`."""
        labels = labels_of(values)
        kind = values.get("problem_type")
        if kind not in (None, SINGLE, SEVERAL, REGRESSION):
            raise UserError(
                f"config.json: problem_type is {shown(kind)}; known are {SINGLE}, {SEVERAL} and "
                f"{REGRESSION}"
            )
        head, number = self.head, self.head.for_number
        if number is not None and (kind == REGRESSION or (not kind and len(labels) == 1)):
            if len(labels) != 1:
                raise UserError(
                    f"config.json: problem_type is {REGRESSION} of {len(labels)} numbers; known is "
                    "one number alone"
                )
            head = number
        labels = labels if head.scores_labels else ()
        rate = values.get("classifier_dropout")
        known = isinstance(rate, float) and 0 <= rate < 1
        return head.replace(dropout=rate if known else head.dropout), labels

    def objective(self, values: Mapping[str, Any], head: TaskHeadConfig) -> str:
        """The type of the objective that a config.json with this head is of."""
        return head.objective_of(values.get("problem_type") == SEVERAL)

    def say(
        self, head: TaskHeadConfig, labels: Sequence[str], several: bool = False
    ) -> dict[str, Any]:
        """The entries that `read` reads, for the config.json of a file of this class; several: a
        row may have several of the labels.
        """
        said: dict[str, Any] = {"architectures": [self.name]}
        if names := head.hf_labels(labels):
            said["id2label"] = {str(i): label for i, label in enumerate(names)}
            said["label2id"] = {label: i for i, label in enumerate(names)}
        if kind := head.problem_type(several):
            said["problem_type"] = kind
        return said


def labels_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the labels, in the order of the scores. Raises `UserError`."""
    found = values.get("id2label")
    if found is None:
        count = values.get("num_labels", 2)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count < 2**31:
            raise UserError(f"config.json: num_labels is {shown(count)}; it must be 1 or more")
        return tuple(f"LABEL_{i}" for i in range(count))
    numbers = [str(i) for i in range(len(found))] if isinstance(found, Mapping) else []
    if not numbers or {*map(str, found)} != {*numbers}:
        raise UserError(
            f"config.json: id2label is {shown(found)}, where names of the labels 0, 1, ... are "
            "expected; take the file that came with the model"
        )
    names = {str(key): str(name) for key, name in found.items()}
    return tuple(names[number] for number in numbers)


def decoder_tasks(
    stem: str, *, base: str | None = None, tagger: str = "score"
) -> tuple[TaskClass, ...]:
    """Those of a decoder: the last token's scores without a bias, and a label for each token."""
    base = base or f"{stem}Model"
    last = Classify(pool="last", bias=False)
    return (
        TaskClass(f"{stem}ForSequenceClassification", base, last, linear("score")),
        TaskClass(f"{stem}ForTokenClassification", base, Tag(), linear(tagger)),
    )


def task_for(tasks: Sequence[TaskClass], family: str, head: TaskHeadConfig) -> TaskClass:
    """The class that holds a model of a family with this head. Raises `UserError`."""
    for task in tasks:
        if task.has(head):
            return task
    if not tasks:
        raise UserError(
            f"objective.head: no class of {family} has a head for a task; export the run that this "
            "one began from"
        )
    known = "; ".join(f"{task.name}: {_words(task.head)}" for task in tasks)
    raise UserError(
        f"objective.head: no class of {family} has a head with {_words(head)}; train with one of "
        f"these: {known}"
    )


def _words(head: TaskHeadConfig) -> str:
    """A head in the words of its config."""
    values = {key: value for key, value in to_dict(head).items() if value is not None}
    return ", ".join(f"{key} {str(v).lower()}" for key, v in values.items() if key != "dropout")
