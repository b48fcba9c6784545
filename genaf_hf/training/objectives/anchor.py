"""Features that stay where the public encoder has them (as FARE, Schlarmann et al., ICML 2024, arXiv 2402.12336)."""

from collections.abc import Callable

import torch

from genaf_hf.evaluation.drift import relative_distance
from genaf_hf.training.global_batch import Logits, by_kind
from genaf_hf.training.objectives.objective import Loss, Objective
from genaf_hf.values.numbers import check_share


class Anchor(Objective):
    """(1 - clean_share) * drift(attacked) + clean_share * drift(clean).

    Both drifts are from the features that the frozen public encoder has of the clean image, see `relative_distance`.
    FARE is that of attacked images alone, without the division; it leaves it to chance how far clean features move.

    Args:
        clean_share: in [0, 1]; the higher, the less clean features move.
        single_pass: pass each image through the model once, as for `CrossEntropy`.

    Raises:
        UserError: for a share out of this range.
    """

    reads_features, reads_labels = True, False

    def __init__(self, clean_share: float, single_pass: bool = False):
        check_share("clean_share", clean_share)
        self.clean_share = clean_share
        self.stay_clean = clean_share if single_pass else 0.0
        self.reads_clean = clean_share > 0 and not single_pass
        self.losses = ("attacked_drift", *(["clean_drift"] if clean_share > 0 else []))

    def __call__(self, own: Logits, whole: Callable[[], Logits], *, eps_share: float, label_smoothing: float) -> Loss:
        features = own.features
        each = relative_distance(features.attacked, features.public)
        if own.stays_clean is not None:
            clean, attacked = by_kind(own.stays_clean, each)
            return Loss(each.mean(), terms={"attacked_drift": attacked, "clean_drift": clean})
        attacked = each.mean()
        if not self.clean_share:
            return Loss(attacked, terms={"attacked_drift": attacked})
        clean = relative_distance(features.clean, features.public).mean()
        drifts = {"attacked_drift": attacked, "clean_drift": clean}
        return Loss(torch.lerp(attacked, clean, self.clean_share), terms=drifts)
