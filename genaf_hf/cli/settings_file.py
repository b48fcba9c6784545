"""YAML files of settings."""

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

import yaml

from genaf_hf.errors import UserError, first_line

CONFIGS = Path(__file__).parent / "configs"  # that come with the package
LARGEST_FILE = 1 << 20  # bytes; PyYAML takes a minute for 50 times as much


class SettingsLoader(yaml.SafeLoader):
    """Reads numbers as everybody writes them, and repeats nothing.

    YAML 1.1 takes 1e-4 for a word, 010 for 8, 1:30 for 90 and 2026-01-01 for a date.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def compose_node(self, parent, index):
        repeats = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if repeats and not isinstance(node, yaml.ScalarNode):
            raise refusal("lists and mappings cannot be repeated by an alias, write them out", node)
        return node

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise refusal("a name cannot be a list or a mapping", key)
            name = key.value.replace("-", "_")
            if name in seen:
                raise refusal(f"{key.value} is there twice, leave one of them out", key)
            seen.add(name)
        return super().construct_mapping(node, deep)


def refusal(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


for tag, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"(?i:true|false|yes|no|on|off)", list("tTfFyYnNoO")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(?i:inf)", list("-+.0123456789")),
):
    SettingsLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), first)
SettingsLoader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
SettingsLoader.add_constructor(
    "tag:yaml.org,2002:float", lambda loader, node: float(node.value.lower().replace(".inf", "inf"))
)


def read_settings(path: Path, sections: Collection[str] = ()) -> dict[str, str | list | dict | None]:
    """The settings of a YAML file by name, with underscores: as words, like those of flags; mappings as they are.

    Args:
        path: of the file.
        sections: names below which there may be settings, which are read likewise.

    Raises:
        UserError: when the file is missing, cannot be read, is no YAML, no mapping, or names something twice.
    """
    if not path.exists():
        raise UserError(f"There is no configuration file {path}.")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path} holds {path.stat().st_size} bytes, expected a few lines of settings.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The configuration file {path} cannot be read: {first_line(error)}.") from error
    try:
        loader = SettingsLoader(text)
        root = loader.get_single_node()
        whole = loader.construct_object(root, deep=True) if root else None
        values = words_by_name(loader, root, sections) if isinstance(whole, dict) else {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or first_line(error)
        raise UserError(
            f"{path} is no YAML of settings{f', line {mark.line + 1}' if mark else ''}: {problem}."
        ) from error
    if not isinstance(whole, dict):
        found = "nothing" if whole is None else f"a {type(whole).__name__}"
        raise UserError(f"{path} holds {found}, expected names and values of flags.")
    return values


def words_by_name(loader: SettingsLoader, mapping: yaml.MappingNode, sections: Collection[str] = ()) -> dict:
    """Values as a file writes them, by names with underscores; of a section the same of what it holds."""
    found = {}
    for key, node in mapping.value:
        if key.value not in sections:
            found[key.value.replace("-", "_")] = words(loader, node)
        elif isinstance(node, yaml.MappingNode):
            found[key.value] = words_by_name(loader, node)
        else:
            raise refusal(f"{key.value} is a defence, expected names and values below it", node)
    return found


def words(loader: SettingsLoader, node: yaml.Node) -> str | list | dict | None:
    """A value as its file writes it; None for an empty one, and what a mapping holds by its kinds."""
    value = loader.construct_object(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return [words(loader, each) for each in node.value]
    if value in (math.inf, -math.inf):
        return str(value)
    return node.value if isinstance(node, yaml.ScalarNode) and value is not None else value
