"""Writes the table of formats in docs/data.md, from the docstrings of the formats.

python tools/formats_table.py            # after a change of a format
"""

from __future__ import annotations

from pathlib import Path

from jaxlm.data.formats.recognise import all_formats

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
BEGIN = "<!-- made by tools/formats_table.py from the docstrings of the formats -->\n"
END = "<!-- end of the table -->\n"


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """The page with today's table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def table() -> str:
    """One row a format: its name, the files that it is, the columns of its records."""
    lines = ["| format | files | columns of the records |", "|---|---|---|"]
    formats = all_formats()
    for name in sorted(formats, key=lambda name: (formats[name].shape.task, name)):
        doc = (type(formats[name]).__doc__ or "").strip().split("\n")[0]
        given = dict.fromkeys((*formats[name].written, *formats[name].keeps))
        columns = ", ".join(f"`{column}`" for column in given)
        lines.append(f"| `{name}` | {doc} | {columns} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
