"""Pushes what a run left in a folder to the Hub, also to go on with a push that failed.

    python -m genaf_hf.push FOLDER REPO_ID

Exactly what the run itself would push is pushed, and nothing that the Hub already has is sent again. The token is that
of `hf auth login`, or HF_TOKEN.
"""

from argparse import BooleanOptionalAction

from genaf_hf.cli.command_line import FlagParser, run
from genaf_hf.sharing.publishing import publish


def main() -> None:
    parser = FlagParser(prog="python -m genaf_hf.push", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="What the run left.")
    parser.add_argument("repo_id", help="Where to; made if it is not there.")
    parser.add_argument("--private", action=BooleanOptionalAction, help="Whether a new repository is private.")
    parser.add_argument("--revision", help="Branch to push to; made if it is not there.")
    parser.add_argument("--push_anyway", action="store_true", help="Also a model that failed a check of its report.")
    address = publish(**vars(parser.parse_args()))
    print(f"Pushed to {address}")


if __name__ == "__main__":
    run(main)
