"""Flags, and the files that name values of flags."""

import json
import logging
import os
import re
import sys
from argparse import SUPPRESS, Action, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from genaf_hf.cli.process_tree import says
from genaf_hf.cli.settings_file import CONFIGS, read_settings
from genaf_hf.errors import UserError, first_line
from genaf_hf.pipelines.attack_arguments import settings_for
from genaf_hf.training.options import UNSUPPORTED
from genaf_hf.values.numbers import kinds_of, number

logger = logging.getLogger(__name__)

SOURCES = {"model_name_or_path", "hardened", "undefended", "dataset_name"}
DASHES = "-\u2013\u2014"  # word processors make one of the latter of two hyphens
TRUE, FALSE = ("yes", "true", "t", "y", "1", "on"), ("no", "false", "f", "n", "0", "off")
NOT_GIVEN = object()
MEANT = {  # what names of other versions and projects are called here
    "epochs": "num_train_epochs",
    "epsilon": "eps",
    "no_cuda": "use_cpu",
    "batch_size": "per_device_train_batch_size",
    "warmup_ratio": "warmup_steps",
}
WITHOUT_EFFECT = {  # of those that transformers has
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "a command always does all that it is for"),
    **dict.fromkeys(("hub_strategy", "hub_always_push"), "what a command leaves is pushed once, at its end"),
    **dict.fromkeys(
        ("average_tokens_across_devices", "include_num_input_tokens_seen", "liger_kernel_config", "use_cache"),
        "it is for language models",
    ),
    "length_column_name": "images have no lengths",
    "fsdp_config": "attacks need the whole model on each process",
}
HIDDEN = {*WITHOUT_EFFECT, *UNSUPPORTED, "resume_from_checkpoint", "local_rank", "debug"}  # from help


def parse_arguments(
    dataclass_types: Sequence[type],
    default_config: str | Path | None,
    argv: Sequence[str] | None = None,
    *,
    family_config: Callable[[Mapping[str, Any]], str | Path] | None = None,
) -> tuple:
    """One instance of each dataclass from `[config.yaml] [--flag value ...]`; flags win.

    Args:
        dataclass_types: whose fields are the flags.
        default_config: the file that is taken where flags name neither a model nor a dataset.
        argv: default those of the process.
        family_config: gives the file that says what flags and a file of the user's own leave open, from their settings.

    Raises:
        UserError: for words that are no flags, a file that cannot be used, or values that a dataclass refuses.
        SystemExit: for flags with values that they do not take, or without one, when the sentence has been printed.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = FlagParser(dataclass_types)
    file = settings_file(argv.pop(0)) if argv and is_settings_file(argv[0]) else None
    given, of_family = parser.given(argv), {}
    if file is None and not given.keys() & SOURCES:
        file = default_config

    def named() -> dict:
        """What the file says of what is trained by the defence that flags, itself or the family's file name."""
        return {} if file is None else parser.settings_of(Path(file), given.get("defence"), of_family.get("defence"))

    if family_config is not None and (file is None or Path(file).parent != CONFIGS):
        asked = {**named(), **given}
        parser.check_complete(asked)
        of_family = parser.settings_of(Path(family_config(asked)))
    of_file = {**of_family, **named()}
    if given.get("attacks") and of_file.get("attack_settings"):
        of_file["attack_settings"] = settings_for(given["attacks"], of_file["attack_settings"])
    settings = {**of_file, **given}
    parser.check_complete(settings)
    if settings.get("resume_from_checkpoint") is not None:
        raise UserError(
            "resume_from_checkpoint is not for this command, which goes on by itself in the same output_dir: "
            "leave it out."
        )
    if settings.get("output_dir") is not None:
        check_writable(Path(settings["output_dir"]))
    for name, reason in WITHOUT_EFFECT.items():
        if settings.get(name):
            logger.warning("%s has no effect: %s.", name, reason)
    return tuple(
        kind(**{each.name: settings[each.name] for each in fields(kind) if each.init and each.name in settings})
        for kind in dataclass_types
    )


def is_settings_file(word: str) -> bool:
    return word.lower().endswith((".yaml", ".yml"))


def settings_file(name: str) -> Path:
    """The file of this name: the user's own, or else one that comes with the package."""
    return CONFIGS / name if not Path(name).exists() and (CONFIGS / name).exists() else Path(name)


def check_writable(output_dir: Path) -> None:
    """Refuses an output folder that cannot be made, or be written to, before any work.

    Raises:
        UserError: names the folder.
    """
    there = next(each for each in (output_dir, *output_dir.absolute().parents) if os.path.exists(each))
    if not there.is_dir():
        raise UserError(f"{there} is a file, expected a folder or a new name: choose another output_dir.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} is not yours to write to: choose another output_dir.")


class FlagParser(HfArgumentParser):
    """Says which flags were given, and what is wrong with them in one sentence each.

    Attributes:
        needed: names of the fields that have no default.
    """

    def __init__(self, dataclass_types: Sequence[type] = (), **settings):
        super().__init__(dataclass_types, **settings)
        self.kinds = {name: kinds_of(hint) for each in dataclass_types for name, hint in get_type_hints(each).items()}
        self.named = {action.dest: action for action in reversed(self._actions) if action.dest != "help"}
        self.needed = [action.dest for action in self._actions if action.required and action.option_strings]
        if "output_dir" in self.named and self.named["output_dir"].default is None:  # which transformers has one for
            self.needed.append("output_dir")
        for action in self._actions:
            action.type = self.converter(action)
            if action.dest in HIDDEN:
                action.help = SUPPRESS

    def check_complete(self, settings: Mapping[str, Any]) -> None:
        """Ends the process with a sentence where something is missing that has no default."""
        if missing := [f"--{name}" for name in self.needed if name not in settings]:
            self.error(f"beside what is given, the following arguments are required: {', '.join(missing)}")

    def converter(self, action: Action) -> Callable[[str], Any] | None:
        """What makes a value of a flag's word."""
        kinds = self.kinds.get(action.dest, set())
        if kinds >= {int, str}:
            return as_type(index_or_name)
        if dict in kinds:
            return as_type(name_or_json)
        return CONVERTERS.get(action.type, action.type)

    def given(self, argv: Sequence[str]) -> dict[str, Any]:
        """Values by name of the flags that are there, in whatever spelling.

        Raises:
            UserError: for words that are no flags; names the nearest one.
        """
        for name in self.needed:
            self.named[name].required = False  # a file may name them
        blank = Namespace(**dict.fromkeys(self.named, NOT_GIVEN))
        found, unknown = self.parse_known_args(argv, blank)
        if unknown:
            raise UserError(self.unknown_word(unknown))
        return {name: value for name, value in vars(found).items() if value is not NOT_GIVEN}

    def unknown_word(self, words: Sequence[str]) -> str:
        """The sentence on words that are no flags nor values of flags."""
        if files := [word for word in words if is_settings_file(word)]:
            return f"{files[0]} is not in its place: one configuration file is taken, as the first word."
        word = words[0].split("=")[0]
        if word[0] not in DASHES:
            return f'"{words[0]}" is no value of a flag; --help lists the flags.'
        name = word.strip(DASHES).replace("-", "_")
        return f"There is no flag {word}; --help lists the known ones{self.nearest(name, '--')}."

    def nearest(self, name: str, prefix: str = "") -> str:
        """The end of a sentence that suggests what was meant; nothing where no name is near."""
        near = [MEANT[name]] if MEANT.get(name) in self.named else get_close_matches(name, self.named, 1, 0.6)
        return f", the nearest is {prefix}{near[0]}" if near else ""

    def settings_of(self, path: Path, defence: str | None = None, default: str | None = None) -> dict[str, Any]:
        """Values by name of a YAML file, as flags would give them; those below a defence's name are for that defence.

        Args:
            path: of the file.
            defence: the one that flags name, default that of the file.
            default: where the file names none, by default that of the dataclasses.

        Raises:
            UserError: as `read_settings`, for unknown names, and for values of another kind; names the file.
        """
        defences = self.named["defence"].choices if "defence" in self.named else ()
        settings = read_settings(path, sections=defences)
        of_defences = {name: self.values_of(path, settings.pop(name)) for name in [*settings] if name in defences}
        values = self.values_of(path, settings)
        chosen = defence or values.get("defence") or default or self.get_default("defence")
        return {**values, **of_defences.get(chosen, {})}

    def values_of(self, path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What flags make of the words that a file has for them; raises `UserError` as `settings_of`."""
        values = {}
        for name, value in settings.items():
            if name not in self.named:
                raise UserError(f"{path} has the unknown key {name}; --help lists the known ones{self.nearest(name)}.")
            try:
                values[name] = self.value_of(self.named[name], value)
            except ArgumentTypeError as error:
                raise UserError(f"{path}: {name} is {error}") from error
        return values

    def value_of(self, action: Action, value: str | list | dict | None) -> Any:
        """What a flag makes of what a file says.

        Raises:
            ArgumentTypeError: when it is of another kind than the flag takes.
        """
        kinds = self.kinds[action.dest]
        if value is None and type(None) not in kinds:
            raise ArgumentTypeError("empty, expected a value; leave it out for the default.")
        if value is None or (isinstance(value, dict) and dict in kinds):
            return value
        if isinstance(value, list) and list in kinds:
            return [self.value_of_word(action, word) for word in value]
        value = self.value_of_word(action, value)
        return [value] if action.nargs == "+" else value

    def value_of_word(self, action: Action, word: str) -> Any:
        if not isinstance(word, str):
            raise ArgumentTypeError(f"{json.dumps(word, default=str)}, expected a single value.")
        value = action.type(word)
        if action.choices is not None and value not in action.choices:
            raise ArgumentTypeError(f'"{word}", expected one of {", ".join(map(str, action.choices))}.')
        return value

    def error(self, message: str) -> None:
        """Ends the process with the sentence alone, which argparse puts behind all flags that there are."""
        told = re.sub(r"^argument ([^\s/:]+)\S*:", r"\1:", message).rstrip(".")
        self.exit(2, f"\n{told[0].upper()}{told[1:]}.\n" if says() else None)


def whole_number(word: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise UserError(f'"{word}", expected a whole number.') from error


def truth(word: str) -> bool:
    if word.lower() not in TRUE + FALSE:
        raise UserError(f'"{word}", expected true or false.')
    return word.lower() in TRUE


def some_text(word: str) -> str:
    if not word.strip():
        raise UserError("empty, expected a value.")
    return os.path.expanduser(word)  # no shell reads a ~ in a file or within --name=~/path


def index_or_name(word: str) -> int | str:
    return int(word) if re.fullmatch(r"-?\d+", word) else some_text(word)


def name_or_json(word: str) -> str:
    if word.lstrip().startswith(("{", "[")):
        try:
            json.loads(word)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"no JSON: {first_line(error)}.") from error
    return some_text(word)


def as_type(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """A conversion as argparse wants it."""

    def converted(word: str) -> Any:
        try:
            return convert(word)
        except UserError as error:
            raise ArgumentTypeError(str(error)) from error

    return converted


CONVERTERS = {
    kind: as_type(convert)
    for kind, convert in ((float, number), (int, whole_number), (string_to_bool, truth), (str, some_text))
}
