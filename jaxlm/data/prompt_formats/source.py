"""A prompt is a source, and what is written is its target: a translation, a summary.

    prompt      Save the file.
    encoder     prefix Save the file. </s>          or, where source and target are one text,
    read        prefix Save the file. separator
    new text                                    Speichern Sie die Datei. </s>

A prompt has the ids of a source in training (`jaxlm.tasks.sources`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxlm.core.config import UserError, field
from jaxlm.data.prompt_formats.base import Ends
from jaxlm.data.prompt_formats.continuation import Continuation
from jaxlm.data.reading.text import check_characters
from jaxlm.tasks.base import NO_LIMIT
from jaxlm.tasks.sources import SourceForm

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Source(Continuation):
    """The prompt is a source, and new text is its target."""

    prefix: str = field("", "text before each source", affects="host")
    separator: str | None = field(
        None, "text after the source; null: an encoder reads it", affects="host"
    )
    max_source: int | None = field(
        None, "tokens of a source; null: any number", ge=2, affects="host"
    )
    cut: bool = field(False, "a longer source loses its end; false: is an error", affects="host")

    def encode(self, tokenizer: Tokenizer, text: str, ends: Ends) -> list[int]:
        check_characters(text, "prompt")
        form = SourceForm(self.prefix, self.separator, ends.bos, ends.eos)
        ids = form.ids(tokenizer, text)
        room = self.max_source or NO_LIMIT
        if len(ids) <= room:
            return ids
        if not self.cut:
            raise UserError(
                f"prompt: has {len(ids)} tokens, and a source had room for {room} in training; "
                "shorten it, or set data.task.too_long to cut"
            )
        return form.ids(tokenizer, text, room)
