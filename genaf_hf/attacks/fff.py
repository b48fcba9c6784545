"""Fast feature fool (Mopuri et al., BMVC 2017, https://arxiv.org/abs/1707.05572)."""

import torch
from torch import Tensor

from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.pgd import check_attack_settings, gradient_of
from genaf_hf.attacks.registry import register_attack
from genaf_hf.attacks.universal import attacked, check_moved, crafted, finite, random_start
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.runs.progress import progress

CITATION = """@inproceedings{mopuri2017fff,
  title = {Fast Feature Fool: A Data Independent Approach to Universal Adversarial Perturbations},
  author = {Mopuri, Konda Reddy and Garg, Utsav and Babu, R. Venkatesh},
  booktitle = {British Machine Vision Conference},
  year = {2017},
  url = {https://arxiv.org/abs/1707.05572}
}"""


@register_attack("encoder", eps=0.05, steps=500, citation=CITATION)
def fff(
    encoder: PixelModel,
    *,
    eps: float,
    steps: int = 500,
    step_size: float = 0.1,
    seed: int = 0,
) -> UniversalPerturbation:
    """A universal perturbation without any data: maximises the sum over layers of log(mean(h_l(m + delta)^2) / 2).

    m is the mean image, the one that the encoder's normalisation maps to 0.

    Args:
        encoder: the public encoder; a head on top of it is not used. Left as it was.
        eps: radius of the L-inf ball in pixel units.
        steps: number of steps of Adam, each followed by a projection into the ball.
        step_size: learning rate of Adam, in pixel units.
        seed: of the uniform start.

    Returns:
        The perturbation, with its provenance.

    Raises:
        UserError: for a setting outside its range.
    """
    check_attack_settings(eps=eps, steps=steps, step_size=step_size)
    delta = random_start(encoder, (3, *encoder.image_size), eps, torch.Generator().manual_seed(seed)).requires_grad_()
    optimizer = torch.optim.Adam([delta], lr=step_size, maximize=True)
    mean_image, moved = encoder.mean.expand(1, *delta.shape), False
    with evaluating(encoder):
        for _ in progress(range(steps), "Crafting"):
            states = encoder.hidden_states(attacked(mean_image, delta))
            delta.grad = gradient_of(finite(log_energy(states)), delta)
            moved |= bool(finite(delta.grad).any())
            optimizer.step()
            delta.data.clamp_(-eps, eps)
    check_moved(moved)
    words = "sum over all hidden states of the logarithm of half the mean squared activation"
    return crafted(
        encoder, delta.detach(), "fff", words, eps=eps, steps=steps, step_size=step_size, seed=seed, data="none"
    )


def log_energy(states: tuple[Tensor, ...]) -> Tensor:
    """Sum over layers of log(mean(h^2) / 2)."""
    return sum((state.square().mean() / 2).log() for state in states)
