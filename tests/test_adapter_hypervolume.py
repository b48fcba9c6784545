import math

import pytest

from genaf_hf.adapter_search.hypervolume import hypervolume, point


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], 0.0),
        ([(0.5, 0.5, 2.0)], 0.5),
        ([(0.5, 0.5, 2.0), (0.5, 0.5, 2.0)], 0.5),
        ([(0.5, 0.5, 2.0), (0.4, 0.5, 1.0)], 0.5),  # dominated
        ([(1.0, 0.5, 1.0), (0.5, 1.0, 1.0)], 0.75),
        ([(1.0, 1.0, 1.0), (0.5, 0.5, 3.0)], 1.0 + 2 * 0.25),
        ([(1.0, 0.5, 1.0), (0.5, 1.0, 2.0)], 0.75 + 0.5),
        ([(1.0, 1.0, 0.0)], 0.0),
    ],
)
def test_volumes_by_hand(points, expected):
    assert hypervolume(points) == pytest.approx(expected)
    assert hypervolume(points[::-1]) == pytest.approx(expected)


def test_size_counts_by_its_logarithm_and_a_whole_model_for_nothing():
    assert point([0.9, 0.5, 10], 1000) == (0.9, 0.5, pytest.approx(math.log(100)))
    assert point([0.9, 0.5, 1000], 1000)[2] == point([0.9, 0.5, 2000], 1000)[2] == 0.0
