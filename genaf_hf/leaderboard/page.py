"""A leaderboard as files: a page that needs no server, JSON, CSV, and the README of a static Space."""

import base64
import csv
import hashlib
import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from string import Template

from genaf_hf.errors import UserError
from genaf_hf.leaderboard.entries import Entry, Leaderboard
from genaf_hf.runs.journal import write_whole
from genaf_hf.values.markup import cell

SOURCES = Path(__file__).parent
FILES = ("index.html", "leaderboard.csv", "leaderboard.json", "README.md")
NOT_ON_THE_PAGE = ("claimed_interval", "last_modified", "report_sha256", "surrogate", "seed")
README = """---
title: Robustness leaderboard
emoji: 🛡️
colorFrom: indigo
colorTo: green
sdk: static
pinned: false
---

Accuracies of image classifiers under adversarial attacks, read from the cards of models on the Hub and checked, by
`genaf-hf leaderboard`. The page is `index.html`; `leaderboard.json` and `leaderboard.csv` hold the data.
"""


def check_folder(output_dir: str | Path) -> None:
    """Refuses a folder that holds anything but an earlier leaderboard; hidden files, such as git's, may be there.

    Raises:
        UserError: names the first of the other files.
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, expected a folder or a new name.")
    present = {path.name for path in folder.glob("[!.]*")}
    others = sorted(present - set(FILES) if "leaderboard.json" in present else present)
    if others:
        raise UserError(f"{folder} holds {others[0]}, which is of no leaderboard; choose another output_dir.")


def write(leaderboard: Leaderboard, output_dir: str | Path) -> None:
    """Writes `index.html`, `leaderboard.json`, `leaderboard.csv` and `README.md`.

    Raises:
        UserError: as `check_folder`.
    """
    check_folder(output_dir)
    contents = {
        "leaderboard.json": json.dumps(asdict(leaderboard), indent=2) + "\n",
        "leaderboard.csv": to_csv(leaderboard.entries),
        "index.html": to_html(leaderboard),
        "README.md": README,
    }
    for name, content in contents.items():
        write_whole(Path(output_dir) / name, content)


def to_csv(entries: list[Entry]) -> str:
    """A row per entry, without anything that a spreadsheet would run."""
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    names = [field.name for field in fields(Entry)]
    table.writerow(names)
    table.writerows([cell(getattr(entry, name)) for name in names] for entry in entries)
    return lines.getvalue()


def to_html(leaderboard: Leaderboard) -> str:
    """The page, which holds its data, style and script, and runs no other script."""
    names = [field.name for field in fields(Entry) if field.name not in NOT_ON_THE_PAGE]
    data = {field.name: getattr(leaderboard, field.name) for field in fields(Leaderboard)} | {
        "names": names,
        "entries": [[getattr(entry, name) for name in names] for entry in leaderboard.entries],
        "left_out": [asdict(each) for each in leaderboard.left_out],
    }
    style, script = ((SOURCES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return Template((SOURCES / "page.html").read_text(encoding="utf-8")).substitute(
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        style=style,
        style_hash=content_hash(style),
        script=script,
        script_hash=content_hash(script),
    )


def content_hash(content: str) -> str:
    """As a Content-Security-Policy names what may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
