"""Bytes of a file as checked text, documents and lines. No reader holds more than it must.

Text is decoded strictly: a byte that does not belong is an error with the file and the byte's
offset, never a replacement character. Line ends are kept as they are.

    with open_file(Path("corpus.txt.zst")) as file:
        for text in split_documents(decode(file, "corpus.txt.zst"), "<|endoftext|>"):
            ...
"""

from __future__ import annotations

import codecs
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.data.reading.compressed import read_blocks

MAX_DOCUMENT_CHARS = 1 << 28  # of one document, by default
WIDE = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")  # scripts whose characters are syllables or words


def decode(file: IO[bytes], where: str, encoding: str = "utf-8") -> Iterator[str]:
    """Pieces of the file's text, without a leading byte order mark.

    Raises `UserError` for a NUL (a binary file) and for bytes that are not `encoding`.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    done = 0
    for block in itertools.chain(read_blocks(file, where), [b""]):
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _undecodable(where, encoding, block, done - held + error.start, error) from None
        if "\0" in text:
            raise _binary(where, block)
        if text:
            yield text if done else text.removeprefix("\ufeff")
        done += len(block)


_MARKS = (  # byte order marks; that of utf-32 begins with that of utf-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _binary(where: str, block: bytes) -> UserError:
    if encoding := _wide_encoding(block):
        return UserError(f"{where}: is {encoding.upper()} text; set encoding: {encoding}")
    return UserError(f"{where}: a binary file (it holds NUL bytes); name text files only")


def _wide_encoding(block: bytes) -> str | None:
    """The encoding of text in units of 2 or 4 bytes; None for anything else."""
    for mark, encoding in _MARKS:
        if block.startswith(mark):
            return encoding
    # Without a mark, text with mostly Latin characters has a NUL in every second byte.
    head = block[:4096]
    for encoding, zero in (("utf-16-le", 1), ("utf-16-be", 0)):
        nul, other = head[zero::2], head[1 - zero :: 2]
        if nul and nul.count(0) > 0.7 * len(nul) and other.count(0) == 0:
            return encoding
    return None


def _undecodable(
    where: str, encoding: str, block: bytes, offset: int, error: UnicodeDecodeError
) -> UserError:
    if b"\0" in block and not encoding.lower().startswith(("utf-16", "utf-32", "utf16", "utf32")):
        return _binary(where, block)
    if wide := _wide_encoding(block):
        return UserError(f"{where}: is {wide.upper()} text, not {encoding}; set encoding: {wide}")
    byte = f"0x{error.object[error.start]:02x}"
    probable = "this looks like gb18030" if _is_gb18030(block) else "old files are often latin-1"
    return UserError(
        f"{where}: byte {byte} at offset {offset} is not {encoding} ({error.reason}); "
        f"convert the file to UTF-8, or set the source's encoding ({probable})"
    )


def _is_gb18030(block: bytes) -> bool:
    """Whether bytes that begin a file are Chinese text in GB18030, GBK or GB2312."""
    try:
        text = codecs.getincrementaldecoder("gb18030")("strict").decode(block)
    except UnicodeDecodeError:
        return False
    return are_wide(Counter(filter(str.isalpha, text)))


def are_wide(letters: Counter[str]) -> bool:
    """Whether letters are of scripts whose characters are syllables or words: more than a third,
    which pairs of Latin-1's bytes are not.
    """
    wide = sum(number for char, number in letters.items() if script_of(char) in WIDE)
    return wide > letters.total() / 3


def script_of(char: str) -> str:
    return unicodedata.name(char, "?").partition(" ")[0]


def split_documents(
    pieces: Iterable[str],
    separator: str | None,
    where: str = "text",
    most: int = MAX_DOCUMENT_CHARS,
) -> Iterator[str]:
    """The documents between separators, which are dropped; the whole text without a separator.

    Raises `UserError` for a document of more than `most` characters, before it is read to its end.
    """
    rest: list[str] = []  # of the document that is not yet complete
    held = 0  # characters in `rest`
    for piece in pieces:
        if separator is None:
            complete, open_end = [], piece
        else:
            # A separator may straddle two pieces: look for it from just before the border.
            tail = rest.pop() if rest else ""
            held -= len(tail)
            *complete, open_end = (tail + piece).split(separator)
        if complete:
            _check_length(max(held + len(complete[0]), *map(len, complete)), separator, where, most)
            yield "".join([*rest, complete[0]])
            yield from complete[1:]
            rest, held = [], 0
        cut = max(0, len(open_end) - len(separator or " ") + 1)
        rest += [open_end[:cut], open_end[cut:]]
        held += len(open_end)
        _check_length(held, separator, where, most)
    yield "".join(rest)


def _check_length(held: int, separator: str | None, where: str, most: int) -> None:
    if held > most:
        fix = "set document_separator to split it" if separator is None else "split it"
        raise too_long(f"{where}: a document", most, fix)


def too_long(what: str, most: int, fix: str) -> UserError:
    return UserError(
        f"{what} has more than {most:,} characters; {fix}, or raise max_document_chars"
    )


def lines(
    pieces: Iterable[str], where: str = "text", most: int = MAX_DOCUMENT_CHARS
) -> Iterator[str]:
    """The lines of a text, each with its "\\n". Raises `UserError` for one of more than `most`
    characters, before it is read to its end.
    """
    rest: list[str] = []
    held, number = 0, 1
    for piece in pieces:
        *complete, open_end = piece.split("\n")
        for line in complete:
            if held + len(line) > most:
                raise _long_line(where, number, most)
            yield "".join([*rest, line, "\n"]) if rest else line + "\n"
            rest, held = [], 0
            number += 1
        if open_end:
            rest.append(open_end)
            held += len(open_end)
        if held > most:
            raise _long_line(where, number, most)
    if rest:
        yield "".join(rest)


def _long_line(where: str, number: int, most: int) -> UserError:
    return too_long(f"{where}:{number}: a line", most, "split the text in it")


def check_characters(text: str, here: str, what: str = "") -> None:
    """Raises `UserError` for half of a surrogate pair, which is not a character and has no UTF-8.

    JSON and YAML can spell one, and some encodings ("unicode_escape") give one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise UserError(f"{here}: {what}half a surrogate pair ({half}); fix or remove it") from None


def validate_text_options(separator: str | None, encoding: str) -> None:
    if separator == "":
        raise UserError("document_separator is empty; leave it out to keep each file whole")
    try:
        "".encode(encoding)
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        raise UserError(f"unknown encoding {shown(encoding)}; use utf-8, latin-1, ...") from None
