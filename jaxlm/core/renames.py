"""Names that keys of a config had in older versions: one table.

    layer = renamed(read_yaml("old.yaml"))      # logs: objective.pool is objective.head.pool now

A row is {old dotted key: new dotted key}. A row whose new key depends on the config has a function
instead: it gets the values of the whole config and the old value, and returns {new key: value}, or
None where the key stays. A key with "=value" renames that value alone, such as a part's type.
Where the new key is set too, its value is used, unless the old one is the command line's.

`MOVED` has the classes of jaxlm that are in another module today: a `type: module:Class` that names
an old place is read as the part's name.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

from jaxlm.core.config_yaml import COMMAND_LINE, Layer, Mark

log = logging.getLogger("jaxlm")

Values = Mapping[str, Any]
Rule = Callable[[Values, Any], dict[str, Any] | None]


def _of_classifier(new: str) -> Rule:
    """A key that moved in the objective of classification alone."""

    def rule(values: Values, value: Any) -> dict[str, Any] | None:
        return {new: value} if _look(values, "objective.type") == "classification" else None

    return rule


def _of_prompts(key: str) -> Rule:
    """A key that moved from a model to its prompt format, of which there were two with such ids."""

    def rule(values: Values, value: Any) -> dict[str, Any] | None:
        encodes = isinstance(_look(values, "model.encoder"), Mapping)
        if encodes or _look(values, "model.type") == "rnn_seq2seq":
            if key == "blank_ids" and not value:  # an encoder has no blanks
                return {}
            return {"model.prompt.type": "encode_source", f"model.prompt.{key}": value}
        position = _look(values, "model.position")
        first = position[0] if isinstance(position, list) and position else position
        if _look(first, "type") == "learned_blocks":
            return {"model.prompt.type": "fill_blank", f"model.prompt.{key}": value}
        known = _look(values, "model.type") is not _ABSENT  # a part of a config may not say
        return {} if known and value in (None, []) else None

    return rule


def _positions_of(key: str) -> Rule:
    """Learned positions with a table for places within blanks are of a type of their own."""

    def rule(values: Values, value: Any) -> dict[str, Any] | None:
        old = value if isinstance(value, list) else [value]
        new = [_without_blocks(position) for position in old]
        if new == old:
            return None
        if any(_look(position, "type") == "learned_blocks" for position in new):
            log.info("config: %s.blocks is %s.type=learned_blocks now", key, key)
        return {key: new if isinstance(value, list) else new[0]}

    return rule


def _without_blocks(position: Any) -> Any:
    blocks = _look(position, "blocks")
    if _look(position, "type") not in ("learned", "learned_blocks") or blocks is _ABSENT:
        return position
    if not isinstance(blocks, bool):  # a mistake, which is reported as one
        return position
    kind = "learned_blocks" if blocks else "learned"
    return {k: v for k, v in position.items() if k != "blocks"} | {"type": kind}


RECORDS = ("examples", "records")


def _of_records(key: str) -> Rule:
    """A key that moved in a dataset of records; one of text has a key of the same name."""

    def rule(values: Values, value: Any) -> dict[str, Any] | None:
        return {f"data.task.{key}": value} if _look(values, "data.type") in RECORDS else None

    return rule


def _labelled_texts(values: Values, value: Any) -> dict[str, Any]:
    return {"data.task.type": "classification", "data.type": "records"}


def _parts_of_a_mixture(values: Values, parts: Any) -> dict[str, Any] | None:
    """Each part's dataset, with the rows for one."""
    if not isinstance(parts, Mapping):
        return None
    now = copy.deepcopy(dict(parts))
    for part in now.values():
        if isinstance(part, dict) and isinstance(part.get("data"), dict):
            part["data"] = renamed(Layer({"data": part["data"]})).values["data"]
    return {"data.parts": now} if now != parts else None


RENAMES: dict[str, str | Rule] = {
    "objective.type=sequence_classification": "objective.type=classification",
    "objective.pool": _of_classifier("objective.head.pool"),
    "objective.dropout": _of_classifier("objective.head.dropout"),
    "model.position": _positions_of("model.position"),
    "model.encoder.position": _positions_of("model.encoder.position"),
    "model.attention.causal": "model.attention.is_causal",
    "model.encoder.attention.causal": "model.encoder.attention.is_causal",
    "model.start_id": _of_prompts("start_id"),
    "model.blank_ids": _of_prompts("blank_ids"),
    "data.classes": _of_records("classes"),
    "data.add_bos": _of_records("add_bos"),
    "data.add_eos": _of_records("add_eos"),
    "data.type=examples": _labelled_texts,
    "data.parts": _parts_of_a_mixture,
}


MOVED: dict[str, dict[str, str]] = {  # {old module: {class: the part's type}}
    "jaxlm.optim.optimizer": {
        "SGD": "sgd",
        "Adam": "adam",
        "AdamW": "adamw",
        "Adafactor": "adafactor",
        "Lion": "lion",
        "Muon": "muon",
    },
    "jaxlm.optim.schedules": {
        "Constant": "constant",
        "Linear": "linear",
        "Cosine": "cosine",
        "WarmupStableDecay": "wsd",
        "InverseSquareRoot": "inverse_sqrt",
    },
    "jaxlm.data.sources.base": {"TextFiles": "text"},
    "jaxlm.data.sources.tables": {
        "JsonLines": "jsonl",
        "Csv": "csv",
        "Parquet": "parquet",
        "ArrayRecord": "array_record",
    },
    "jaxlm.data.sources.corpora": {
        "PackageFiles": "package",
        "StandardLibrary": "stdlib",
        "Synthetic": "synthetic",
    },
}


def renamed(layer: Layer) -> Layer:
    """The layer with today's keys, changed in place; one line in the log for each that changed."""
    _rename_moved(layer.values)
    for row, rule in RENAMES.items():
        old, equals, wanted = row.partition("=")
        value = _look(layer.values, old)
        if value is _ABSENT or (equals and value != wanted):
            continue
        if isinstance(rule, str):
            key, equals, other = rule.partition("=")
            new: dict[str, Any] | None = {key: other if equals else value}
        else:
            new = rule(layer.values, value)
        if new is None:
            continue
        if layer.marks.get(old) == COMMAND_LINE:  # it overrides what a file says
            for key in (key for key, moved in new.items() if moved is value):
                _take_out(layer.values, key)
                layer.marks.pop(key, None)
        _move(layer.values, old, new)
        _move_marks(layer.marks, old, [*new])
        key = [*new][-1] if new else old
        if equals or key != old:  # a rule for what is inside of a key logs that itself
            log.info("config: %s is %s now", row, f"{key}={new[key]}" if equals else key)
    return layer


def _rename_moved(values: Any) -> None:
    """Replaces, at any depth, a type that names a class in a module where it was before."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, (dict, list)):
            _rename_moved(value)
        elif key == "type" and isinstance(value, str):
            module, _, name = value.partition(":")
            if name in MOVED.get(module, {}):
                values[key] = MOVED[module][name]
                log.info("config: type: %s is %s now", value, values[key])


_ABSENT = object()


def _look(values: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return _ABSENT
        values = values[part]
    return values


def _take_out(values: Any, key: str) -> None:
    """Removes a key, where it is set."""
    *parents, last = key.split(".")
    inner = _look(values, ".".join(parents)) if parents else values
    if isinstance(inner, dict):
        inner.pop(last, None)


def _move(values: dict[str, Any], old: str, new: Mapping[str, Any]) -> None:
    """Takes the old key out, and sets the new ones unless they are set."""
    _take_out(values, old)
    for key, value in new.items():
        *parents, last = key.split(".")
        node: Any = values
        for part in parents:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        node.setdefault(last, value)


def _move_marks(marks: dict[str, Mark], old: str, new: list[str]) -> None:
    """Moves the marks, so that a setting is reported where it was set."""
    for path in [*marks]:
        if path == old or path.startswith(f"{old}."):
            mark = marks.pop(path)
            for key in new:
                marks.setdefault(key + path.removeprefix(old), mark)
