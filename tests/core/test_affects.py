"""What a change of each field means: on resume, and for the compiled step."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from jaxlm.core import registry
from jaxlm.core.config import (
    ALLOWED,
    LOGGED,
    UNTRACED,
    Config,
    affects_of,
    allowed_paths,
    field,
    key_of,
    traced_values,
    without,
)
from jaxlm.run import RunConfig

# Fields by path, and by class where a part is meant. Each list is complete: all other fields of the
# shipped classes mean another run, and the compiled step is traced from them.
MAY_DIFFER = {
    "run_dir",
    "cache_dir",
    "mesh",
    "eval",
    "evaluators",
    "sample",
    "checkpoint",
    "logging",
    "profile",
    "callbacks",
    *(f"train.{n}" for n in ("prefetch", "data_threads", "data_workers")),
    *(f"train.{n}" for n in ("compiled", "hang_timeout", "ledger")),
}
PARTS_MAY_DIFFER = {"Ngram.memory"}
ADJUSTABLE = {
    "train.steps",
    "train.max_bad_steps",
    "train.rollback",
    "early_stop",
    "optimizer.learning_rate",
    "optimizer.schedule",
    "optimizer.clip_norm",
    "optimizer.weight_decay",
    "optimizer.lr_groups",
    "optimizer.layer_decay",
    "optimizer.unfreeze",
    "model.dtype",
    "model.encoder.dtype",
}
NOT_TRACED = {
    "tokenizer",
    "data",
    "init",
    "run_dir",
    "cache_dir",
    "eval",
    "evaluators",
    "early_stop",
    "sample",
    "checkpoint",
    "logging",
    "profile",
    "callbacks",
    *(f"train.{n}" for n in ("epochs", "prefetch", "data_threads", "data_workers", "xla")),
    *(f"train.{n}" for n in ("max_bad_steps", "rollback", "compiled", "hang_timeout", "ledger")),
    *(f"mesh.{n}" for n in ("data", "fsdp", "tensor", "context", "expert", "stage")),
    *(f"mesh.{n}" for n in ("dcn", "num_devices", "topology")),
    *(f"TransformerConfig.{n}" for n in ("prompt", "family")),
    "RNNSeq2SeqConfig.prompt",
    *(f"{kind}.{n}" for kind in ("SkipGram", "CBOW") for n in ("power", "sample")),
    "Ngram.memory",
    "EncodeSource.start_id",
    "FillBlank.start_id",
    "FillBlank.blank_ids",
    "Chat.system",
    "Chat.functions",
    "Chat.texts",
    *(f"Source.{n}" for n in ("prefix", "separator", "max_source", "cut")),
    *(f"Seq2Seq.{n}" for n in ("start", "source_share")),
    *(f"MaskedLM.{n}" for n in ("rate", "masked", "random", "whole_words", "mask")),
    *(f"SpanCorruption.{n}" for n in ("density", "mean_span", "sentinels", "start")),
    "SpanCorruption.multiple_of",
    *(f"BlankInfilling.{n}" for n in ("density", "mean_span", "long_rows", "mask", "answers")),
    *(f"BlankInfilling.{n}" for n in ("long_mask", "start", "end", "multiple_of")),
}


def below(hint: object) -> list[type[Config]]:
    """The config classes that a value of a type may be of; not what its elements are."""
    if isinstance(hint, type) and issubclass(hint, Config):
        if not registry.is_base(hint):
            return [hint]
        return [registry.find(hint, name) for name in registry.names(hint)]
    return [cls for arg in typing.get_args(hint) for cls in below(arg)]


def effects(cls: type[Config], path: str, outer: frozenset, seen: frozenset):
    """(names, effects) of every field below: its path, "Class.field", and all on its way."""
    hints = typing.get_type_hints(cls)
    for spec in dataclasses.fields(cls):
        here = f"{path}.{key_of(spec)}" if path else key_of(spec)
        found = outer | {affects_of(cls, spec.name)}
        yield {here, f"{cls.__name__}.{spec.name}"}, found
        for part in below(hints[spec.name]):
            if part not in seen:
                yield from effects(part, here, found, seen | {part})


def test_every_shipped_field_means_what_the_lists_say():
    count = 0
    for names, found in effects(RunConfig, "", frozenset(), frozenset()):
        (path,) = (name for name in names if name[0].islower())
        parents = {path[:i] for i, c in enumerate(path) if c == "."} | names
        assert bool(found & set(ALLOWED)) == bool(parents & (MAY_DIFFER | PARTS_MAY_DIFFER)), path
        if not found & set(ALLOWED):
            assert bool(found & set(LOGGED)) == bool(parents & ADJUSTABLE), path
        assert bool(found & set(UNTRACED)) == bool(parents & NOT_TRACED), (names, found)
        count += 1
    assert count > 300
    assert set(allowed_paths(RunConfig)) == MAY_DIFFER


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Config):
    size: int = field(1, "a size")
    threads: int = field(2, "threads", affects="run")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base(Config):
    rate: float = field(0.1, "a rate", affects="schedule")
    required: int = field(dataclasses.MISSING, "a number", affects="host")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derived(Base):
    rate: float = field(0.2, "a rate with another default")
    inner: Inner = field(Inner, "one")
    inners: tuple[Inner, ...] = field((), "several")


def test_a_field_with_another_default_keeps_its_meaning():
    assert affects_of(Derived, "rate") == "schedule"
    assert affects_of(Derived, "inner") == "weights"


def test_without_reaches_every_depth():
    config = Derived(rate=9, required=1, inner=Inner(threads=8), inners=(Inner(threads=8, size=3),))
    assert without(config, ("run",)) == config.replace(inner=Inner(), inners=(Inner(size=3),))
    assert without(config, ("host", "schedule")) == config.replace(rate=0.2, required=None)
    assert traced_values(config)["inner"] == {"size": 1}
    assert set(traced_values(config)) == {"rate", "inner", "inners"}


@pytest.mark.parametrize("bad", ["weight", ""])
def test_an_unknown_meaning_is_found_by_the_programmer(bad):
    with pytest.raises(AssertionError):
        field(1, "a number", affects=bad)
