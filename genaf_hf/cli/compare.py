"""Tells what changed from one report to another beyond chance.

    genaf-hf compare OLD NEW

Each is a report.json or the folder that it lies in, of the same images. Where both audits left their answers
(genaf-hf audit --answers), images are compared one by one by McNemar's exact test, else by intervals alone.
"""

from collections.abc import Sequence

from genaf_hf.cli.command_line import FlagParser
from genaf_hf.evaluation.comparison import compare_files


def parser() -> FlagParser:
    found = FlagParser(prog="genaf-hf compare", description=__doc__.splitlines()[0])
    found.add_argument("old", help="Report that was before, or its folder.")
    found.add_argument("new", help="Report that is compared with it, or its folder.")
    return found


def main(argv: Sequence[str]) -> None:
    """Compares what the words name."""
    print(compare_files(**vars(parser().parse_args(argv))))
