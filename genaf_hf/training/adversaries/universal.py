"""Universal perturbations that move with the training (Shafahi et al., AAAI 2020, https://arxiv.org/abs/1811.11304)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate.utils import reduce
from torch import Tensor

from genaf_hf.attacks import ATTACKS, UniversalPerturbation
from genaf_hf.attacks.losses import below_mean
from genaf_hf.attacks.pgd import check_attack_settings
from genaf_hf.attacks.universal import attacked
from genaf_hf.errors import UserError
from genaf_hf.evaluation.perturbation_cache import crafted_once
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.batch import Batch
from genaf_hf.training.adversaries.draws import ASCENT, OF_CLASS, PERTURBATION, below, mixed_bits
from genaf_hf.values.device import sent
from genaf_hf.values.numbers import check_share, is_whole

IMAGES = 1024  # that the bank is crafted from
BANK = ("l4a", "ssp", "uapgd", "fff")  # of defences that name no others
MOST, FEW = 32, 6  # live ones of as many classes at most, and those of more: they are as large as images


class Universal(Adversary):
    """L-inf perturbations that many images share, of two kinds.

    *Live* ones begin at random and take part in the training pass, whose one backward pass gives weights and
    perturbations their gradients, or with an `ascent_share` are given theirs by a pass of their own: after each update
    every live one moves by a step times the sign of its own, within eps (algorithm 3 of the paper, which has a single
    one and the former). The *bank* is crafted once, on the public encoder from
    training images. An image is given a live one with a probability of one half, that of its class or pseudo-label
    (Benz et al., ICME 2021, https://ieeexplore.ieee.org/document/9428419) or any, else one of the bank, scaled by the
    share of eps.

    Its `state` holds `live` and `bank`, each (number, 3, h, w).

    Args:
        eps: radius of the ball in pixel units.
        step_size: of the live ones, in pixel units, default eps / 5.
        live: how many live ones, by default one for each class or pseudo-label, of more than 32 classes six.
        class_share: share of the images with a live one that get that of their class, where there are fewer live ones
            one that classes share; None for all of them if each class has one of its own, else none.
        bank: names of universal attacks.
        bank_steps: that each of these is crafted with.
        ascent_share: share of the images with a live one that are passed once more, in eval mode, for it to move
            against the logit of their label less the mean of all; at 0 it moves along the training's loss.
        of_head: whether labels are classes of the model's head, and not pseudo-labels.

    Raises:
        UserError: for a setting outside its range.
    """

    moves = True

    def __init__(
        self,
        *,
        eps: float,
        step_size: float | None = None,
        live: int | None = None,
        class_share: float | None = 0.0,
        bank: Sequence[str] = (),
        bank_steps: int = 300,
        ascent_share: float = 0.0,
        of_head: bool = True,
    ):
        step_size = eps / 5 if step_size is None else step_size
        if not is_whole(bank_steps) or bank_steps < 1:
            raise UserError(f"bank_steps is {bank_steps}, expected a whole number, at least 1.")
        check_attack_settings(eps=eps, steps=bank_steps, step_size=step_size)
        if live is not None and (not is_whole(live) or live < 1):
            raise UserError(f"live is {live}, expected a whole number of perturbations, at least 1.")
        if class_share is not None:
            check_share("class_share", class_share)
        check_share("ascent_share", ascent_share)
        known = [name for name, attack in ATTACKS.items() if attack.on_encoder and "eps" in attack.setting_names]
        if not isinstance(bank, Sequence) or isinstance(bank, str) or not all(name in known for name in bank):
            raise UserError(f"bank is {bank}, expected a list of universal attacks out of {', '.join(known)}.")
        super().__init__(
            eps=eps,
            step_size=step_size,
            live=live,
            class_share=class_share,
            bank=list(bank),
            bank_steps=bank_steps,
            ascent_share=ascent_share,
        )
        self.ascends = ascent_share > 0
        self.of_head = of_head

    def check_update(self, images: int) -> None:
        live = self.settings["live"]
        if live is not None and live > images:
            raise UserError(
                f"live is {live}, but an update is of {images} image(s), so that there are live "
                "perturbations without any: lower it, or raise per_device_train_batch_size."
            )

    def begin(self, model: PixelModel, samples: Callable[[int], tuple[Tensor, Tensor | None]], seed: int) -> None:
        images, labels = samples(IMAGES)
        reading = [name for name in self.settings["bank"] if "labels" in ATTACKS[name].needs]
        if labels is None and reading:
            raise UserError(f"bank has {reading[0]}, which needs labels, but none are read: leave it out.")
        if labels is None and self.settings["class_share"] != 0:
            raise UserError(
                f"class_share is {self.settings['class_share']}, but there are neither labels nor features that tell "
                "images apart: set it to 0."
            )
        eps, data = self.settings["eps"], {"images": images, "labels": labels}
        classes = model.model.config.num_labels  # of which the sample may lack some
        if labels is not None and not self.of_head:
            classes = int(labels.amax()) + 1
        count = self.settings["live"] or (classes if classes <= MOST else FEW)
        if count > classes and self.settings["class_share"] in (None, 1):
            kind = "classes" if self.of_head else "clusters"
            raise UserError(
                f"live is {count}, but there are {classes} {kind}, each of which is given its own, so that others "
                f"would never move: lower it to {classes}, or set class_share to 0, so that any image gets any."
            )
        live = torch.empty(count, *images.shape[1:], dtype=images.dtype)
        live.uniform_(-eps, eps, generator=torch.Generator().manual_seed(seed))
        bank = live.new_empty(0, *images.shape[1:])
        for name in self.settings["bank"]:
            attack = ATTACKS[name].configure(eps=eps, steps=self.settings["bank_steps"], seed=seed)
            found = crafted_once(attack, model, *(data[need] for need in ATTACKS[name].needs[1:]))
            bank = torch.cat([bank, found.delta[None].to(bank)])
        self.state = {"live": live.to(images.device), "bank": bank.to(images.device)}

    def check_size(self, height: int, width: int) -> None:
        *_, own_height, own_width = self.state["live"].shape
        if (height, width) != (own_height, own_width):
            raise UserError(
                f"Images are of {height} x {width} pixels, the perturbations for them of {own_height} x {own_width}: "
                "train and evaluate on images of one size, and go on with that of the checkpoint."
            )

    def craft(self, model: PixelModel, batch: Batch) -> Tensor:
        live, bank = self.state["live"].requires_grad_(not self.ascends), self.state["bank"]
        self.check_size(*batch.images.shape[2:])
        given = torch.cat([live, bank]).to(batch.images)[self._given(model, batch)]
        return attacked(batch.images, batch.eps_share * given)

    def ascend(self, model: PixelModel, batch: Batch) -> None:
        live = self.state["live"]
        chosen = drawn(batch.seeds, len(live), len(self.state["bank"]))
        passes = (chosen < len(live)) & below(batch.seeds, self.settings["ascent_share"], ASCENT)
        if not passes.any():
            return
        passed = batch.rows(np.flatnonzero(passes).tolist())
        with evaluating(model):
            given = live.requires_grad_().to(passed.images)[self._given(model, passed)]
            logits = model(attacked(passed.images, passed.eps_share * given))
        below_mean(logits, passed.labels).sum().backward(inputs=[live])

    def _given(self, model: PixelModel, batch: Batch) -> Tensor:
        """Which perturbation each image gets, (n,): the drawn one, or in place of a live one that of its class."""
        live, share = len(self.state["live"]), self.settings["class_share"]
        chosen = sent(torch.from_numpy(drawn(batch.seeds, live, len(self.state["bank"]))), batch.images.device)
        if share is None:
            share = float(model.model.config.num_labels <= live)
        if not share:
            return chosen
        by_class = sent(torch.from_numpy(below(batch.seeds, share, OF_CLASS)), chosen.device)
        return torch.where(by_class & (chosen < live), batch.labels % live, chosen)

    def learn(self) -> None:
        if self.state:
            eps = self.settings["eps"]
            move_by_sign(self.state["live"], self.settings["step_size"], -eps, eps)

    def perturbations(self) -> dict[str, UniversalPerturbation]:
        if not self.state:
            return {}
        eps, size, steps = (self.settings[name] for name in ("eps", "step_size", "bank_steps"))
        live = {f"live-{i}": delta for i, delta in enumerate(self.state["live"].detach().float().cpu(), start=1)}
        bank = dict(zip(self.settings["bank"], self.state["bank"].float().cpu(), strict=True))
        return {
            **{name: UniversalPerturbation(delta, "universal", eps, step_size=size) for name, delta in live.items()},
            **{name: UniversalPerturbation(delta, name, eps, steps=steps) for name, delta in bank.items()},
        }


def move_by_sign(live: Tensor, step_size: float, lowest: float, largest: float) -> None:
    """Moves a tensor, in place, by a step times the sign of the gradient that all processes' images left it."""
    own = torch.zeros_like(live) if live.grad is None else live.grad  # where no image got it on this process
    gradient, live.grad = reduce(own, "sum"), None
    with torch.no_grad():  # a sign of NaN would stay; in float16 that is what an update has that is left out
        live += step_size * gradient.nan_to_num(0).sign()
        live.clamp_(lowest, largest)


def drawn(seeds: Sequence[int], live: int, bank: int) -> np.ndarray:
    """Which perturbation each image gets, those of the bank counted after the live ones; depends on its seed alone."""
    bits = mixed_bits(seeds, PERTURBATION)
    is_live, which = bits >> np.uint64(63), (bits >> np.uint64(31)).astype(np.uint32) / 2.0**32
    return np.where(is_live | np.uint64(not bank), which * live, live + which * bank).astype(np.int64)
