import math

import pytest
import torch

from genaf_hf.evaluation.neighbors import Neighbors


def at(*cosines: float) -> torch.Tensor:
    """Features of length 1 with these cosines to (1, 0)."""
    return torch.tensor([[cosine, math.sqrt(1 - cosine**2)] for cosine in cosines])


QUERY = torch.tensor([[1.0, 0.0]])


@pytest.mark.parametrize(("farther", "answer"), [(4, 0), (5, 1)])
def test_votes_by_hand(farther, answer):
    """A neighbor at cosine 0.9 has exp(-0.1 / 0.07) = 0.2397 of the vote of one at cosine 1: five outvote it."""
    vote = Neighbors(at(1.0, *[0.9] * farther), torch.tensor([0, *[1] * farther]), 3)
    assert vote(QUERY).tolist() == [answer]


def test_only_the_twenty_nearest_vote():
    """A neighbor at cosine 0.49 has 0.867 of the vote of one at cosine 0.5: twenty-four would outvote twenty."""
    nearer, farther = at(*[0.5] * 20), at(*[0.49] * 24)
    for bank, labels in (([nearer, farther], [0] * 20 + [1] * 24), ([farther, nearer], [1] * 24 + [0] * 20)):
        assert Neighbors(torch.cat(bank), torch.tensor(labels), 2)(QUERY).tolist() == [0]
    assert Neighbors(torch.cat([nearer[:19], farther]), torch.tensor([0] * 19 + [1] * 24), 2)(QUERY).tolist() == [0]
    assert Neighbors(torch.cat([nearer[:9], farther]), torch.tensor([0] * 9 + [1] * 24), 2)(QUERY).tolist() == [1]


def test_the_twentieth_votes_and_the_one_after_it_does_not():
    """At cosines so near that all votes weigh about the same."""
    after = Neighbors(at(*[0.5] * 10, *[0.4999] * 11), torch.tensor([0] * 10 + [1] * 11), 2)
    twentieth = Neighbors(at(*[0.5] * 9, 0.49995, *[0.4999] * 10), torch.tensor([0] * 9 + [2] + [1] * 10), 3)
    assert (after(QUERY).tolist(), twentieth(QUERY).tolist()) == ([0], [1])


def test_all_vote_where_there_are_fewer():
    assert Neighbors(at(0.5, -0.5), torch.tensor([2, 1]), 4)(QUERY).tolist() == [2]
    assert Neighbors(at(0.5, -0.5), torch.tensor([2, 1]), 4)(-QUERY).tolist() == [1]


def test_the_length_of_features_does_not_count():
    lengths = torch.tensor([[100.0], [0.01], [1.0]])
    vote = Neighbors(at(0.9, 0.8, -1.0) * lengths, torch.tensor([0, 1, 2]), 3)
    assert vote(torch.cat([QUERY, 1000 * QUERY, -0.001 * QUERY])).tolist() == [0, 0, 2]


def test_an_image_of_the_bank_finds_itself():
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert Neighbors(features, torch.arange(50), 50)(features).tolist() == list(range(50))
