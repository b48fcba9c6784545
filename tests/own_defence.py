"""A defence that only the tests define, and trainings by defences with a state."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils import reduce
from torch.nn import functional as F
from train_tiny import tiny_model, tiny_trainer
from transformers import PreTrainedModel

from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.errors import UserError
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.defences import register_defence
from genaf_hf.training.objectives.objective import Loss, Objective

CITATION = "@misc{paired2026, title = {Paired}}"


class Drift(Adversary):
    """One perturbation that follows the gradient of the training pass, and keeps a count of its steps."""

    def begin(self, model, samples, seed):
        images, _ = samples(4)
        self.state = {"delta": torch.zeros_like(images[0]), "steps": torch.zeros(())}

    def craft(self, model, batch):
        return (batch.images + batch.eps_share * self.state["delta"].requires_grad_()).clamp(0, 1)

    def learn(self):
        delta = self.state["delta"]
        if delta.grad is not None:
            gradient, delta.grad = reduce(delta.grad, "sum"), None
            self.state["steps"] += 1
            self.state["delta"] = (delta + self.settings["eps"] / 4 * gradient.sign()).detach()
            self.state["delta"].clamp_(-self.settings["eps"], self.settings["eps"])

    def attacks(self):
        return {"drift": UniversalPerturbation(self.state["delta"].detach().float(), "drift", self.settings["eps"])}


class Paired(Objective):
    """Cross-entropy of clean images, and that all rows of an update keep their place under attack."""

    losses, penalties, relates_rows = ("clean_loss",), ("distance",), True

    def __init__(self, pull: float):
        self.pull = pull

    def __call__(self, own, whole, *, eps_share, label_smoothing):
        update = whole()
        clean_loss = F.cross_entropy(own.clean, own.labels, label_smoothing=label_smoothing)
        distance = (update.clean.mean(0) - update.attacked.mean(0)).square().sum()
        return Loss(clean_loss, self.pull * distance, {"clean_loss": clean_loss, "distance": distance})


def paired(*, eps: float = 0.1, pull: float = 0.5) -> tuple[Drift, Paired]:
    if not 0 < eps <= 1:
        raise UserError(f"eps is {eps}, expected a value in (0, 1].")
    return Drift(eps=eps), Paired(pull)


def register() -> None:
    register_defence(title="Paired (Tests, 2026)", citation=CITATION)(paired)


UNLABELLED = {"live": 2, "bank": ["l4a"], "bank_steps": 2}
BANK = {**UNLABELLED, "class_share": 0}
HALF = {"single_pass": True, "divergence_weight": 0}
DEFENCES = {
    "paired": {"defence": "paired"},
    "universal": {"defence": "universal", "defence_settings": {**BANK, "patch_share": 0.5}},
    "own-pass": {"defence": "universal", "defence_settings": {**BANK, "class_share": 0.5, "ascent_share": 0.5}},
    "universal-anchor": {"defence": "universal-anchor", "defence_settings": {**BANK, "class_share": 0.5}},
    "single-pass": {"defence": "universal", "clean_share": 0.25, "defence_settings": {**BANK, **HALF}},
    "universal-n-fgsm": {"defence": "universal-n-fgsm", "defence_settings": {**BANK, "per_image_eps": 0.01}},
    "gen-af-universal": {"defence": "gen-af-universal", "defence_settings": {**BANK, "live": None, "class_share": 0.5}},
    "anchor": {"defence": "anchor", "defence_settings": UNLABELLED, "adapt_max_steps": -1},
}


def trained(
    folder: Path,
    images: int = 24,
    make_model: Callable[[torch.dtype], PreTrainedModel] = tiny_model,
    **settings,
) -> dict[str, torch.Tensor]:
    """Weights and state of the adversary after a training in float64."""
    settings |= {"dtype": torch.float64, "images": images, "adapt_max_steps": -1}
    trainer = tiny_trainer(folder, model=make_model(torch.float64), **settings)
    trainer.train()
    return {
        **trainer.model.state_dict(),
        **{name: each.detach() for name, each in trainer.tensors_beside_model().items()},
    }
