"""The folder that a model lies in, with all that is told of it."""

from pathlib import Path

from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.runs.journal import write_whole
from genaf_hf.sharing.figures import draw_sweep
from genaf_hf.sharing.layout import CARD, CURVES, LAYERS_DRAWN, RECORD, REPORT, SPREADSHEET, SWEEP
from genaf_hf.sharing.model_card import model_card, pictures_in
from genaf_hf.sharing.record import TrainingRecord
from genaf_hf.sharing.training_figures import draw_layers, draw_training


def write_results(
    folder: str | Path, report: RobustnessReport, record: TrainingRecord | None = None, *, model_name: str
) -> None:
    """Report, also as a spreadsheet, record, their pictures and the card.

    What an earlier run left of these in the folder is replaced or removed.

    Args:
        folder: of the model, or of its audit.
        report: what was measured; the card is of its last model.
        record: how that was trained; None for a model that was only audited.
        model_name: Hub id or folder name under which it is loaded.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder, report)
    if record is not None:
        write_record(folder, record)
    model_card(report, record, model_name=model_name, pictures=pictures_in(folder)).save(folder / CARD)


def write_report(folder: Path, report: RobustnessReport) -> None:
    """The report, also as a spreadsheet, and its picture."""
    report.save(folder / REPORT)
    write_whole(folder / SPREADSHEET, report.to_csv())
    (folder / SWEEP).unlink(missing_ok=True)
    if report.sweep:
        draw_sweep(report, folder / SWEEP)


def write_record(folder: Path, record: TrainingRecord) -> None:
    """The record and its pictures."""
    record.save(folder / RECORD)
    for name in (LAYERS_DRAWN, CURVES):
        (folder / name).unlink(missing_ok=True)
    if record.layers:
        draw_layers(record.layers, folder / LAYERS_DRAWN)
    if record.stages:
        draw_training(record, folder / CURVES)
