"""Features that stay where the public encoder has them (as FARE, Schlarmann et al., ICML 2024, arXiv 2402.12336)."""

from collections.abc import Callable, Mapping

import torch

from genaf_hf.errors import UserError
from genaf_hf.evaluation.drift import relative_distance
from genaf_hf.training.global_batch import Logits, means_by
from genaf_hf.training.objectives.objective import Loss, Objective
from genaf_hf.values.numbers import is_number


class Anchor(Objective):
    """weight * ((1 - clean_share) * drift(attacked) + clean_share * drift(clean)), alone or beside another objective.

    Both drifts are from the features that the frozen public encoder has of the clean image, see `relative_distance`.
    FARE is that of attacked images alone, without the division; it leaves it to chance how far clean features move.

    Args:
        clean_share: in [0, 1]; the higher, the less clean features move.
        single_pass: pass each image through the model once, as for `CrossEntropy`.
        weight: of the whole.
        beside: another objective, whose loss it is added to, and which says whether there is a single pass.

    Raises:
        UserError: for a share out of this range, or a weight that is no positive number.
    """

    reads_features = True

    def __init__(
        self, clean_share: float, single_pass: bool = False, *, weight: float = 1.0, beside: Objective | None = None
    ):
        if not is_number(clean_share) or not 0 <= clean_share <= 1:
            raise UserError(f"clean_share is {clean_share}, expected a share in [0, 1].")
        if not is_number(weight) or weight <= 0:
            raise UserError(f"The weight of the anchor is {weight}, expected a positive number.")
        self.clean_share, self.weight, self.beside = clean_share, weight, beside
        drifts = ("attacked_drift", *(["clean_drift"] if clean_share > 0 else []))
        if beside is None:
            self.stay_clean = clean_share if single_pass else 0.0
            self.reads_clean = clean_share > 0 and not single_pass
            self.reads_labels, self.losses = False, drifts
        else:
            self.stay_clean = beside.stay_clean
            self.reads_clean = beside.reads_clean or (clean_share > 0 and not beside.stay_clean)
            self.relates_rows, self.reads_labels = beside.relates_rows, beside.reads_labels
            self.losses, self.penalties = beside.losses, (*beside.penalties, *drifts)

    def __call__(self, own: Logits, whole: Callable[[], Logits], *, eps_share: float, label_smoothing: float) -> Loss:
        features = own.features
        each = relative_distance(features.attacked, features.public)
        if own.stays_clean is not None:
            clean, attacked = means_by(own.stays_clean, each)
            anchor, terms = each.mean(), {"attacked_drift": attacked, "clean_drift": clean}
        elif self.clean_share > 0:
            clean, attacked = relative_distance(features.clean, features.public).mean(), each.mean()
            anchor = torch.lerp(attacked, clean, self.clean_share)
            terms = {"attacked_drift": attacked, "clean_drift": clean}
        else:
            anchor, terms = each.mean(), {"attacked_drift": each.mean()}
        if self.beside is None:
            return Loss(self.weight * anchor, terms=terms)
        found = self.beside(own, whole, eps_share=eps_share, label_smoothing=label_smoothing)
        return Loss(found.of_rows + self.weight * anchor, found.of_update, {**found.terms, **terms})

    def advice(self, logs: Mapping[str, float]) -> str | None:
        return None if self.beside is None else self.beside.advice(logs)
