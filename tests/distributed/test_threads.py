"""The threads of programs on a CPU: what is set, and what is left as the user has it."""

from __future__ import annotations

import os

import pytest

from jaxlm.distributed.threads import VARIABLE, limit_threads


@pytest.fixture(autouse=True)
def _nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that it is put back
    monkeypatch.delenv(VARIABLE)


def test_a_number_that_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_threads(1)
    assert os.environ[VARIABLE] == "1"
    monkeypatch.setenv(VARIABLE, "3")
    limit_threads(1)
    assert os.environ[VARIABLE] == "3"
