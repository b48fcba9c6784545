"""What the Hub takes in the metadata of a card."""

import re
from collections.abc import Mapping

import yaml
from huggingface_hub import ModelCard, ModelCardData

from genaf_hf.hub import is_hub_id

# https://huggingface.co/docs/hub/repositories-licenses; a card with any other is refused.
LICENSES = {
    *("apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m"),
    *("bigscience-bloom-rail-1.0", "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd"),
    *("bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5"),
    *("cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
    *("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0"),
    *("cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0"),
    *("epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl"),
    *("lgpl-2.1", "lgpl-3.0", "lgpl-lr", "isc", "lppl-1.3c", "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++"),
    *("osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "deepfloyd-if-license", "llama2"),
    *("llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "apple-ascl", "apple-amlr"),
    *("intel-research", "fair-noncommercial-research-license", "unknown", "other"),
}
DATASET_TYPE = re.compile(r"(?:[\w-]+/)?[\w.-]+", re.ASCII)
UNNAMED_TYPE = "images"
# What YAML 1.2 reads as a number and PyYAML, of YAML 1.1, as text, such as 1e-4.
NUMBER = re.compile(r"(?:[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|0o[0-7_]+)$")

OLD_LINE_BREAKS = {"\x85", "\u2028", "\u2029"}


class Dumper(yaml.SafeDumper):
    """Quotes what the Hub would not read as the text that it is."""


def represent_text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    """In double quotes, and escaped, where line breaks that only YAML 1.1 knows would be lost."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if set(text) & OLD_LINE_BREAKS else None)


Dumper.add_representer(str, represent_text)
Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))


def dump(values: Mapping) -> str:
    """Metadata as YAML, which YAML 1.1 and 1.2 read alike."""
    return yaml.dump(dict(values), Dumper=Dumper, sort_keys=False, allow_unicode=True)


class CardData(ModelCardData):
    """Metadata that is written by `dump`."""

    def to_yaml(self, line_break: str | None = None, original_order: list[str] | None = None) -> str:
        known = self.to_dict()
        order = dict.fromkeys([*(original_order or []), *known])
        return dump({name: known[name] for name in order if name in known}).strip()


class Card(ModelCard):
    """A model card whose metadata the Hub reads as they are."""

    card_data_class = CardData


def card(metadata: CardData, content: str) -> Card:
    """A card of metadata and Markdown."""
    return Card(f"---\n{metadata.to_yaml()}\n---\n\n{content}\n")


def on_hub(source: Mapping) -> str | None:
    """The Hub id of a model or of images by `name` and `revision`, which what is on the Hub has; None of others."""
    return source["name"] if source.get("revision") and is_hub_id(source["name"]) else None


def dataset_type(name: str) -> str:
    """A dataset's name in the form that a `model-index` needs: a Hub id as it is, of another its letters and digits."""
    if DATASET_TYPE.fullmatch(name):
        return name
    return re.sub(r"[^\w.]+", "-", name, flags=re.ASCII).strip("-") or UNNAMED_TYPE


def known_license(name: str | None) -> str | None:
    """The Hub's identifier of a license; None where it knows none of this name."""
    found = name.strip().lower() if isinstance(name, str) else None
    return found if found in LICENSES else None
