"""What an audit found, written into the card of the model."""

from functools import partial
from pathlib import Path

import httpx2

from genaf_hf.errors import UserError, first_line
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.hub import persistently, trouble, why_not_loaded
from genaf_hf.runs.journal import write_whole
from genaf_hf.sharing.card_update import found_less, update_card
from genaf_hf.sharing.existing_card import read_card
from genaf_hf.sharing.layout import AUDIT, CARD, REPORT
from genaf_hf.sharing.model_card import TAGS, findings, metadata, pictures_in
from genaf_hf.sharing.publishing import check_access, commit_files, newest_commit
from genaf_hf.sharing.verdict import doubts, verdict
from genaf_hf.values.provenance import public_name

ANY_FINDINGS = {
    "tags": list(TAGS),
    "model-index": [{"name": "any", "results": [{"metrics": [{"args": {"report": REPORT}}]}]}],
}


def check_card(model_name_or_path: str, *, create_pr: bool) -> None:
    """Refuses a card that could not be updated.

    Raises:
        UserError: says what is wrong with it, or that the user may not write there.
    """
    try:
        card = read_card(model_name_or_path)
    except (OSError, UnicodeDecodeError, httpx2.HTTPError) as error:
        raise UserError(
            why_not_loaded(error, "model", model_name_or_path)
            or f'The card of "{model_name_or_path}" cannot be read: {first_line(error)}.'
        ) from error
    try:
        update_card(card, "", ANY_FINDINGS)
    except ValueError as error:
        raise UserError(f'The card of "{model_name_or_path}" cannot be updated, {error}: mend it first.') from error
    if not Path(model_name_or_path).is_dir():
        check_access(model_name_or_path, create_pr=create_pr)


def share_findings(model_name_or_path: str, folder: str | Path, report: RobustnessReport, *, create_pr: bool) -> str:
    """Puts the findings into the model's own card, and report and pictures into `audit/` beside it.

    Where they are worse than what the card tells of another report, the verdict stands above all else.

    Args:
        model_name_or_path: Hub id or local folder of the model.
        folder: of the audit.
        report: what was found.
        create_pr: on the Hub, as a pull request.

    Returns:
        Where the card is.

    Raises:
        UserError: when the Hub does not take it.
    """
    folder, name = Path(folder), public_name(model_name_or_path)
    pictures = pictures_in(folder)
    section = findings(report, model_name=name, pictures=pictures, folder=AUDIT)
    known = metadata(report, None, name, report_path=f"{AUDIT}/{REPORT}").to_dict()

    def updated(card: str) -> bytes:
        return update_card(card, section, known, headline(report) if found_less(card, known) else "").encode()

    files = {f"{AUDIT}/{each}": (folder / each).read_bytes() for each in (REPORT, *pictures)}
    if Path(model_name_or_path).is_dir():
        files[CARD] = updated(read_card(model_name_or_path))
        for place, content in files.items():
            write_whole(Path(model_name_or_path, place), content)
        return str(Path(model_name_or_path, CARD))
    try:
        parent = newest_commit(name)
        card = persistently(partial(read_card, name, revision=parent))
        files[CARD] = updated(card)
        return commit_files(name, files, parent=parent, create_pr=create_pr, message="Audited with genaf_hf")
    except (OSError, ValueError, httpx2.HTTPError) as error:
        reason = trouble(error) or first_line(error)
        raise UserError(f'The card of "{name}" was not updated: {reason}; everything is kept in {folder}.') from error


def headline(report: RobustnessReport) -> str:
    """What an audit found, in a few sentences, for the top of a card that tells better results."""
    doubted = "".join(f" **{each}**" for each in doubts(report))
    found = verdict(report)
    return (
        f"**An audit found less than is told below.**{doubted} {found} *Adversarial robustness* below tells all of it."
    )
