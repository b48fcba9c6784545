"""Random draws for each image of a batch, which depend on its seed alone."""

from collections.abc import Sequence

import numpy as np

ODD = 0x9E3779B97F4A7C15  # between the draws of a seed
PERTURBATION, ADVERSARY, CORNER, MIRROR, OF_CLASS, ASCENT = range(6)  # what each draw decides


def mixed_bits(seeds: Sequence[int], draw: int) -> np.ndarray:
    """64 random bits for each seed, by SplitMix64 (Steele et al., OOPSLA 2014), as unsigned numbers.

    All are found at once: a generator for each image takes longer than all else that is done with it.

    Args:
        seeds: of the images.
        draw: number of the draw; each is independent of the others.
    """
    mixed = np.asarray(seeds, dtype=np.int64).astype(np.uint64) + np.uint64((draw + 1) * ODD % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def uniform(seeds: Sequence[int], draw: int) -> np.ndarray:
    """A number for each seed, drawn evenly from [0, 1)."""
    return (mixed_bits(seeds, draw) >> np.uint64(11)) * 2.0**-53


def below(seeds: Sequence[int], share: float, draw: int) -> np.ndarray:
    """For which seeds such a number is less than a share."""
    return uniform(seeds, draw) < share
