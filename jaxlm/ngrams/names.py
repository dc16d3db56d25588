"""Names for the ids of a tokenizer that an ARPA file can hold: without white space, each one once.

    names_of(tokenizer, bos=2, size=265)      # ["<pad>", "</s>", "<s>", ..., "▁the", "<0x0A>"]

A space becomes "▁" as in SentencePiece's files, other white space and parts of a
character become <0x..> of their bytes; a name that is taken already gets the id.
"""

from __future__ import annotations

from typing import Any

BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"


def names_of(tokenizer: Any, *, bos: int, size: int) -> list[str]:
    """[size] the names; ids that the tokenizer lacks are <id>."""
    known = {tokenizer.eos_id: EOS, tokenizer.unk_id: UNKNOWN, bos: BOS}
    pieces = tokenizer.token_bytes
    reserved = set(known.values())
    names: list[str] = []
    taken: set[str] = set()
    for i in range(size):
        name = known.get(i) or (_name(pieces[i]) if i < len(pieces) else "")
        if not name or name in taken or (name in reserved and i not in known):
            name = f"{name}<{i}>"
        taken.add(name)
        names.append(name)
    return names


def _name(piece: bytes) -> str:
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in piece)
    return "".join(_plain(c) for c in text)


def _plain(character: str) -> str:
    if character == " ":
        return "▁"
    if character.isspace():
        return "".join(f"<0x{byte:02X}>" for byte in character.encode())
    return character
