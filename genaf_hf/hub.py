"""Asking the Hub, waiting for it, and what to say where it fails."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import parse_ratelimit_headers, validate_repo_id

from genaf_hf.errors import first_line
from genaf_hf.values.names import nearest

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

WAITS = (2, 8, 32)  # seconds between the attempts
LONGEST_WAIT = 300  # seconds, the window in which the Hub counts requests
LONGEST_SILENCE = 300  # seconds


class StrangeAnswerError(ConnectionError):
    """An answer of the Hub that its client cannot read."""


UNSENT = (httpx2.LocalProtocolError, UnicodeEncodeError)  # which show the token
UNREACHED = (httpx2.TransportError, ConnectionError, TimeoutError, json.JSONDecodeError, *UNSENT)
ADVICE = {
    401: "the Hub does not accept your token, log in with `hf auth login` or correct HF_TOKEN",
    403: "the Hub denies this to your token, use one that has the right to it",
    404: "the Hub does not find it, check the spelling and whether it was deleted",
    409: "something else is being done there, try again when it is over",
    412: "somebody else changed it meanwhile, try again",
    429: "the Hub was asked too often, try again later",
}


def is_hub_id(name: str | None) -> bool:
    """Whether a model or a dataset of the Hub can have this name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def file_of_model(
    model_name_or_path: str, name: str, *, revision: str | None = None, token: str | bool | None = None
) -> Path | None:
    """A file in a model's folder or its repository on the Hub; None where there is none of this name.

    Raises:
        OSError, httpx2.HTTPError: when the Hub cannot be asked.
    """
    path = Path(model_name_or_path, name)
    if path.parent.is_dir():
        return path if path.exists() else None
    try:
        return Path(hf_hub_download(model_name_or_path, name, revision=revision, token=token))
    except RemoteEntryNotFoundError:
        return None


def persistently(action: Callable[[], Result]) -> Result:
    """The result of an action on the Hub, which is done again after a while where it failed by what passes.

    The client itself repeats only some requests, not those that make repositories, branches and commits; it knows no
    `Retry-After` with a date, and waits for an answer for ever.
    """
    waits = iter(WAITS)
    while True:
        session = get_session()
        patience, session.timeout = session.timeout, LONGEST_SILENCE
        try:
            with answers_as_expected():
                return action()
        except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as error:
            asked, pause = seconds_asked_for(error), next(waits, None)
            if pause is None or not passes(error) or (asked or 0) > LONGEST_WAIT:
                raise
            pause = pause if asked is None else asked
            logger.warning("Trying again in %.0f s: %s.", pause, trouble(error))
        finally:
            session.timeout = patience
        time.sleep(pause)


@contextmanager
def answers_as_expected() -> Iterator[None]:
    """Takes what the client stumbles over, who reads answers of the Hub without a look at what they are, for its fault.

    Raises:
        StrangeAnswerError: says what the client missed.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError) as error:
        raise StrangeAnswerError(f"its answer is not what was expected, {type(error).__name__}: {error}") from error


def why_not_loaded(
    error: Exception, kind: str, repo_id: str, *, revision: str | None = None, token: str | bool | None = None
) -> str | None:
    """The sentence that says what to do where the Hub is why something could not be loaded; None where it is not.

    The packages that load do not all pass on what the Hub answered, so that it is asked again, for one small file.

    Args:
        error: of loading.
        kind: "model" or "dataset".
        repo_id: what was to be loaded; a local folder has nothing to do with the Hub.
        revision: as it was asked for.
        token: as it was asked with.
    """
    if Path(repo_id).exists():
        return None
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
    answer = None
    try:
        address = hf_hub_url(repo_id, "README.md", repo_type=kind, revision=revision)
        with answers_as_expected():
            get_hf_file_metadata(address, token=token, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (OSError, ValueError, httpx2.HTTPError) as again:
        answer = again
    if isinstance(answer, OfflineModeIsEnabled):
        if Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type=kind)).exists():
            return None
        return (
            f'The {kind} "{repo_id}" is neither a local folder nor in the cache, and HF_HUB_OFFLINE is set: unset it, '
            f"or check the spelling{nearest(Path(repo_id)) if kind == 'model' else ''}."
        )
    for said in (hub_error(answer), hub_error(error)):
        if isinstance(said, GatedRepoError):
            return f'The {kind} "{repo_id}" is gated: accept its conditions on {page} and log in with `hf auth login`.'
        if isinstance(said, RepositoryNotFoundError):
            return (
                f'There is no {kind} "{repo_id}", neither as a local folder nor on the Hub: check its spelling, and '
                "log in with `hf auth login` if it is private."
            )
        if isinstance(said, RevisionNotFoundError):
            return f'The {kind} "{repo_id}" has no revision "{revision}": choose a branch, tag or commit of {page}.'
        if said is not None:
            return f'The {kind} "{repo_id}" cannot be loaded: {trouble(said)}.'
    return None


def trouble(error: Exception) -> str | None:
    """What is wrong with the Hub or on the way to it and what to do, within a sentence; None where it is neither."""
    said = hub_error(error)
    if said is None:
        return None
    if isinstance(said, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, unset it"
    if isinstance(said, UNSENT):
        return "your token has characters that no token has, correct it, HF_TOKEN or what `hf auth login` was given"
    if not isinstance(said, HfHubHTTPError):
        return f"the Hub cannot be reached or does not answer as it should, try again later ({first_line(said)})"
    status = said.response.status_code
    advice = ADVICE.get(status, "the Hub fails, try again later" if passes(said) else "the Hub refuses this")
    words = [str(status)]
    if (seconds := seconds_asked_for(said)) is not None:
        words.append(f"in {seconds:.0f} s")
    if said.server_message:
        words.append(said.server_message.splitlines()[0].rstrip("."))
    return f"{advice} ({', '.join(words)})"


def hub_error(error: BaseException | None) -> Exception | None:
    """What the Hub answered, or how it was not reached, behind an error; None where it did what it was asked for."""
    while error is not None:
        if isinstance(error, (HfHubHTTPError, *UNREACHED)) and not isinstance(error, RemoteEntryNotFoundError):
            return error
        error = error.__cause__ or error.__context__
    return None


def passes(error: Exception) -> bool:
    """Whether what went wrong may be over after a while."""
    said = hub_error(error)
    if isinstance(said, HfHubHTTPError):
        return said.response.status_code in (408, 429) or said.response.status_code >= 500
    return said is not None and not isinstance(said, (OfflineModeIsEnabled, *UNSENT))


def seconds_asked_for(error: Exception) -> float | None:
    """How long the Hub wants to be left alone, by its rate limit or `Retry-After` (RFC 9110, a number or a date)."""
    said = hub_error(error)
    if not isinstance(said, HfHubHTTPError):
        return None
    headers = said.response.headers
    asked = headers.get("Retry-After", "")
    try:
        limit = parse_ratelimit_headers(headers)
        if limit is not None and limit.remaining == 0:
            return limit.reset_in_seconds
        if asked.isdecimal():
            return int(asked)
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(timezone.utc)).total_seconds())
    except (IndexError, OverflowError, TypeError, ValueError):  # no number and no date, or none that can be counted to
        return None
