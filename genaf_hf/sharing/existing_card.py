"""The card that a model has already, and what it says of it."""

import logging
import re

import httpx2
import yaml

from genaf_hf.errors import UserError, first_line
from genaf_hf.hub import file_of_model
from genaf_hf.sharing.layout import CARD
from genaf_hf.values.provenance import model_source, public_name

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
    except Exception as error:  # whatever a stranger's values make of YAML's constructors
        raise UserError(f"its metadata is no YAML: {first_line(error)}") from error
    if not isinstance(values, dict | None):
        raise UserError(f"its metadata is a {type(values).__name__}, expected names and values")
    return values or {}


def base_model_of(config, token: str | bool | None = None) -> dict:
    """What a training record holds of the public encoder that a configuration was loaded from.

    Args:
        config: of a `transformers` model.
        token: for private and gated repositories.
    """
    name, revision = model_source(config)
    told = metadata_of(config.name_or_path, revision=revision, token=token) if name else {}
    license_name = told.get("license")
    return {
        "name": name,
        "revision": revision,
        "license": license_name if isinstance(license_name, str) else None,
        **({"hardened": True} if names_hardened_encoder(told.get("tags")) else {}),
    }


def is_hardened_encoder(
    model_name_or_path: str, *, revision: str | None = None, token: str | bool | None = None
) -> bool:
    """Whether a model's card says that it is an encoder that was hardened here."""
    return names_hardened_encoder(metadata_of(model_name_or_path, revision=revision, token=token).get("tags"))


def names_hardened_encoder(tags: object) -> bool:
    """Whether the tags of a model, None where it has none, say that it is an encoder that was hardened here."""
    return isinstance(tags, list) and HARDENED_ENCODER_TAG in tags


def metadata_of(model_name_or_path: str, **hub) -> dict:
    """The metadata of a model's card; empty where there are none, or the card cannot be read, which the log says."""
    try:
        return card_metadata(read_card(model_name_or_path, **hub))
    except (OSError, ValueError, httpx2.HTTPError) as error:
        logger.warning("The card of %s cannot be read: %s.", public_name(model_name_or_path), first_line(error))
        return {}
