"""Fast feature fool (Mopuri et al., BMVC 2017, https://arxiv.org/abs/1707.05572)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from genaf_hf.attacks.ascent import Objective, Step
from genaf_hf.attacks.universal import attacked, universal_attack
from genaf_hf.models.pixel_model import PixelModel

WORDS = "sum over all hidden states of the logarithm of half the mean squared activation"
CITATION = """@inproceedings{mopuri2017fff,
  title = {Fast Feature Fool: A Data Independent Approach to Universal Adversarial Perturbations},
  author = {Mopuri, Konda Reddy and Garg, Utsav and Babu, R. Venkatesh},
  booktitle = {British Machine Vision Conference},
  year = {2017},
  url = {https://arxiv.org/abs/1707.05572}
}"""


def adam_steps(delta: Tensor, lengths: Iterator[float], norm: str) -> Step:
    """Steps of Adam, the same in every norm; the first of `lengths` is its learning rate, in pixel units."""
    optimizer = torch.optim.Adam([delta], lr=next(lengths), maximize=True)

    def step(gradient: Tensor) -> None:
        delta.grad = gradient
        optimizer.step()

    return step


@universal_attack(words=WORDS, stepping=adam_steps, step_size=0.1, citation=CITATION)
def fff(encoder: PixelModel) -> Objective:
    """A universal perturbation without any data: maximises the sum over layers of log(mean(h_l(m + delta)^2) / 2).

    m is the mean image, the one that the encoder's normalisation maps to 0.

    Args:
        encoder: as for `l4a`, and its settings but for those of images; the step size is the learning rate of Adam.
    """

    def objective(delta: Tensor) -> Tensor:
        return log_energy(encoder.hidden_states(attacked(encoder.mean.expand(1, *delta.shape), delta)))

    return objective


def log_energy(states: tuple[Tensor, ...]) -> Tensor:
    """Sum over layers of log(mean(h^2) / 2)."""
    return sum(((state.square().mean() / 2).log() for state in states), start=states[0].new_zeros(()))
