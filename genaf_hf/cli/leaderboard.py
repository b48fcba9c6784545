"""Builds a leaderboard of all models on the Hub with a tag.

    genaf-hf leaderboard --filter genaf --output_dir leaderboard

Reads the results from the cards, checks them against the reports that they cite, and leaves a page that opens from the
folder or is uploaded as a static Space, with the same as JSON and CSV.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genaf_hf.cli.command_line import FlagParser, parse_arguments
from genaf_hf.leaderboard import check_folder, collect, write


@dataclass
class LeaderboardArguments:
    """Which models are collected, and where the page is written."""

    filter: str = field(default="genaf", metadata={"help": "Tag that the models have."})
    models: str | None = field(default=None, metadata={"help": "Ids, separated by commas, instead of the tag."})
    output_dir: str = field(default="leaderboard", metadata={"help": "Folder of the page; made if it is not there."})
    verify_reports: bool = field(default=True, metadata={"help": "Fetch the reports that the cards cite."})


def parser() -> FlagParser:
    return FlagParser((LeaderboardArguments,))


def main(argv: Sequence[str]) -> None:
    """Collects what the words name."""
    (arguments,) = parse_arguments((LeaderboardArguments,), None, argv)
    check_folder(arguments.output_dir)
    models = [name.strip() for name in (arguments.models or "").split(",") if name.strip()]
    found = collect(arguments.filter, models, verify_reports=arguments.verify_reports)
    write(found, arguments.output_dir)
    problems = sum(bool(each.problems) for each in found.entries)
    print(f"\n{len(found.entries)} results of {found.models} models, {problems} of them with problems.")
    print(f"The page is {Path(arguments.output_dir) / 'index.html'}.")
