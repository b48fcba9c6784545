"""Which layers of a model bear its robustness, and which ones stage 2 may change."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from genaf_hf.attacks.pgd import pgd
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.runs.journal import write_whole
from genaf_hf.sharing.layout import LAYERS
from genaf_hf.sharing.record import TRAINING_EPS
from genaf_hf.training.layers import layer_robustness, most_redundant

STEPS = 10


@dataclass(frozen=True)
class Assessment:
    """What `layer_robustness.json` holds.

    Attributes:
        method: of `layer_robustness`.
        adversary: settings of the PGD that crafted the images.
        samples: their number.
        redundant_layers: exact parameter names of those that stage 2 changes.
        contributions: of each layer to robustness, by its parameter name.
    """

    method: str
    adversary: dict
    samples: int
    redundant_layers: list[str]
    contributions: dict[str, float]

    @classmethod
    def of(
        cls,
        model: PixelModel,
        batches: Iterable[dict[str, Tensor]],
        *,
        eps: float | None,
        norm: str,
        method: str,
        redundant_share: float,
    ) -> "Assessment":
        """On images that the paper's PGD-10 with random start attacks (theirs: 8/255, in steps of 2/255).

        Args:
            model: left as it was.
            batches: `pixel_values` (n, 3, h, w) and `labels` (n,).
            eps: of the adversary, default 4/255; its steps are a quarter of it.
            norm: of the adversary.
            method: of `layer_robustness`.
            redundant_share: share of the layers that are redundant.
        """
        eps = eps or TRAINING_EPS
        adversary = {"eps": eps, "steps": STEPS, "step_size": eps / 4, "norm": norm}
        images: list[Tensor] = []
        labels: list[Tensor] = []
        seen = 0
        for batch in batches:
            clean = model.to_images(batch["pixel_values"])
            seeds = range(seen, seen := seen + len(clean))
            images.append(pgd(model, clean, batch["labels"], **adversary, seeds=seeds))
            labels.append(batch["labels"])
        contributions = layer_robustness(model, torch.cat(images), torch.cat(labels), method=method)
        return cls(method, adversary, seen, most_redundant(contributions, redundant_share), contributions)

    def save(self, folder: str | Path) -> None:
        """Writes it into the folder of a run."""
        write_whole(Path(folder) / LAYERS, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Assessment | None":
        """That of a run; None where its layers were not assessed."""
        path = Path(folder) / LAYERS
        return cls(**json.loads(path.read_text())) if path.exists() else None
