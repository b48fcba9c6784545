"""Flags and YAML files of the recipes."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from genaf_hf.errors import UserError
from genaf_hf.provenance import public_name


def parse_arguments(
    dataclass_types: Sequence[type],
    default_config: str | Path | None,
    argv: Sequence[str] | None = None,
    *,
    family_config: str | Path | None = None,
) -> tuple:
    """One instance of each dataclass from `[config.yaml] [--flag value ...]`; flags win over the file.

    Args:
        dataclass_types: whose fields are the flags.
        default_config: the file that is taken where flags name neither a model nor a dataset.
        argv: default those of the process.
        family_config: the file that is taken where flags do, unless they name a preset too.

    Raises:
        UserError: when the file is missing or has keys that are no flags.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(dataclass_types)
    named, config = {word.split("=")[0] for word in argv}, None
    if argv and argv[0].endswith((".yaml", ".yml")):
        config = argv.pop(0)
    elif not named & {"--model_name_or_path", "--dataset_name"}:
        config = default_config
    elif "--preset" not in named:
        config = family_config
    if config is not None:
        set_defaults(parser, Path(config))
    return parser.parse_args_into_dataclasses(argv)


def set_defaults(parser: HfArgumentParser, path: Path) -> None:
    """Takes a YAML file's values as the defaults of the flags of these names.

    Raises:
        UserError: as `read_config`, or when there are unknown keys.
    """
    values = read_config(path)
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    if unknown := sorted(values.keys() - actions.keys(), key=str):
        raise UserError(f"{path} has the unknown key {unknown[0]}; --help lists the known ones.")
    for name in values:
        actions[name].required = False
    parser.set_defaults(**values)


def read_config(path: Path) -> dict:
    """The names and values of a YAML file.

    Raises:
        UserError: when the file is missing, no YAML, or no mapping.
    """
    if not path.exists():
        raise UserError(f"There is no configuration file {path}.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}, expected names and values of flags.")
    return values


def reproducing_command(script: str, settings: Mapping, processes: int = 1) -> str:
    """The command that runs a recipe with these settings, on one line, a local path by its name alone.

    Args:
        script: the recipe, e.g. `"recipes/genaf_vit.py"`.
        settings: values by flag, as JSON holds them; those that are None are left out.
        processes: how many shared the work.
    """
    launch = ["accelerate", "launch", "--num_processes", str(processes), script]  # else one for each GPU
    flags = []
    for name, value in settings.items():
        if value is not None:
            words = [public_name(value) if isinstance(value, str) else json.dumps(value)]
            flags += [f"--{name}", *(map(str, value) if isinstance(value, list) else words)]
    return shlex.join(" ".join(word.split()) for word in launch + flags)
