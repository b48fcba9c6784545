"""How much of what could be wished for a set of adapters gives: of accuracy, robustness and smallness at once."""

import math
from collections.abc import Sequence


def point(values: Sequence[float], whole: int) -> tuple[float, float, float]:
    """Three numbers, the more the better: the two accuracies, and how often the parameters halve the whole, in nats.

    Args:
        values: clean accuracy, robust accuracy, trainable parameters.
        whole: parameters of the whole model; as many trainable ones are worth nothing.
    """
    clean, robust, parameters = values
    return clean, robust, max(0.0, math.log(whole / parameters))


def hypervolume(points: Sequence[tuple[float, float, float]]) -> float:
    """Volume of what lies below any of the points, in the positive octant.

    Zitzler and Thiele, PPSN 1998, https://doi.org/10.1007/BFb0056872.
    """
    volume, ordered = 0.0, sorted(points, key=lambda each: -each[2])
    for index, (*_, height) in enumerate(ordered):
        below = ordered[index + 1][2] if index + 1 < len(ordered) else 0.0
        volume += (height - below) * area([each[:2] for each in ordered[: index + 1]])
    return volume


def area(points: Sequence[tuple[float, float]]) -> float:
    """Area of what lies below any of the points, in the positive quadrant."""
    found, reached = 0.0, 0.0
    for x, y in sorted(points, reverse=True):
        found += x * max(0.0, y - reached)
        reached = max(reached, y)
    return found
