"""A commented config for one's own texts or table: sizes follow from what the files hold.

text = starter(detect(["my/*.txt"]), "my")
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from jaxlm.core.errors import few, printable
from jaxlm.data.detect import Found, source_of


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The settings that the amount of text decides."""

    tokenizer: str
    tokens: int
    seq_len: int
    hidden_size: int
    num_layers: int
    num_heads: int
    batch_size: int


def sizes_of(found: Found) -> Sizes:
    """Sizes with which a model trains in minutes on a few CPU cores, and learns from its text."""
    wide, chars = found.is_wide, found.num_chars
    by_character = chars < (2_000_000 if wide else 300_000)
    vocab = 8192 if wide or chars > 20_000_000 else 2048
    tokenizer = (
        "{type: characters}" if by_character else f"{{type: sentencepiece, vocab_size: {vocab}}}"
    )
    tokens = max(1, int(chars / (1 if by_character else 1.5 if wide else 3)))
    if found.label_column is None and found.start is None:
        seq_len = _power(tokens / 16, 8, 256)
    else:  # a row holds a text; a token may be one character
        least, added = (64, 24) if found.start else (16, 2)  # tokens that a template adds
        seq_len = _power(2 * (added + found.long_text * tokens / max(1, chars)), least, 512)
    hidden, layers, heads = next(
        sizes
        for most, sizes in (
            (300_000, (128, 3, 4)),
            (5_000_000, (192, 4, 6)),
            (math.inf, (384, 6, 6)),
        )
        if tokens < most
    )
    return Sizes(
        tokenizer=tokenizer,
        tokens=tokens,
        seq_len=seq_len,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        batch_size=32 if found.label_column else max(8, min(32, 2048 // seq_len)),
    )


def _power(value: float, least: int, most: int) -> int:
    """The largest power of 2 that is not above `value`, within limits."""
    return max(least, min(most, 2 ** int(math.log2(max(1.0, value)))))


def summary(found: Found) -> list[str]:
    """The files found and the settings chosen, in lines."""
    sizes = sizes_of(found)
    many = "record" if found.start else "row" if found.columns else "file"
    many += "s" if found.num_texts != 1 else ""
    lines = [
        f"found: {found.num_texts:,} {many} ({found.kind}, {found.encoding}), "
        f"{found.num_chars:,} characters, mostly {found.script} script"
    ]
    if found.format:
        lines.append(f"format: {found.format}")
    if found.text_column:
        why = " (the files have no header line)" if found.header else ""
        lines.append(f"columns: {few(found.columns)}{why}; the text is {found.text_column!r}")
    if found.start:
        lines.append(f"task: {found.start.about}")
    elif found.label_column:
        lines.append(
            f"task: classification by {found.label_column!r} ({len(found.classes)} classes: "
            f"{few(found.classes, 5)})"
        )
    else:
        lines.append("task: a language model, which learns to continue the text")
    lines.append(
        f"model: a Transformer of {sizes.num_layers} layers of size {sizes.hidden_size}; "
        f"about {sizes.tokens:,} tokens, rows of {sizes.seq_len}"
    )
    return lines


def starter(found: Found, name: str) -> str:
    """The YAML of a run."""
    sizes, name = sizes_of(found), printable(name)
    head = "\n".join(f"# {line}" for line in summary(found))
    make = _records if found.start else _classifier if found.label_column else _language_model
    body = make(found, sizes)
    return f"""\
# Made by `jaxlm init`. Train it: jaxlm train {name}
# Every setting and what it may be: jaxlm config show {name} --all
#
{head}
seed: 1
tokenizer: {sizes.tokenizer}
{body}"""


def _source(found: Found) -> str:
    source: dict[str, Any] = source_of(found)
    if found.separator is not None:
        source["document_separator"] = found.separator
    lines = [f"    {key}: {_yaml(value)}" for key, value in source.items()]
    return "\n".join(["  source:  # paths are relative to the folder that jaxlm runs in", *lines])


def _yaml(value: Any) -> str:
    """A text or a list of texts in one line of YAML, of which JSON is a part."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def _language_model(found: Found, sizes: Sizes) -> str:
    passes = 10 if sizes.tokens < 1_000_000 else 3 if sizes.tokens < 10_000_000 else 1
    a_step = sizes.batch_size * sizes.seq_len
    steps = max(100, min(2000, passes * sizes.tokens // a_step))
    whole = found.num_texts < 2 and found.separator is None
    fraction = 0 if whole else 0.1
    held = (
        "nothing is held out: this is one text; name another file in `validation: {...}`"
        if whole
        else "share of the texts that is held out and measured"
    )
    every = max(10, steps // 5)
    return f"""\
data:
  type: text
{_source(found)}
  validation_fraction: {fraction}  # {held}
  split_by: text  # equal texts are on the same side
  seq_len: {sizes.seq_len}  # tokens in a row: the model's context
model:
  type: transformer
  hidden_size: {sizes.hidden_size}  # larger learns more and is slower
  num_layers: {sizes.num_layers}
  attention: {{num_heads: {sizes.num_heads}, num_kv_heads: {sizes.num_heads // 2}}}
  dropout: 0.1  # more of it for little text
objective: {{type: causal_lm}}  # predict the next token
optimizer:
  type: muon
  learning_rate: 1.0e-2
  schedule: {{type: wsd, warmup: 0.05, decay: 0.6}}
  weight_decay: 0.1
train:
  steps: {steps}  # about {steps * a_step / sizes.tokens:.2g} passes over the text
  batch_size: {sizes.batch_size}
eval: {{every_steps: {every}, max_batches: 8}}
sample:
  every_steps: {every}
  prompts: [{_yaml(found.opening)}]  # texts to continue
  max_tokens: {min(100, sizes.seq_len)}
checkpoint: {{every_steps: {every}}}
"""


def _classifier(found: Found, sizes: Sizes) -> str:
    epochs = 10 if found.num_texts < 2000 else 5 if found.num_texts < 20_000 else 3
    return f"""\
data:
  type: records
{_source(found)}
  task: {{type: classification}}
  validation_fraction: 0.2  # share of the rows that is held out and measured
  seq_len: {sizes.seq_len}  # tokens of a text; longer ones lose their end
model:
  type: transformer
  hidden_size: {sizes.hidden_size}
  num_layers: {sizes.num_layers}
  attention: {{num_heads: {sizes.num_heads}, num_kv_heads: {sizes.num_heads}, is_causal: false}}
  dropout: 0.2  # more of it for little text
objective: {{type: classification, head: {{pool: mean, dropout: 0.3}}}}
optimizer:
  type: adamw
  learning_rate: 1.0e-3
  schedule: {{type: linear, warmup: 0.1}}
  weight_decay: 0.1
train: {{epochs: {epochs}, batch_size: {sizes.batch_size}}}
eval: {{every_steps: 100}}
checkpoint: {{every_steps: 100}}
# To start from a trained model instead, remove tokenizer and the sizes of model, and run
#   jaxlm finetune CONFIG init.from=RUN_DIR
"""


def _records(found: Found, sizes: Sizes) -> str:
    start = found.start
    assert start is not None
    epochs = 10 if found.num_texts < 2000 else 5 if found.num_texts < 20_000 else 3
    heads = sizes.num_heads
    return f"""\
data:
  type: records
{_source(found)}
  task: {start.task}
  validation_fraction: 0.2  # share of the records that is held out and measured
  seq_len: {sizes.seq_len}  # tokens of a row
model:
  type: transformer
  hidden_size: {sizes.hidden_size}
  num_layers: {sizes.num_layers}
  attention: {{num_heads: {heads}, num_kv_heads: {heads}, is_causal: {json.dumps(start.is_causal)}}}
  dropout: 0.1  # more of it for few records
objective: {start.objective}
optimizer:
  type: adamw
  learning_rate: 1.0e-3
  schedule: {{type: linear, warmup: 0.1}}
  weight_decay: 0.1
train: {{epochs: {epochs}, batch_size: {sizes.batch_size}}}
eval: {{every_steps: 100}}
checkpoint: {{every_steps: 100}}
# To start from a trained model instead, remove tokenizer and the sizes of model, and run
#   jaxlm finetune CONFIG init.from=RUN_DIR
"""
