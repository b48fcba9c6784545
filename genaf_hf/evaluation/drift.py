"""How far a hardening, and attacks, move the features of an encoder: what can be told without any label."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.evaluation.answers import my_batches
from genaf_hf.evaluation.measurement import CLEAN, norm_and_eps
from genaf_hf.evaluation.threats import Threat
from genaf_hf.models.identity import digest, encoder_digest
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.runs.journal import Journal
from genaf_hf.values.markup import markdown

TINY = 1e-12


@dataclass(frozen=True)
class Drift:
    """How far the features of one model under one attack are from those that the public encoder has of clean images.

    Attributes:
        model: the model's name.
        attack: the attack's name, `"clean"` for none.
        knowledge: what the attacker knew.
        settings: everything that the attack was run with.
        distance: mean over the images of ||f - p||^2 / ||p||^2.
        cosine: mean over the images of the cosine similarity of f and p.
        count: all images.
    """

    model: str
    attack: str
    knowledge: str
    settings: dict
    distance: float
    cosine: float
    count: int


def measure_drift(
    models: Mapping[str, PixelModel],
    public: PixelModel,
    dataset: Dataset,
    threats: Sequence[Threat],
    *,
    batch_size: int = 64,
    workers: int = 0,
    seed: int = 0,
    journal: Journal | None = None,
) -> list[Drift]:
    """The drift of each model, clean and under each threat. Works under `accelerate launch`, as an evaluation does.

    Args:
        models: by name; all take the same images.
        public: the encoder that they were made from.
        dataset: yields `pixel_values`, and `labels` where an attack needs them.
        threats: that were crafted.
        batch_size: images at a time.
        workers: processes that read them meanwhile, on each process.
        seed: image i of the dataset starts from seed + i.
        journal: remembers what was measured, so that a killed measurement goes on where it was.
    """
    journal, goal = journal or Journal(), encoder_digest(public)
    reading = {"batch_size": batch_size, "workers": workers, "seed": seed}
    drifts = []
    for name, model in models.items():
        identity = [encoder_digest(model), goal, len(dataset), seed]
        for threat in (None, *threats):
            step, of = CLEAN, digest(identity, {})
            if threat is not None:
                step, of = threat.name, digest([*identity, threat.settings(name)], threat.tensors(name))
            measure = partial(one_drift, name, model, public, dataset, threat, **reading)
            drifts.append(Drift(**journal.once(f"drift.{name}.{step}", measure, of=of)))
    return drifts


def one_drift(
    name: str,
    model: PixelModel,
    public: PixelModel,
    dataset: Dataset,
    threat: Threat | None,
    *,
    batch_size: int,
    workers: int,
    seed: int,
) -> dict:
    """The `Drift` of one model under one threat, as JSON takes it; None is clean."""
    label = CLEAN if threat is None else threat.name
    rows: list[tuple[int, float, float]] = []
    with evaluating(model), evaluating(public):
        for indices, batch in my_batches(dataset, batch_size, workers=workers, title=f"{name}: drift, {label}"):
            images = attacked = public.to_images(batch["pixel_values"])
            if threat is not None:
                labels = batch.get("labels", torch.zeros(len(images), dtype=torch.long))
                attacked = threat.on(name)(model, images, labels, seeds=[seed + i for i in indices])
            with torch.no_grad():
                found, goal = model.features(attacked), public.features(images)
            cosines = F.cosine_similarity(found, goal)
            rows += zip(indices, relative_distance(found, goal).tolist(), cosines.tolist(), strict=True)
    rows = sorted(gather_object(rows))  # of any number of processes in one order, so that the sums are the same
    knowledge, settings = ("nothing", {}) if threat is None else (threat.knowledge, threat.settings(name))
    distance, cosine = (sum(row[column] for row in rows) / len(rows) for column in (1, 2))
    return asdict(Drift(name, label, knowledge, settings, distance, cosine, len(rows)))


def relative_distance(features: Tensor, goal: Tensor) -> Tensor:
    """The squared distance of features (n, d) from others by the squared norm of these, (n,)."""
    return (features - goal).square().sum(1) / goal.square().sum(1).clamp(min=TINY)


def drift_table(drifts: Sequence[Drift], text: Callable[[str], str] = str) -> str:
    """A Markdown table: a row per attack, and for each model its distance and its cosine similarity.

    Args:
        drifts: of all models under the same attacks.
        text: what names pass through, to be escaped where the table is to be rendered.
    """
    models = list(dict.fromkeys(each.model for each in drifts))
    rows = [["attack", "attacker knows", "eps", *map(text, models)]]
    for attack in dict.fromkeys(each.attack for each in drifts):
        found = [each for each in drifts if each.attack == attack]
        eps = "-" if attack == CLEAN else norm_and_eps(found[0].settings)[1]
        values = [f"{each.distance:.3f} (cosine {each.cosine:.3f})" for each in found]
        rows.append([*map(text, (attack, found[0].knowledge, eps)), *values])
    return markdown(rows)
