"""What tests start as processes: a fork has the variables of its command, and no others."""

from __future__ import annotations

import pytest

from tests.programs import run_programs

NAME = "JAX_TRACEBACK_IN_LOCATIONS_LIMIT"  # conftest.py sets it
SHOWN = f"import jax, os; print(os.environ.get({NAME!r}), jax.config.values[{NAME.lower()!r}])"


def test_a_variable_that_a_command_lacks_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, outputs = run_programs(SHOWN, [[], []], [{}, {NAME: "3"}])
    assert codes == [0, 0] and outputs == ["0 0\n", "3 3\n"]
    monkeypatch.delenv(NAME)
    codes, (plain,) = run_programs(SHOWN, [[]], [{}])
    name, default = plain.split()
    assert codes == [0] and name == "None" and int(default) > 3
