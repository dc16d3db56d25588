"""What is added to XLA_FLAGS for simulated CPU devices, and what is left as the user has it."""

from __future__ import annotations

import os

import pytest

from jaxlm.distributed.xla_flags import ORDERED, order_collectives, order_simulated

EIGHT = "--xla_force_host_platform_device_count=8"
ONE = "--xla_force_host_platform_device_count=1"
OTHER = "--xla_cpu_multi_thread_eigen=false"
NAME = ORDERED.partition("=")[0]


@pytest.fixture(autouse=True)
def _nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")  # so that it is put back, whatever is added
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("given", "own", "expected"),
    [
        (EIGHT, None, f"{EIGHT} {ORDERED}"),
        (f" {OTHER} {EIGHT} ", None, f"{OTHER} {EIGHT} {ORDERED}"),
        (EIGHT.replace("8", "'8'"), None, f"{EIGHT.replace('8', repr('8'))} {ORDERED}"),
        (f"{ONE} {EIGHT}", None, f"{ONE} {EIGHT} {ORDERED}"),  # the last one counts
        (f"{EIGHT} {ONE}", None, f"{EIGHT} {ONE}"),
        (ONE, None, ONE),
        (OTHER, None, OTHER),
        (None, None, None),
        (None, "2", ORDERED),  # jax's own variable goes before the flag
        (OTHER, "2", f"{OTHER} {ORDERED}"),
        (ONE, "2", f"{ONE} {ORDERED}"),
        (EIGHT, "1", EIGHT),
        (EIGHT, "-1", f"{EIGHT} {ORDERED}"),  # which is jax's word for: not said
        (None, "1", None),
    ],
)
def test_what_is_added(
    monkeypatch: pytest.MonkeyPatch, given: str | None, own: str | None, expected: str | None
) -> None:
    for name, value in (("XLA_FLAGS", given), ("JAX_NUM_CPU_DEVICES", own)):
        if value is not None:
            monkeypatch.setenv(name, value)
    for _ in range(2):  # a verb sees to it, and then the start of its processes
        order_simulated()
        assert os.environ.get("XLA_FLAGS") == expected


@pytest.mark.parametrize(
    "given", [f"{EIGHT} {NAME}=true", f"{NAME}=false {EIGHT}", f"{NAME} {EIGHT}", "/some/flags.txt"]
)
def test_what_a_user_says_is_kept(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """Also a file of flags, which is XLA_FLAGS' other form: nothing can be added to its name."""
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    order_simulated()
    order_collectives()
    assert os.environ["XLA_FLAGS"] == given
