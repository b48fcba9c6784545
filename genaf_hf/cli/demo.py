"""Shows what an attack does to an undefended and to a hardened model, on a page to try it out.

    genaf-hf demo
    genaf-hf demo --hardened user/model --undefended user/other --encoder user/encoder --dataset_name user/data

The former shows the models that genaf-hf harden makes by default (demo_digits.yaml), and needs no network. A YAML file
before the flags holds values of flags by name. The page takes gradio: pip install 'gradio>=6.31'.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from genaf_hf.cli.command_line import FlagParser, parse_arguments
from genaf_hf.cli.settings_file import CONFIGS
from genaf_hf.demo.arguments import DemoArguments
from genaf_hf.demo.demo import Demo
from genaf_hf.errors import UserError

DEFAULTS = ("digits-vit-genaf", "digits-vit-genaf/undefended", "digits-supervised")


def parser() -> FlagParser:
    return FlagParser((DemoArguments,))


def main(argv: Sequence[str]) -> None:
    """Opens the page of what the words name."""
    try:
        from genaf_hf.demo.page import launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError("The demo needs gradio: pip install 'gradio>=6.31'") from error
    logging.getLogger("httpx").setLevel(logging.WARNING)
    (arguments,) = parse_arguments((DemoArguments,), CONFIGS / "demo_digits.yaml", argv)
    for name in (arguments.hardened, arguments.undefended, arguments.encoder):
        if name in DEFAULTS and not Path(name).exists():
            raise UserError(f"There is no {name} here yet: genaf-hf harden makes it.")
    launch(Demo(arguments))
