"""A tokenizer.json with regular expressions is tried in a process of its own before it is used.

    try_out(content)        # raises UserError

A pattern such as (a+)+$ takes exponential time for some texts. The tokenizers library then panics
after ten million retries at one place, which Python cannot catch as an Exception, or is busy for
hours where each place takes a little less. Nothing can stop the library from outside, and whether a
pattern is of this kind cannot be read off it: nested quantifiers are common in good patterns, and
(a|aa)+$ has none. So texts that are hard for the file's own characters are encoded, by a process
that has a limit of `CPU_SECONDS`. A pattern that is slow for other texts only is not found here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from jaxlm.core.config import UserError

CPU_SECONDS = 10
WALL_SECONDS = 300  # on a machine that is busy with other work
MOST_CHARACTERS = 64  # of the patterns, that texts are made of

# Runs by itself, without jaxlm: it is started once for each file.
CHILD = """
import json, resource, sys
import tokenizers
seconds = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
given = json.load(sys.stdin)
tokenizer = tokenizers.Tokenizer.from_str(given["content"])
for text in given["texts"]:
    try:
        tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids)
    except BaseException as error:
        print(json.dumps([text, str(error)]))
        break
"""


def try_out(content: bytes) -> None:
    """Raises `UserError` where a regular expression of a tokenizer.json does not do."""
    if b'"Regex"' not in content:
        return
    try:
        text = content.decode("utf-8")
        patterns = "".join(_patterns(json.loads(text)))
    except (ValueError, RecursionError):
        return  # is reported by whoever parses it
    job = json.dumps({"content": text, "texts": list(_texts(patterns))})
    command = [sys.executable, "-c", CHILD, str(CPU_SECONDS)]
    try:
        done = subprocess.run(
            command, input=job, capture_output=True, text=True, timeout=WALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _refused(f"takes more than {WALL_SECONDS} s for a short text") from None
    if done.returncode < 0:
        raise _refused(f"takes more than {CPU_SECONDS} s for a short text")
    if done.stdout:
        failed, reason = json.loads(done.stdout)
        raise _refused(f"fails for a text that begins with {failed[:4]!r} ({reason[:200]})")


def _refused(what: str) -> UserError:
    return UserError(
        f"a regular expression of its normalizer, pre_tokenizer or decoder {what}; "
        "write it without nested or overlapping repeats"
    )


def _patterns(value: Any) -> Iterator[str]:
    """The regular expressions of a tokenizer.json."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "Regex" and isinstance(inner, str):
                yield inner
            elif key not in ("model", "added_tokens"):
                yield from _patterns(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _patterns(inner)


def _texts(patterns: str) -> Iterator[str]:
    """Runs of one character that end in another: what such a pattern backtracks over.

    All characters come after them, as no place is tried where a text lacks one that must be there.
    """
    characters = "".join(dict.fromkeys("aA0 \n.'_\u00e9\u4e00" + patterns))[:MOST_CHARACTERS]
    for run in (*characters, "a ", "a\n", "aA", "a0", "a'", "ab"):
        for end in ("!", "\x01"):
            yield run * (64 // len(run)) + end + characters
