"""A chat template: how a list of messages becomes one text.

    template = named("chatml")                        # one of `jaxlm/chat/templates`
    template = template_of(Path("models/qwen3"))      # of a Hugging Face folder; None: it has none
    template.text(messages, variables={"bos_token": "<s>"}, add_generation_prompt=True)

A tokenizer keeps its template, and so a run and its export do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from jaxlm.core.errors import UserError, shown, suggest

TEMPLATE, TOOL_TEMPLATE, ORIGIN = "chat_template.jinja", "chat_tools.jinja", "chat_template.origin"
TEMPLATE_FILES = (TEMPLATE, TOOL_TEMPLATE, ORIGIN)
FOLDER = Path(__file__).parent / "templates"

# The names under which a message has its reasoning; templates read the first two.
REASONING = ("reasoning_content", "thinking", "reasoning")

# The keys of a message, or of a part, that are jaxlm's and not the template's.
OWN = ("weight", "train")

Message = Mapping[str, Any]
Span = tuple[int, int]


@dataclass(frozen=True)
class ChatTemplate:
    """source: the jinja text; for_tools: that for conversations with tools, where it is another;
    origin: the name or the file that it comes from.
    """

    source: str
    origin: str = "the tokenizer's"
    for_tools: str | None = None

    def files(self) -> dict[str, bytes]:
        """Its files in a tokenizer's folder, by name."""
        files = {TEMPLATE: self.source.encode(), ORIGIN: self.origin.encode()}
        if self.for_tools is not None:
            files[TOOL_TEMPLATE] = self.for_tools.encode()
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> ChatTemplate:
        tools = files.get(TOOL_TEMPLATE)
        return cls(
            files[TEMPLATE].decode(),
            files[ORIGIN].decode(),
            None if tools is None else tools.decode(),
        )

    @property
    def marks_answers(self) -> bool:
        """Whether `{% generation %}` says what the assistant writes."""
        return "endgeneration" in self.source

    def rendered(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        variables: Mapping[str, Any],
        add_generation_prompt: bool = False,
    ) -> tuple[str, list[Span]]:
        """(text, characters within `{% generation %}`).

        variables: what the template may name besides, such as bos_token. Raises `UserError`.
        """
        from jaxlm.chat import environment  # here: most commands render nothing

        source = self.for_tools if tools and self.for_tools is not None else self.source
        given = [_completed(message) for message in messages]
        try:
            return environment.render(
                environment.compile_template(source),
                messages=environment.plain(given),
                tools=environment.plain(list(tools)) if tools else None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        except Exception as error:  # a template may fail in any way
            line = getattr(error, "lineno", None)
            where = f" (line {line})" if line else ""
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(
                f"chat template {self.origin}{where}: {reason}; correct the messages, or choose "
                "another template"
            ) from None

    def text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        variables: Mapping[str, Any],
        add_generation_prompt: bool = False,
    ) -> str:
        """The text of the messages; arguments and errors are those of `rendered`."""
        text, _ = self.rendered(
            messages,
            tools=tools,
            variables=variables,
            add_generation_prompt=add_generation_prompt,
        )
        return text

    @cached_property
    def takes_parts(self) -> bool:
        """Whether a message's content may be a list of parts; else it must be a text."""
        probe = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
        try:
            text = self.text(probe, variables={})
        except UserError:
            return False
        return "probe" in text and "'type'" not in text and '"type"' not in text

    def check(self) -> None:
        """Raises `UserError` for a source that is not a template."""
        from jaxlm.chat import environment

        for source in (self.source, self.for_tools):
            try:
                if source is not None:
                    environment.compile_template(source)
            except Exception as error:
                line = getattr(error, "lineno", "?")
                raise UserError(
                    f"chat template {self.origin}: line {line}: {error}; correct it"
                ) from None


def _completed(message: Message) -> dict[str, Any]:
    """A message as transformers gives it to a template: without None, with its reasoning under
    each of the names that templates read.
    """
    given = {key: value for key, value in message.items() if value is not None}
    reasoning = next((given[key] for key in REASONING if key in given), None)
    if reasoning is not None:
        given = {"thinking": reasoning, **given, "reasoning_content": reasoning}
    return given


def names() -> tuple[str, ...]:
    """The names of the templates that jaxlm brings."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.jinja")))


@lru_cache(maxsize=32)
def named(name: str) -> ChatTemplate:
    """The template of this name. Raises `UserError`."""
    path = FOLDER / f"{name}.jinja"
    if name not in names():
        raise UserError(f"no chat template {shown(name)}; {suggest(name, names())}")
    return ChatTemplate(path.read_text(encoding="utf-8"), name)


def from_file(path: Path) -> ChatTemplate:
    """The template in a file. Raises `UserError`."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8"
        raise UserError(f"{path}: {reason}; name a file with a jinja chat template") from None
    template = ChatTemplate(source, str(path.absolute()))
    template.check()
    return template


def template_of(folder: Path) -> ChatTemplate | None:
    """The template of a Hugging Face folder: chat_template.jinja, else that of
    tokenizer_config.json. None: the folder has none.
    """
    sources: dict[str, str] = {}
    said = _json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(said, str):
        sources["default"] = said
    elif isinstance(said, list):
        sources |= {one["name"]: one["template"] for one in said if {"name", "template"} <= {*one}}
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        sources[path.stem] = path.read_text(encoding="utf-8")
    path = folder / TEMPLATE
    if path.is_file():
        sources["default"] = path.read_text(encoding="utf-8")
    if "default" not in sources:
        return None
    return ChatTemplate(sources["default"], for_tools=sources.get("tool_use"))


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # is reported by whoever needs the file
    return values if isinstance(values, dict) else {}


def variables_of(tokenizer: Any) -> dict[str, str]:
    """The variables of a tokenizer that a template may name: bos_token, eos_token and the like."""
    ids = {name: getattr(tokenizer, f"{name}_id", None) for name in ("bos", "eos", "unk", "pad")}
    special = {i: name for name, i in tokenizer.special_tokens.items()}
    return {f"{name}_token": special[i] for name, i in ids.items() if i in special}
