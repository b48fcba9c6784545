"""Where models and data come from, told without anybody's paths."""

import os
from pathlib import Path


def public_name(name_or_path: str) -> str:
    """A Hub id as it is, and a local folder by its name alone."""
    path = Path(name_or_path)
    # Of any text, which may be too long for a path; and an empty one is no folder, although Path takes it for ".".
    local = path.is_absolute() or (name_or_path and os.path.exists(path))
    return path.resolve().name if local else name_or_path


def model_source(config) -> tuple[str | None, str | None]:
    """Name and commit of the checkpoint that a `transformers` model was loaded from, None where not known."""
    return public_name(config.name_or_path) if config.name_or_path else None, commit_of(config)


def commit_of(config) -> str | None:
    """The commit that a configuration was loaded from; None where not known."""
    return getattr(config, "_commit_hash", None)


def set_commit(config, commit: str | None) -> None:
    """Has a configuration know the commit that it, or what it was made of, was loaded from."""
    config._commit_hash = commit
