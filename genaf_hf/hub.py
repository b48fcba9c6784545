"""Sharing results on the Hub."""

from pathlib import Path

from huggingface_hub import HfApi

PUBLISHED = (
    *("README.md", "report.json", "overview.png", "perturbation/perturbation.safetensors"),
    *("config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("adapter_config.json", "adapter_model*.safetensors", "preprocessor_config.json", "processor_config.json"),
)


def publish(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Hardened with Gen-AF",
) -> str:
    """Uploads a model with its processor, card, report, picture and perturbation, and nothing else of the folder.

    Args:
        folder: what `harden` or `GenAFTrainer.save_model` left.
        repo_id: where to, default the folder's name in the user's own namespace. Made if it is not there.
        token: default the one of `hf auth login`.
        private: whether a new repository is private.
        revision: branch to upload to. Made if it is not there.
        message: of the commit.

    Returns:
        The address of the commit.
    """
    folder = Path(folder)
    files = [path.relative_to(folder).as_posix() for pattern in PUBLISHED for path in sorted(folder.glob(pattern))]
    api = HfApi(token=token)
    repository = api.create_repo(repo_id or folder.resolve().name, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repository.repo_id, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repository.repo_id,
        folder_path=folder,
        allow_patterns=files,
        revision=revision,
        commit_message=message,
    )
    return str(commit.commit_url)


def published_name(folder: str | Path, repo_id: str | None = None, *, token: str | None = None) -> str:
    """The full id that `publish` uploads to: with the user's own namespace where none is named.

    Raises:
        ValueError: when the Hub does not know the user.
    """
    name = repo_id or Path(folder).resolve().name
    if "/" in name:
        return name
    try:
        return f"{HfApi(token=token).whoami()['name']}/{name}"
    except OSError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(f'The Hub does not say who would own "{name}"; see `hf auth login` ({reason}).') from error
