"""Genetic regularization of Gen-AF (Zhou et al., IEEE S&P 2024, https://arxiv.org/abs/2403.10801)."""

import torch
from torch import Tensor

from genaf_hf.errors import UserError

TINY = 1e-7


def pair_distances(logits: Tensor) -> Tensor:
    """Cosine distance of every pair of rows, from each row's nearest neighbour on.

    Args:
        logits: (n, c).

    Returns:
        (n, n), zero on the diagonal and at each row's nearest neighbour.
    """
    rows = logits / (logits.norm(dim=1, keepdim=True) + TINY)
    distances = 1 - rows @ rows.T
    diagonal = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    nearest = distances.masked_fill(diagonal, torch.finfo(distances.dtype).max).amin(dim=1, keepdim=True)
    return (distances - nearest).masked_fill(diagonal, 0)


def affinities(distances: Tensor) -> Tensor:
    """Similarities in (0, 1) of each row to all rows, summing to one per row."""
    similarities = 1 - distances.clamp(TINY, 2 - TINY) / 2
    return similarities / similarities.sum(dim=1, keepdim=True)


def genetic_regularization(
    logits: Tensor, target_logits: Tensor, labels: Tensor, sample_weight: Tensor, *, reduction: str = "mean"
) -> Tensor:
    """Divergence of the sample relations in `logits` from those in `target_logits`, the latter mended by the labels.

    The relation of a pair is its cosine distance. In the target, pairs with a large weight (badly classified ones) are
    pulled towards what the labels say, distance 0 within a class and 2 across classes; the others keep their relation.

    Args:
        logits: (n, c), the relations to be shaped.
        target_logits: (n, c), the relations to follow.
        labels: (n,) class ids.
        sample_weight: (n,) non-negative, usually each sample's cross-entropy.
        reduction: `"sum"` over all pairs is the authors' value, which grows with n. `"mean"` divides it by n (each
            row of relations is a distribution, so this no longer grows): equal weights mean the same at every n.

    Returns:
        A scalar.

    Raises:
        UserError: for another reduction.
    """
    if reduction not in ("sum", "mean"):
        raise UserError(f'reduction is "{reduction}", expected "sum" or "mean".')
    trust_in_labels = torch.tanh((sample_weight[:, None] + sample_weight[None, :]) / 32)
    same_class = labels[:, None] == labels[None, :]
    label_distances = torch.where(same_class, -2.0, 2.0).to(logits.dtype)

    p = affinities(pair_distances(logits))
    q = affinities((1 - trust_in_labels) * pair_distances(target_logits) + trust_in_labels * label_distances)
    divergence = q * ((q + TINY) / (p + TINY)).log() + (1 - q) * ((1 - q + TINY) / (1 - p + TINY)).log()
    return divergence.sum() if reduction == "sum" else divergence.sum() / len(logits)
