"""Models of the Hub with their cards and reports, by as few requests as there can be."""

from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, ModelInfo, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from genaf_hf.errors import UserError, first_line
from genaf_hf.leaderboard.check import Report, check, is_path
from genaf_hf.leaderboard.entries import Leaderboard, base_model, read_card, text
from genaf_hf.sharing.existing_card import HARDENED_ENCODER_TAG, names_hardened_encoder

EXPAND = ["lastModified", "model-index", "sha", "tags"]
LARGEST_REPORT = 2 * 2**20
THREADS = 8


def collect(tag: str = "genaf", models: Sequence[str] = (), *, verify_reports: bool = True) -> Leaderboard:
    """What the cards of models on the Hub say of their robustness, checked.

    Models are found by one listing of what everybody can see, which holds the metadata of their cards, and another one
    tells which of the encoders that they come from were hardened. Reports are fetched once for each commit, and kept in
    the cache of `huggingface_hub`.

    Args:
        tag: that the models have.
        models: ids, instead of the tag; one request each, as the user who is logged in.
        verify_reports: whether the reports that the cards cite are fetched and compared.

    Raises:
        UserError: when there is no such model, or the Hub cannot be reached.
    """
    api = HfApi()
    try:
        found = by_ids(api, models) if models else by_tag(api, tag)
        hardened = {info.id for info in api.list_models(filter=HARDENED_ENCODER_TAG, expand=["tags"], token=False)}
    except (OSError, httpx2.HTTPError) as error:
        raise UserError(f"The Hub at {api.endpoint} cannot be read: {first_line(error)}.") from error
    if not found:
        raise UserError(f'No public model on {api.endpoint} has the tag "{tag}"; name another tag, or ids by --models.')
    cards = [read_card(info) for info in found]
    entries = [entry for entries, _ in cards for entry in entries]
    hardened |= {info.id for info in found if names_hardened_encoder(info.tags)}  # also the user's private ones
    shown = {name for info in found for name in (info.id, base_model(info))}
    cited = {(each.model, each.commit, each.report): None for each in entries if is_path(each.report)}
    return Leaderboard(
        source=", ".join(models) if models else f"the tag {tag}",
        endpoint=api.endpoint,
        collected=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        models=len(found),
        entries=check(entries, fetch_reports(list(cited)) if verify_reports else None),
        left_out=[each for _, left_out in cards for each in left_out],
        hardened_encoders=sorted(hardened & shown),
    )


def by_tag(api: HfApi, tag: str) -> list[ModelInfo]:
    # Without a token: nobody's private models belong on a page for everybody.
    listed = api.list_models(filter=tag, expand=EXPAND, token=False)
    return list(tqdm(listed, desc="Models", unit=""))


def by_ids(api: HfApi, ids: Sequence[str]) -> list[ModelInfo]:
    found = []
    for model in tqdm(dict.fromkeys(ids), desc="Models", unit=""):
        try:
            found.append(api.model_info(model, expand=EXPAND))
        except (HFValidationError, RepositoryNotFoundError) as error:
            raise UserError(
                f'There is no model "{model}" on {api.endpoint}; check its spelling, and `hf auth login` if it is '
                f"private ({first_line(error)})."
            ) from error
    return found


def fetch_reports(cited: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str], Report]:
    """Reports by model and path, by several threads.

    Args:
        cited: model, commit and path of each.
    """
    reports = thread_map(fetch_report, cited, max_workers=THREADS, desc="Reports", unit="")
    return {(model, path): report for (model, _, path), report in zip(cited, reports, strict=True)}


def fetch_report(cited: tuple[str, str, str]) -> Report:
    model, commit, path = cited
    download = partial(hf_hub_download, model, path, revision=commit)
    try:
        size = download(dry_run=True).file_size
        if size is None or size > LARGEST_REPORT:
            return Report(missing=f"it has {size} bytes, expected at most {LARGEST_REPORT}")
        return Report(Path(download()).read_bytes())
    except (OSError, ValueError, httpx2.HTTPError, EntryNotFoundError) as error:
        return Report(missing=text(first_line(error)))
