"""Texts, ids and masks equal those of transformers (tools/make_golden_chat.py)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from jaxlm.chat.rendering import Renderer
from jaxlm.chat.template import ChatTemplate, named, names, variables_of
from jaxlm.chat.tokens import token_weights, tokenise
from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers.huggingface import HuggingFace

FOLDER = Path(__file__).parents[1] / "fixtures" / "chat"
GOLDEN = json.loads((FOLDER / "templates.json").read_text(encoding="utf-8"))
CASES = {f"{case['template']}-{case['conversation']}": case for case in GOLDEN["cases"]}


@cache
def tokenizer():
    config = HuggingFace(path=str(FOLDER / "tokenizer.json"), bos="<s>", eos="</s>", pad="<pad>")
    return config.build(lambda: iter(()), "", FOLDER)


def template_of(name: str) -> ChatTemplate:
    return ChatTemplate(GOLDEN["others"][name], name) if name in GOLDEN["others"] else named(name)


def test_the_fixture_has_every_template() -> None:
    assert tuple(GOLDEN["own"]) == names()
    assert len(CASES) > 70 and sum("mask" in case for case in CASES.values()) > 40


@pytest.mark.parametrize("name", CASES)
def test_text_ids_and_mask_are_those_of_transformers(name) -> None:
    case = CASES[name]
    given = GOLDEN["conversations"][case["conversation"]]
    messages, tools = given["messages"], given.get("tools")
    template = template_of(case["template"])
    asks = given.get("add_generation_prompt", False)
    how = {"tools": tools, "variables": variables_of(tokenizer()), "add_generation_prompt": asks}
    if "refused" in case:
        with pytest.raises(UserError, match=f"^chat template {template.origin}.*: [^\n]+$"):
            template.text(messages, **how)
        return
    text, spans = template.rendered(messages, **how)
    assert text == case["text"]
    ids, places = tokenise(tokenizer(), text, [])
    assert ids == case["ids"]
    if "mask" in case:
        weights = np.zeros(len(text), np.float32)
        for start, end in spans:
            weights[start:end] = 1
        assert token_weights(weights, places).tolist() == case["mask"]


@pytest.mark.parametrize(
    "name", [n for n, case in CASES.items() if "mask" in case and case["conversation"] != "asked"]
)
def test_a_rendering_trains_what_transformers_marks(name) -> None:
    case = CASES[name]
    given = GOLDEN["conversations"][case["conversation"]]
    renderer = Renderer(template_of(case["template"]), tokenizer())
    if case["conversation"] == "calls" and case["template"] not in ("qwen", "tools"):
        with pytest.raises(UserError, match="does not write the call of 'wetter' in message 1"):
            renderer.render(given["messages"], given.get("tools"))
        return
    rendering = renderer.render(given["messages"], given.get("tools"))
    ids, places = tokenise(tokenizer(), rendering.text, rendering.written)
    assert ids == case["ids"]
    assistant = np.zeros(len(rendering.text), bool)
    if case["template"] == "tools":  # its tags are around other roles too
        roles = np.array([*rendering.roles, ""])[rendering.messages]
        assistant = roles == "assistant"
        expected = (assistant[np.array(places)[:, 0]] & np.array(case["mask"], bool)).astype(int)
        assert token_weights(rendering.weights, places).tolist() == expected.tolist()
    else:
        assert token_weights(rendering.weights, places).tolist() == case["mask"]
