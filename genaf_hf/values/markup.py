"""Texts of others within Markdown and spreadsheets."""

import html
import re
from collections.abc import Mapping

LIST_MARK = re.compile(r"^(\d*)([-+=.)])(?=[\s=-])")  # headings and rules can begin a line like it
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets run when a cell begins with it
MARKUP = "\\`*_[]|#~$"


def plain(value) -> str:
    """Text that neither Markdown nor HTML reads as markup."""
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(name)} {plain(each)}" for name, each in value.items() if each is not None)
    text = html.escape(one_line(value), quote=False)
    text = "".join(f"\\{character}" if character in MARKUP else character for character in text)
    return LIST_MARK.sub(r"\1\\\2", text)


def cell(value):
    """A value for a spreadsheet, without anything that it would run."""
    if isinstance(value, tuple):
        value = "; ".join(map(str, value))
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def one_line(value) -> str:
    """Text without line breaks, and without characters that cannot be seen or turn others around."""
    return "".join(character for character in " ".join(str(value).split()) if character.isprintable())


def markdown(rows: list[list[str]]) -> str:
    """A table with its first row as the head, and columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body = (
        "| " + " | ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([head, rule, *body])
