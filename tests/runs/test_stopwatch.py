"""The account of wall time, against a clock that the test turns by hand."""

from __future__ import annotations

import random

import pytest

from jaxlm.runs.stopwatch import CATEGORIES, Stopwatch, percentages


class Clock:
    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


def test_inner_time_is_taken_out_of_the_outer():
    clock = Clock()
    watch = Stopwatch(clock)
    clock.pass_(1)
    with watch("step"):
        clock.pass_(2)
        with watch("eval"):
            clock.pass_(4)
            with watch("save"):
                clock.pass_(8)
            clock.pass_(16)
        clock.pass_(32)
    clock.pass_(64)
    expected = dict.fromkeys(CATEGORIES, 0.0) | {"other": 65, "step": 34, "eval": 20, "save": 8}
    assert watch.seconds() == expected
    assert watch.total == 127


def test_an_open_block_counts_up_to_now():
    clock = Clock()
    watch = Stopwatch(clock)
    with watch("compile"):
        clock.pass_(3)
        assert watch.seconds()["compile"] == 3
        clock.pass_(2)
    assert watch.seconds()["compile"] == 5


def test_an_exception_closes_its_block():
    clock = Clock()
    watch = Stopwatch(clock)
    with pytest.raises(RuntimeError), watch("step"):
        clock.pass_(1)
        raise RuntimeError
    clock.pass_(5)
    assert watch.seconds()["step"] == 1
    assert watch.seconds()["other"] == 5


def test_categories_sum_to_wall_time_exactly_over_processes(tmp_path):
    clock, rng = Clock(), random.Random(0)
    wall = 0
    watch = Stopwatch(clock)
    for process in range(4):
        began = clock.now
        for _ in range(200):
            clock.now += rng.randrange(10**9)
            with watch(rng.choice(CATEGORIES)):
                clock.now += rng.randrange(10**9)
                with watch(rng.choice(CATEGORIES)):
                    clock.now += rng.randrange(10**9)
        wall += clock.now - began
        watch.save(tmp_path)
        clock.pass_(1000)  # between processes: nobody's time
        watch = Stopwatch.load(tmp_path, clock)
        assert watch.processes == process + 2
    assert sum(watch.to_dict()["nanoseconds"].values()) == wall
    assert round(sum(watch.shares().values()), 6) == 100


def test_laps_count_from_the_last_lap():
    clock = Clock()
    watch = Stopwatch.from_dict({"nanoseconds": {"data": 5 * 10**9}, "processes": 1}, clock)
    with watch("data"):
        clock.pass_(1)
    assert watch.lap()["data"] == 1
    with watch("data"):
        clock.pass_(2)
    assert watch.lap()["data"] == 2
    assert watch.seconds()["data"] == 8


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"nanoseconds": 3}', "null"])
def test_an_unreadable_account_starts_from_zero(tmp_path, text):
    if text is not None:
        (tmp_path / "timing.json").write_text(text)
    watch = Stopwatch.load(tmp_path, Clock())
    assert watch.total == 0
    assert watch.processes == 1


def test_an_unknown_category_is_a_mistake_of_the_program():
    with pytest.raises(AssertionError, match="no category 'evaluate'"), Stopwatch()("evaluate"):
        pass


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9, 30])
def test_rounded_percentages_sum_to_100(count):
    rng = random.Random(count)
    for decimals in (0, 1, 2):
        parts = {str(i): rng.random() ** 4 for i in range(count)}
        rounded = percentages(parts, decimals)
        assert round(sum(rounded.values()), 6) == 100
        total = sum(parts.values())
        for name, part in parts.items():
            assert abs(rounded[name] - 100 * part / total) < 10**-decimals
    assert percentages({"a": 1, "b": 1, "c": 1}) == {"a": 33.4, "b": 33.3, "c": 33.3}
    assert percentages({"a": 0}) == {"a": 0.0}
