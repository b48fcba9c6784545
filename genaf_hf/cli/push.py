"""Pushes what a run left in a folder to the Hub, also to go on with a push that failed.

    genaf-hf push FOLDER REPO_ID

Exactly what the run itself would push is pushed, and nothing that the Hub already has is sent again. The token is that
of `hf auth login`, or HF_TOKEN.
"""

from argparse import BooleanOptionalAction
from collections.abc import Sequence

from genaf_hf.cli.command_line import FlagParser
from genaf_hf.sharing.publishing import publish


def parser() -> FlagParser:
    found = FlagParser(prog="genaf-hf push", description=__doc__.splitlines()[0])
    found.add_argument("folder", help="What the run left.")
    found.add_argument("repo_id", help="Where to; made if it is not there.")
    found.add_argument("--private", action=BooleanOptionalAction, help="Whether a new repository is private.")
    found.add_argument("--revision", help="Branch to push to; made if it is not there.")
    found.add_argument("--push_anyway", action="store_true", help="Also a model that failed a check of its report.")
    return found


def main(argv: Sequence[str]) -> None:
    """Pushes what the words name."""
    address = publish(**vars(parser().parse_args(argv)))
    print(f"Pushed to {address}")
