"""What a run leaves beside a model: report, training record, pictures and card."""

from pathlib import Path

from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.sharing.eval_results import REPORT_FILE
from genaf_hf.sharing.existing_card import CARD
from genaf_hf.sharing.figures import draw_sweep
from genaf_hf.sharing.model_card import model_card, pictures_in
from genaf_hf.sharing.record import RECORD, TrainingRecord
from genaf_hf.sharing.training_figures import draw_layers, draw_training


def write_results(folder: str | Path, report: RobustnessReport, record: TrainingRecord, *, model_name: str) -> None:
    """Report, record, their pictures and the card.

    What an earlier run left of these in the folder is replaced or removed.

    Args:
        folder: of the model.
        report: what was measured; the card is of its last model.
        record: how that was trained.
        model_name: Hub id or folder name under which it is loaded.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report.save(folder / REPORT_FILE)
    record.save(folder / RECORD)
    for name in ("accuracy_by_eps.png", "layer_robustness.png", "training_curves.png"):
        (folder / name).unlink(missing_ok=True)
    if report.sweep:
        draw_sweep(report, folder / "accuracy_by_eps.png")
    if record.layers:
        draw_layers(record.layers, folder / "layer_robustness.png")
    if record.stages:
        draw_training(record, folder / "training_curves.png")
    model_card(report, record, model_name=model_name, pictures=pictures_in(folder)).save(folder / CARD)
