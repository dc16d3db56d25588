"""Writes tests/fixtures/chat/: what transformers makes of conversations by chat templates.

    pip install transformers jinja2 tokenizers
    python tools/make_golden_chat.py

templates.json has, for each template and conversation, the text (or the reason why it is refused),
the ids and the mask of the assistant's tokens; tokenizer.json is the tokenizer of all.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import tokenizers
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "fixtures" / "chat"
SPECIAL = (
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "[gMASK]",
    "<sop>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|observation|>",
)

# Templates that are not jaxlm's own: each has something that others do not.
OTHERS = {
    # lines and indentation that trim_blocks and lstrip_blocks remove
    "lines": """{% for message in messages %}
    {% if message['role'] == 'user' %}
<|user|>
{{ message['content'] }}{{ eos_token }}
    {% elif message['role'] == 'system' %}
<|system|>
{{ message['content'] }}{{ eos_token }}
    {% else %}
<|assistant|>
{{ message['content'] }}{{ eos_token }}
    {% endif %}
    {% if loop.last and add_generation_prompt %}
<|assistant|>
    {% endif %}
{% endfor %}""",
    # strips contents, and joins two turns into a pair
    "pairs": """{{ bos_token }}{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}\
{% set note = messages[0].content.strip() %}{% else %}{% set rest = messages %}\
{% set note = false %}{% endif %}{% for message in rest %}\
{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate') }}{% endif %}\
{% if loop.first and note %}\
{% set said = '<<SYS>>\\n' + note + '\\n<</SYS>>\\n\\n' + message.content %}\
{% else %}{% set said = message.content %}{% endif %}\
{% if message.role == 'user' %}{{ '[INST] ' + said.strip() + ' [/INST]' }}\
{% else %}{{ ' ' + message.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    # drops the reasoning of earlier turns, so that prefixes do not agree
    "thoughts": """{% set ns = namespace(last=-1) %}{% for m in messages %}\
{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}\
{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}\
{% if m.role == 'assistant' and m.reasoning_content and loop.index0 > ns.last %}\
{{ '<think>\\n' + m.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}\
{% set body = m.content.split('</think>')[-1].lstrip('\\n') %}{{ body + '<|im_end|>\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    # tools as JSON, with indents and characters beyond ASCII
    "tools": """{% if tools %}{{ '<|system|>' }}{% for tool in tools %}\
{{ tool | tojson(indent=2) + '\\n' }}{% endfor %}{% endif %}{% for m in messages %}\
{{ '<|' + m.role + '|>' }}{% generation %}{{ m.content or (m.tool_calls | tojson) }}\
{{ eos_token }}{% endgeneration %}{% endfor %}""",
    # macros, break and continue
    "loops": """{% macro turn(m) %}{{ m.role | upper }}: {{ m.content | trim }}{% endmacro %}\
{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}\
{% if loop.index > 4 %}{% break %}{% endif %}{{ turn(m) }}{{ '\\n' }}{% endfor %}""",
    # contents as lists of parts
    "parts": """{% for m in messages %}{{ '<start_of_turn>' + m.role + '\\n' }}\
{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}\
{% if part.type == 'text' %}{{ part.text | trim }}{% endif %}{% endfor %}{% endif %}\
{{ '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>assistant\\n' }}{% endif %}""",
    # tags within a loop over parts of a turn, of which some are not the assistant's
    "tagged": """{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}\
{{ '<|assistant|>' }}{% generation %}{{ '\\n' + m.content | trim }}{% endgeneration %}\
{{ eos_token }}{% else %}{{ '<|' + m.role + '|>\\n' + m.content | trim }}{% endif %}{% endfor %}""",
}  # fmt: skip

USER, SAID = {"role": "user"}, {"role": "assistant"}
TOOL = {
    "type": "function",
    "function": {
        "name": "wetter",
        "description": "Das Wetter in <Stadt> – \u00fcberall",
        "parameters": {"type": "object", "properties": {"stadt": {"type": "string"}}},
    },
}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one": {"messages": [{**USER, "content": "Hi"}, {**SAID, "content": "Hello there."}]},
    "system": {
        "messages": [
            {"role": "system", "content": "Be kind. "},
            {**USER, "content": " What is 2 + 2?\n"},
            {**SAID, "content": "\n4 "},
            {**USER, "content": "And 3 \u00d7 3?"},
            {**SAID, "content": "9, na\u00efvely \U0001f642\n\n"},
        ]
    },
    "asked": {
        "messages": [
            {**USER, "content": "user"},
            {**SAID, "content": "assistant"},
            {**USER, "content": "assistant\n"},
        ],
        "add_generation_prompt": True,
    },
    "thinking": {
        "messages": [
            {**USER, "content": "a"},
            {**SAID, "content": "<think>\nhm\n</think>\n\nb", "reasoning_content": "hm"},
            {**USER, "content": "c"},
            {**SAID, "content": "d", "reasoning_content": "\nwell\n"},
        ]
    },
    "calls": {
        "messages": [
            {**USER, "content": "Wetter in K\u00f6ln?"},
            {
                **SAID,
                "content": "",
                "tool_calls": [
                    {
                        "type": "function",
                        "function": {"name": "wetter", "arguments": {"stadt": "K\u00f6ln"}},
                    }
                ],
            },
            {"role": "tool", "content": "12 \u00b0C"},
            {**SAID, "content": "12 Grad."},
        ],
        "tools": [TOOL],
    },
    "twice": {"messages": [{**USER, "content": "a"}, {**USER, "content": "b"}]},
}


def main() -> None:
    tokenizer = make_tokenizer()
    folder = ROOT / "jaxlm" / "chat" / "templates"
    own = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
    cases = [
        case(tokenizer, name, source, title, given)
        for name, source in {**own, **OTHERS}.items()
        for title, given in CONVERSATIONS.items()
    ]
    OUT.mkdir(parents=True, exist_ok=True)
    sources = {"own": sorted(own), "others": OTHERS, "conversations": CONVERSATIONS}
    content = {**sources, "cases": [one for one in cases if one is not None]}
    (OUT / "templates.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(content['cases'])} cases")


def make_tokenizer() -> PreTrainedTokenizerFast:
    texts = [json.dumps(CONVERSATIONS, ensure_ascii=False), *OTHERS.values()] * 3
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    library.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    OUT.mkdir(parents=True, exist_ok=True)
    library.save(str(OUT / "tokenizer.json"), pretty=False)
    return PreTrainedTokenizerFast(
        tokenizer_file=str(OUT / "tokenizer.json"),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def case(
    tokenizer: Any, name: str, source: str, title: str, given: dict[str, Any]
) -> dict[str, Any]:
    """The output of transformers: text, ids, and the mask where the template has the tag."""
    messages = given["messages"]
    how = {key: value for key, value in given.items() if key != "messages"}
    found: dict[str, Any] = {"template": name, "conversation": title}
    try:
        text = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **how)
    except Exception as error:
        return {**found, "refused": str(error)}
    tags = re.search(r"\{%-?\s*generation", source) is not None
    encoded = tokenizer.apply_chat_template(
        messages,
        chat_template=source,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=tags,
        **how,
    )
    found |= {"text": text, "ids": encoded["input_ids"]}
    return {**found, "mask": encoded["assistant_masks"]} if tags else found


if __name__ == "__main__":
    main()
