"""Classes of images that have no labels: clusters of their features (Caron et al., ECCV 2018, arXiv 1807.05520)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.errors import UserError

CLUSTERS = 10


class PseudoLabels:
    """Which cluster an image's features lie in, by their direction.

    Attributes:
        centers: (clusters, d); None before they are found.
    """

    centers: Tensor | None = None

    def fit(self, features: Tensor, seed: int) -> None:
        """Finds the clusters by k-means; as many as there are features (n, d), but at most ten.

        Raises:
            UserError: when a feature is not finite.
        """
        from sklearn.cluster import KMeans  # takes a second of import

        if not features.isfinite().all():
            raise UserError("The encoder's features are not finite, so that they have no clusters: check its weights.")
        points = F.normalize(features.double()).cpu().numpy()
        found = KMeans(min(CLUSTERS, len(points)), random_state=seed % 2**32).fit(points)
        self.centers = torch.from_numpy(found.cluster_centers_).to(features)

    def __call__(self, features: Tensor | None) -> Tensor | None:
        """Class ids (n,) of features (n, d), by the nearest center; None before there are any."""
        if self.centers is None or features is None:
            return None
        return torch.cdist(F.normalize(features), self.centers.to(features)).argmin(1)
