"""The card that a model has already, and what it says of it."""

import logging
import re

import httpx2
import yaml

from genaf_hf.errors import UserError, first_line
from genaf_hf.hub import file_of_model
from genaf_hf.sharing.layout import CARD
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)

HARDENED_ENCODER_TAG = "hardened-encoder"
FRONT_MATTER = re.compile(r"\A\ufeff?(?:\s*\n)?---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


def read_card(model_name_or_path: str, *, revision: str | None = None, token: str | bool | None = None) -> str:
    """The text of a model's card, empty where it has none.

    Args:
        model_name_or_path: Hub id or local folder.
        revision: branch, tag or commit on the Hub.
        token: for private and gated repositories.

    Raises:
        OSError, httpx2.HTTPError: when the Hub cannot be asked.
        UserError: when the card is no UTF-8 text.
    """
    path = file_of_model(model_name_or_path, CARD, revision=revision, token=token)
    return "" if path is None else path.read_bytes().decode("utf-8")


def card_metadata(card: str) -> dict:
    """The front matter of a card, empty where it has none.

    Raises:
        UserError: when it is no YAML, or no mapping.
    """
    found = FRONT_MATTER.match(card)
    try:
        values = yaml.safe_load(found[1]) if found else None
    except (RecursionError, yaml.YAMLError) as error:
        raise UserError(f"its metadata is no YAML: {first_line(error)}") from error
    if not isinstance(values, dict | None):
        raise UserError(f"its metadata is a {type(values).__name__}, expected names and values")
    return values or {}


def license_of(model_name_or_path: str, *, revision: str | None = None, token: str | bool | None = None) -> str | None:
    """The license that a model's card names; None where it names none or cannot be read."""
    found = told_by_card(model_name_or_path, "license", revision=revision, token=token)
    return found if isinstance(found, str) else None


def is_hardened_encoder(
    model_name_or_path: str, *, revision: str | None = None, token: str | bool | None = None
) -> bool:
    """Whether a model's card says that it is an encoder that was hardened here."""
    return names_hardened_encoder(told_by_card(model_name_or_path, "tags", revision=revision, token=token))


def names_hardened_encoder(tags: object) -> bool:
    """Whether the tags of a model, None where it has none, say that it is an encoder that was hardened here."""
    return isinstance(tags, list) and HARDENED_ENCODER_TAG in tags


def told_by_card(model_name_or_path: str, name: str, **hub):
    """What the metadata of a model's card say by a name; None where they say nothing or cannot be read."""
    try:
        return card_metadata(read_card(model_name_or_path, **hub)).get(name)
    except (OSError, ValueError, httpx2.HTTPError) as error:
        logger.warning("The %s of %s is not known: %s.", name, public_name(model_name_or_path), first_line(error))
        return None
