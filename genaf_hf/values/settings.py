"""Settings by name, as a flag, a file or a caller gives them."""

import json
from collections.abc import Mapping

from genaf_hf.errors import UserError


def settings_by_name(flag: str, given: Mapping | str | None, example: str) -> dict:
    """What a flag of settings says, in JSON or as a mapping; nothing where it is not given.

    Args:
        flag: its name.
        given: its value.
        example: JSON that it could be.

    Raises:
        UserError: when that is no JSON, or no settings by name.
    """
    try:
        found = json.loads(given) if isinstance(given, str) else {} if given is None else given
    except json.JSONDecodeError as error:
        raise UserError(f"{flag} are {given}, expected JSON such as {example}.") from error
    if not isinstance(found, Mapping):
        raise UserError(f"{flag} are {given}, expected settings by name, such as {example}.")
    return dict(found)
