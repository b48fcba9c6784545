"""Sharing models and results on the Hub."""

import logging
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import httpx2
from accelerate import PartialState
from huggingface_hub import CommitOperationAdd, HfApi
from transformers import TrainingArguments

from genaf_hf.errors import UserError, first_line
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.hub import Result, persistently, trouble
from genaf_hf.sharing.layout import RECORD, REPORT, REPORTS_OF_TASKS, published_in
from genaf_hf.sharing.record import TrainingRecord

logger = logging.getLogger(__name__)

OF_MODELS = ("config.json", "adapter_config.json")


def publish(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
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
        message: of the commit, default one that names the defence.
        push_anyway: also a model whose report says that its robust accuracies are unreliable.

    Returns:
        The address of the commit.

    Raises:
        UserError: when there is no model to publish, it failed a self-check of its report, or the Hub does not take it:
            says why, and the command that goes on.
    """
    folder = Path(folder)
    files = published_in(folder)
    if not {*OF_MODELS} & {*files}:
        said = f"{folder} holds no model to publish, expected {' or '.join(OF_MODELS)} in it"
        if REPORT in files:
            said += "; what an audit found is added to the card of its model by genaf-hf audit --update_card"
        raise UserError(f"{said}.")
    name = repo_id or folder.resolve().name
    privacy = {None: (), True: ("--private",), False: ("--no-private",)}[private]
    branch = () if revision is None else ("--revision", revision)
    command = shlex.join(["genaf-hf", "push", str(folder), name, *privacy, *branch])
    if doubt := None if push_anyway else why_unreliable(folder):
        raise UserError(
            f'"{name}" was not pushed: {doubt}; everything is kept in {folder}, and this command pushes it all the '
            f"same: {command} --push_anyway"
        )
    message = message or message_of(folder)
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

    command += " --push_anyway" * push_anyway
    kept = f"; everything is kept in {folder}, and this command goes on: {command}"
    return on_the_hub(push, f'"{name}" was not pushed', kept)


def message_of(folder: Path) -> str:
    """What a push of a folder is called: by the defence that trained its model, where that is known."""
    record = TrainingRecord.load(folder / RECORD) if (folder / RECORD).exists() else None
    if record is None or record.defence is None:
        return "Model, report and card"
    return f"Defence {record.defence['name']}: {record.defence['title']}"


def why_unreliable(folder: Path) -> str | None:
    """Why the robust accuracies of a folder's model cannot be trusted, within a sentence; None where they can.

    Raises:
        UserError: when the report cannot be read.
    """
    for path in sorted(folder.glob(REPORT)) + sorted(folder.glob(REPORTS_OF_TASKS)):
        report = RobustnessReport.load(path)
        if not report.is_trusted(report.subject):
            failed = "; ".join(check.name for check in report.failed_by(report.subject))
            if failed:
                return f"it failed the self-checks of its report ({failed})"
            return "its report has no self-check of it"
    return None


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
    settings = {"commit_message": message, "parent_commit": parent, "create_pr": create_pr}
    commit = on_the_hub(partial(HfApi().create_commit, repo_id, operations, **settings), f'"{repo_id}" was not changed')
    return str(commit.pr_url or commit.commit_url)


def check_access(repo_id: str, *, create_pr: bool) -> None:
    """Refuses a model on the Hub that the user may not change, or for a pull request, a user who is not logged in.

    Raises:
        UserError: says what to do.
    """
    may = HfApi().whoami if create_pr else partial(HfApi().auth_check, repo_id, write=True)
    on_the_hub(may, f'"{repo_id}" cannot be changed')


def newest_commit(repo_id: str) -> str:
    """The newest commit of a model on the Hub.

    Raises:
        UserError: when the Hub does not tell.
    """
    return on_the_hub(lambda: HfApi().model_info(repo_id).sha, f'"{repo_id}" cannot be read')


def open_result(folder: Path, config: TrainingArguments) -> str:
    """The model's name; where it is to be pushed that of its repository, which is made before any work.

    Raises:
        UserError: when the Hub does not let the user write there.
    """
    if not config.push_to_hub or not PartialState().is_main_process:
        return folder.resolve().name
    name, api = config.hub_model_id or folder.resolve().name, HfApi(token=config.hub_token)
    made = partial(api.create_repo, name, private=config.hub_private_repo, exist_ok=True)
    return on_the_hub(lambda: made().repo_id, f'The repository "{name}" of the Hub cannot be written to')


def push_result(
    folder: Path, config: TrainingArguments, name: str, *, message: str | None = None, push_anyway: bool = False
) -> None:
    """Uploads what `open_result` named, where it is to be pushed; `message` and `push_anyway` as in `publish`.

    Raises:
        UserError: as `publish`.
    """
    if config.push_to_hub and PartialState().is_main_process:
        sharing = {"token": config.hub_token, "private": config.hub_private_repo, "revision": config.hub_revision}
        url = publish(folder, name, message=message, push_anyway=push_anyway, **sharing)
        logger.info("Pushed to %s", url)


def on_the_hub(action: Callable[[], Result], failed: str, end: str = ".") -> Result:
    """The result of an action on the Hub, for which it is asked persistently.

    Args:
        action: asks the Hub.
        failed: the sentence that says what is not done where the Hub does not do it, up to the reason.
        end: of the sentence.

    Raises:
        UserError: with that sentence.
    """
    try:
        return persistently(action)
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as error:
        raise UserError(f"{failed}: {trouble(error) or first_line(error)}{end}") from error
