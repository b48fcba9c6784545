"""Sharing results on the Hub, and what to do where it fails."""

import json
import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    EvalResult,
    HfApi,
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
    hf_hub_url,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers

from genaf_hf.errors import UserError, first_line
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.sharing.eval_results import REPORT_FILE, benchmark_yaml

logger = logging.getLogger(__name__)

PUBLISHED = (
    *("README.md", "report.json", "training.json", "layer_robustness.json", "perturbation/perturbation.safetensors"),
    *("overview.png", "accuracy_by_eps.png", "gallery.png"),
    *("samples.png", "layer_robustness.png", "training_curves.png"),
    *(".eval_results/genaf_hf.yaml", "configuration_encoder_classifier.py", "modeling_encoder_classifier.py"),
    *("config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("adapter_config.json", "adapter_model*.safetensors", "preprocessor_config.json", "processor_config.json"),
    *("configuration_encoder_classifier.py", "modeling_encoder_classifier.py"),
)

BENCHMARK_FILE = "eval.yaml"
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


def publish(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Hardened with Gen-AF",
    push_anyway: bool = False,
) -> str:
    """Uploads a model with its processor and what was found out about it, and nothing else of the folder.

    What passes is waited for, and what arrived is not sent again, neither by the next attempt nor by another call.

    Args:
        folder: what `harden` or `GenAFTrainer.save_model` left.
        repo_id: where to, default the folder's name in the user's own namespace. Made if it is not there.
        token: default the one of `hf auth login`.
        private: whether a new repository is private.
        revision: branch to upload to. Made if it is not there.
        message: of the commit.
        push_anyway: also a model whose report says that its robust accuracies are unreliable.

    Returns:
        The address of the commit.

    Raises:
        UserError: when there is nothing to publish, the model failed a self-check of its report, or the Hub does not
            take it: says why, and the command that goes on.
    """
    folder = Path(folder)
    files = [path.relative_to(folder).as_posix() for pattern in PUBLISHED for path in sorted(folder.glob(pattern))]
    if not files:
        raise UserError(f"{folder} holds nothing to publish, expected a folder with a model.")
    name = repo_id or folder.resolve().name
    privacy = {None: (), True: ("--private",), False: ("--no-private",)}[private]
    branch = () if revision is None else ("--revision", revision)
    command = shlex.join(["python", "-m", "genaf_hf.push", str(folder), name, *privacy, *branch])
    if doubt := None if push_anyway else why_unreliable(folder):
        raise UserError(
            f'"{name}" was not pushed: {doubt}; everything is kept in {folder}, and this command pushes it all the '
            f"same: {command} --push_anyway"
        )
    api = HfApi(token=token)

    def push() -> str:
        repo_id = api.create_repo(name, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=files,
            revision=revision,
            commit_message=message,
        )
        return str(commit.commit_url)

    try:
        return persistently(push)
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as error:
        command += " --push_anyway" * push_anyway
        raise UserError(
            f'"{name}" was not pushed: {trouble(error) or first_line(error)}; everything is kept in {folder}, and this '
            f"command goes on: {command}"
        ) from error


def why_unreliable(folder: Path) -> str | None:
    """Why the robust accuracies of a folder's model cannot be trusted, within a sentence; None where they can.

    Raises:
        UserError: when the report cannot be read.
    """
    if not (folder / REPORT_FILE).exists():
        return None
    report = RobustnessReport.load(folder / REPORT_FILE)
    model = list(report.models)[-1]
    if report.is_trusted(model):
        return None
    failed = "; ".join(check.name for check in report.failed_checks if check.model == model)
    return f"it failed the self-checks of its report ({failed})" if failed else "its report has no self-check of it"


def commit_files(
    repo_id: str, files: Mapping[str, bytes], *, parent: str, message: str, create_pr: bool = False
) -> str:
    """Adds or replaces files in a model's repository, in one commit on top of another.

    Args:
        repo_id: of the model.
        files: content by path.
        parent: the commit that the contents were made from; if there was another since, nothing is done.
        message: of the commit.
        create_pr: as a pull request.

    Returns:
        The address of the commit or the pull request.

    Raises:
        UserError: when the Hub does not take it.
    """
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    try:
        commit = persistently(
            lambda: HfApi().create_commit(
                repo_id, operations, commit_message=message, parent_commit=parent, create_pr=create_pr
            )
        )
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as error:
        raise UserError(f'"{repo_id}" was not changed: {trouble(error) or first_line(error)}.') from error
    return str(commit.pr_url or commit.commit_url)


def check_access(repo_id: str, *, create_pr: bool) -> None:
    """Refuses a model on the Hub that the user may not change, or for a pull request, a user who is not logged in.

    Raises:
        UserError: says what to do.
    """
    try:
        persistently(HfApi().whoami if create_pr else partial(HfApi().auth_check, repo_id, write=True))
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise UserError(f'"{repo_id}" cannot be changed: {trouble(error) or first_line(error)}.') from error


def newest_commit(repo_id: str) -> str:
    """The newest commit of a model on the Hub.

    Raises:
        UserError: when the Hub does not tell.
    """
    try:
        return persistently(lambda: HfApi().model_info(repo_id).sha)
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise UserError(f'"{repo_id}" cannot be read: {trouble(error) or first_line(error)}.') from error


def publish_benchmark(repo_id: str, results: Sequence[EvalResult], *, token: str | None = None) -> None:
    """Adds the tasks that results belong to to the `eval.yaml` of a dataset, which makes it a benchmark of the Hub.

    Args:
        repo_id: of the dataset. Made if it is not there.
        results: as `eval_results` gives them.
        token: default the one of `hf auth login`.

    Raises:
        UserError: when the Hub does not take it.
    """
    api = HfApi(token=token)

    def push() -> None:
        existing = ""
        if api.file_exists(repo_id, BENCHMARK_FILE, repo_type="dataset"):
            path = hf_hub_download(repo_id, BENCHMARK_FILE, repo_type="dataset", token=token)
            existing = Path(path).read_text(encoding="utf-8")
        if (content := benchmark_yaml(results, existing)) != existing:
            api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
            api.upload_file(
                path_or_fileobj=content.encode(),
                path_in_repo=BENCHMARK_FILE,
                repo_id=repo_id,
                repo_type="dataset",
                commit_message="Tasks of genaf_hf",
            )

    try:
        persistently(push)
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as error:
        raise UserError(
            f'The benchmark "{repo_id}" did not get its tasks: {trouble(error) or first_line(error)}; the model is '
            "pushed, and its results point to the benchmark."
        ) from error


def open_repository(
    folder: str | Path, repo_id: str | None = None, *, token: str | None = None, private: bool | None = None
) -> str:
    """Makes the repository that `publish` uploads to, if it is not there, and gives its full id.

    Raises:
        UserError: when the Hub does not let the user write there.
    """
    name = repo_id or Path(folder).resolve().name
    api = HfApi(token=token)
    try:
        return persistently(lambda: api.create_repo(name, private=private, exist_ok=True).repo_id)
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise UserError(f'"{name}" cannot be written to: {trouble(error) or first_line(error)}.') from error


# ---- what fails ----


def persistently(action: Callable[[], str]) -> str:
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
        return None
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
