"""Pushes what a run left in a folder to the Hub, also to go on with a push that failed.

    python -m genaf_hf.push FOLDER REPO_ID

Exactly what the run itself would push is pushed, and nothing that the Hub already has is sent again. The token is that
of `hf auth login`, or HF_TOKEN.
"""

import argparse
import logging
import sys

from genaf_hf.hub import publish


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m genaf_hf.push", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="What the run left.")
    parser.add_argument("repo_id", help="Where to; made if it is not there.")
    parser.add_argument("--private", action=argparse.BooleanOptionalAction, help="Whether a new repository is private.")
    parser.add_argument("--revision", help="Branch to push to; made if it is not there.")
    arguments = parser.parse_args()
    try:
        address = publish(arguments.folder, arguments.repo_id, private=arguments.private, revision=arguments.revision)
    except ValueError as error:
        logging.debug("", exc_info=error)
        sys.exit(f"\n{error}")
    print(f"Pushed to {address}")


if __name__ == "__main__":
    main()
