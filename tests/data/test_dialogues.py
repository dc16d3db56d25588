"""Dialogues of a package as conversations."""

from __future__ import annotations

import pytest

from jaxlm.core.config import UserError
from jaxlm.data.sources import dialogues
from jaxlm.data.sources.dialogues import Dialogues

GOOD = """categories: [a]
conversations:
- - Hello
  - Hi
  - How are you?
- - 2 + 2?
  - 4
- - Nobody answers
-
"""


def test_turns_are_users_and_assistants(monkeypatch) -> None:
    members = {"a.yml": GOOD.encode(), "b.yml": b"- 1"}
    monkeypatch.setattr(dialogues, "package_members", lambda *_: members)
    source = Dialogues(requirement="a==1", sha256="0" * 64, files=("*.yml",))
    first, second = source.units()
    counts: dict = dialogues.Counter()
    found = list(first.records(("messages",), counts))
    assert [name for name, _ in found] == ["a.yml:0", "a.yml:1"] and counts["unanswered"] == 2
    texts = [[(m["role"], m["content"]) for m in record["messages"]] for _, record in found]
    assert texts == [
        [("user", "Hello"), ("assistant", "Hi")],
        [("user", "2 + 2?"), ("assistant", "4")],
    ]
    assert [d.text for d in first.documents()] == ["Hello\nHi\n", "2 + 2?\n4\n"]
    with pytest.raises(
        UserError, match="^a==1: b.yml: has no list `conversations` in YAML; [^\n]*$"
    ):
        list(second.records(("messages",)))
    with pytest.raises(UserError, match="no column 'text': dialogues have messages"):
        list(first.records(("text",)))
