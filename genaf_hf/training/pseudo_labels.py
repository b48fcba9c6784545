"""Classes of images that have no labels: clusters of their features (Caron et al., ECCV 2018, arXiv 1807.05520)."""

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.errors import UserError

CLUSTERS = 10


class PseudoLabels:
    """Which cluster an image's features lie in, by their direction.

    Attributes:
        centers: (clusters, d), the same on all processes; None before they are found.
    """

    centers: Tensor | None = None

    def fit(self, features: Tensor, seed: int) -> None:
        """Finds the clusters by k-means; as many as there are different features (n, d), but at most ten.

        Raises:
            UserError: when a feature is not finite, or all are alike.
        """
        from sklearn.cluster import KMeans  # takes a second of import

        if not features.isfinite().all():
            raise UserError("The encoder's features are not finite, so that they have no clusters: check its weights.")
        points = F.normalize(features.cpu().double()).numpy()
        different = len(np.unique(points.round(6), axis=0))
        if different < 2:
            raise UserError("The encoder has the same features of all images: add others, or take another encoder.")
        found = KMeans(min(CLUSTERS, different), random_state=seed % 2**32).fit(points)
        [centers] = broadcast_object_list([found.cluster_centers_])
        self.centers = torch.from_numpy(centers).to(features)

    def __call__(self, features: Tensor) -> Tensor:
        """Class ids (n,) of features (n, d), by the nearest center."""
        directions, centers = F.normalize(features), self.centers.to(features)
        return torch.cdist(directions, centers, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
