"""Pseudo-labels: clusters of directions of features."""

import pytest
import torch
from torch.nn import functional as F

from genaf_hf.errors import UserError
from genaf_hf.training.pseudo_labels import CLUSTERS, PseudoLabels


def bundles(count: int, each: int) -> torch.Tensor:
    """Features near so many axes, of lengths from 1 to 9."""
    generator = torch.Generator().manual_seed(0)
    axes = F.one_hot(torch.arange(count).repeat(each), count).float()
    lengths = 1 + 8 * torch.rand(len(axes), 1, generator=generator)
    return lengths * (axes + 0.05 * torch.randn(axes.shape, generator=generator))


def test_features_of_one_direction_have_one_label_whatever_their_length():
    labels = PseudoLabels()
    labels.fit(bundles(CLUSTERS, 8), seed=0)
    found = labels(bundles(CLUSTERS, 3)).view(3, CLUSTERS)
    assert len(found[0].unique()) == CLUSTERS
    assert torch.equal(found, found[:1].expand(3, -1))
    other = PseudoLabels()
    other.fit(bundles(CLUSTERS, 8), seed=0)
    assert torch.equal(labels.centers, other.centers)


def test_there_are_no_more_clusters_than_images():
    labels = PseudoLabels()
    labels.fit(torch.eye(3), seed=2**32)
    assert sorted(labels(5 * torch.eye(3)).tolist()) == [0, 1, 2]


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="features are not finite, so that they have no clusters"):
        PseudoLabels().fit(torch.full((3, 2), torch.nan), seed=0)


def test_images_with_the_same_features_are_refused():
    with pytest.raises(UserError, match="the same features of all images: add others"):
        PseudoLabels().fit(torch.tensor([[1.0, 2], [2, 4], [3, 6]]), seed=0)
    labels = PseudoLabels()
    labels.fit(torch.tensor([[1.0, 2], [2, 4], [2, 1]]), seed=0)
    assert len(labels.centers) == 2


def test_a_label_does_not_depend_on_the_batch():
    labels = PseudoLabels()
    cone = torch.ones(1, 64) + 1e-3 * torch.randn(1024, 64, generator=torch.Generator().manual_seed(0))
    labels.fit(cone, seed=0)
    assert torch.equal(labels(cone), torch.cat([labels(part) for part in cone.split(8)]))
