"""Sharing results on the Hub."""

from pathlib import Path

from huggingface_hub import HfApi

from genaf_hf.errors import first_line

PUBLISHED = (
    *("README.md", "report.json", "layer_robustness.json", "overview.png", "perturbation/perturbation.safetensors"),
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

    Raises:
        ValueError: when the Hub does not let the user write there.
    """
    folder = Path(folder)
    files = [path.relative_to(folder).as_posix() for pattern in PUBLISHED for path in sorted(folder.glob(pattern))]
    repo_id = open_repository(folder, repo_id, token=token, private=private)
    api = HfApi(token=token)
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


def open_repository(
    folder: str | Path, repo_id: str | None = None, *, token: str | None = None, private: bool | None = None
) -> str:
    """Makes the repository that `publish` uploads to, if it is not there, and gives its full id.

    Raises:
        ValueError: when the Hub does not let the user write there.
    """
    name = repo_id or Path(folder).resolve().name
    try:
        return HfApi(token=token).create_repo(name, private=private, exist_ok=True).repo_id
    except OSError as error:
        raise ValueError(
            f'The Hub does not let you write to "{name}"; see `hf auth login` ({first_line(error)}).'
        ) from error
