"""What lies beside a hardened encoder: how far its features moved, what probes of them withstand, and its card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING, AutoConfig

from genaf_hf.evaluation.drift import Drift, drift_table
from genaf_hf.evaluation.measurement import CLEAN
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.runs.journal import write_whole
from genaf_hf.sharing.eval_results import eval_results
from genaf_hf.sharing.existing_card import HARDENED_ENCODER_TAG
from genaf_hf.sharing.figures import draw_drift
from genaf_hf.sharing.hub_metadata import CardData, card, known_license, on_hub
from genaf_hf.sharing.layout import CARD, DRIFT, DRIFT_DRAWN, PICTURES, REPORT
from genaf_hf.sharing.model_card import OWN_CLASS, TAGS, citations, filled, pictures_in
from genaf_hf.sharing.record import TrainingRecord
from genaf_hf.sharing.result_folder import write_record, write_report
from genaf_hf.values.markup import plain


def write_encoder_results(
    folder: str | Path,
    drifts: Sequence[Drift],
    reports: Mapping[str, RobustnessReport],
    record: TrainingRecord,
    *,
    model_name: str,
    encoder_class: str,
    features: str | None,
    pooling: str | None = None,
) -> None:
    """Drift, reports and record with their pictures, and the card.

    Args:
        folder: of the encoder.
        drifts: of the public and of the hardened encoder, as `measure_drift` gives them.
        reports: on linear probes of the features of each, by their places in the folder.
        record: how it was trained.
        model_name: Hub id or folder name under which it is loaded.
        encoder_class: of `transformers`.
        features: code that reads them of `outputs`; None where there is none.
        pooling: that was asked for, of features that no head of `transformers` reads; else None.
    """
    folder = Path(folder)
    write_whole(folder / DRIFT, json.dumps([asdict(each) for each in drifts], indent=2) + "\n")
    draw_drift(drifts, folder / DRIFT_DRAWN)
    for place, report in reports.items():
        if place == REPORT:
            write_report(folder, report)
        else:
            write_whole(folder / place, report.to_json())
    write_record(folder, record)
    subject = drifts[-1].model
    dataset = on_hub(record.data)
    told = (eval_results(report, subject, report_path=place) for place, report in reports.items())
    metadata = CardData(
        base_model=on_hub(record.base_model),
        datasets=[dataset] if dataset else None,
        license=known_license(record.base_model["license"]),
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=[*TAGS, HARDENED_ENCODER_TAG],
        model_name=model_name,
        eval_results=[*chain.from_iterable(told)] or None,
    )
    content = filled(
        "encoder_card.md",
        model_name=model_name,
        encoder_class=encoder_class,
        **ways_to_load(folder, features, pooling),
        record=record,
        reports=reports,
        drift_table=drift_table(drifts, plain),
        clean_drift=next(each for each in drifts if (each.model, each.attack) == (subject, CLEAN)),
        drift_count=drifts[0].count,
        pictures={name: words for name, words in PICTURES.items() if name in pictures_in(folder)},
        citations=citations([*drifts, *chain.from_iterable(each.measurements for each in reports.values())], record),
    )
    card(metadata, content).save(folder / CARD)


def ways_to_load(folder: str | Path, features: str | None, pooling: str | None = None) -> dict[str, Any]:
    """What a card has to know of an encoder to say how it is loaded, as values of `load_encoder.md`.

    Args:
        folder: that holds its configuration.
        features: code that reads them of `outputs`.
        pooling: as for `write_encoder_results`.
    """
    config = AutoConfig.from_pretrained(folder)
    options, why = {}, ""
    if hasattr(config, "mask_ratio"):
        options, why = {"mask_ratio": 0.0}, "else it hides patches from itself"
    if "pooler_output" in (features or ""):
        layer = signature(MODEL_MAPPING[type(config)]).parameters.get("add_pooling_layer")
        if layer is not None and not layer.default:
            options, why = {"add_pooling_layer": True}, "whose output is hardened"
    return {
        "own_class": config.architectures == [OWN_CLASS],
        "has_classifier": pooling is None and type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        "pooling": pooling,
        "options": options,
        "why": why,
        "called": "encoder.vision_model" if hasattr(config, "vision_config") else "encoder",
        "features": features,
    }
