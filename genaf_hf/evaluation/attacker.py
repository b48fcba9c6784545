"""Who crafts perturbations for all images."""

from dataclasses import dataclass
from functools import cached_property

from datasets import Dataset
from torch import Tensor

from genaf_hf.attacks import Attack, UniversalPerturbation
from genaf_hf.attacks.inputs import Encoders
from genaf_hf.attacks.linear_probe import check_target
from genaf_hf.attacks.universal import check_image
from genaf_hf.data import random_subset, stratified_subset, with_pixel_values
from genaf_hf.evaluation.perturbation_cache import crafted_once
from genaf_hf.models.identity import tensor_digest
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.values.numbers import is_whole
from genaf_hf.values.provenance import public_name

ATTACKER_IMAGES = 2048


@dataclass(frozen=True, eq=False)
class Attacker:
    """What somebody has who crafts a perturbation for all images.

    Attributes:
        encoder: the public one, or several that are attacked at once; None where no attack needs any.
        images: (n, 3, h, w) in [0, 1].
        labels: (n,) class ids, for attacks that need them; None where nobody has any.
        words: what these images are, e.g. `"1167 images of digits, split train"`.
    """

    encoder: Encoders | None
    images: Tensor
    labels: Tensor | None
    words: str

    @classmethod
    def of(cls, train: Dataset, dataset_name: str, model: PixelModel, encoder: Encoders | None) -> "Attacker":
        """Somebody who has images that a model is trained on, or such as those.

        Args:
            train: with the column `image`, and `label` if there are any; of many images a subset is taken, by labels a
                stratified one.
            dataset_name: Hub id or local folder.
            model: whose image processor makes them.
            encoder: the public one, or several; None where no attack needs any.
        """
        draw = stratified_subset if "label" in train.column_names else random_subset
        some = draw(train, ATTACKER_IMAGES, seed=0)
        known = with_pixel_values(some, model.processor)[:]
        source = f" of {public_name(dataset_name)}" if dataset_name else ""
        return cls(
            encoder,
            images=model.to_images(known["pixel_values"]),
            labels=known["labels"].to(model.device) if "labels" in known else None,
            words=f"{len(some)} images{source}, split {train.split or 'train'}",
        )

    def craft(self, attack: Attack, model: PixelModel | None = None) -> UniversalPerturbation:
        """The perturbation that an attack crafts on the public encoder, from the cache where it was crafted before.

        Args:
            attack: with its settings.
            model: that it is crafted on instead.

        Raises:
            UserError: for a setting that the attack refuses.
        """
        needed = attack.needs[1:]
        if needed and "data" in attack.settings:
            attack = attack.configure(data=self.said(attack))
        data = [getattr(self, need) for need in needed]
        target = self.encoder if model is None else model
        return crafted_once(attack, target, *data, data_digests=[self.digests[need] for need in needed])

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the images, which are large, and of the labels, where there are any."""
        data = {"images": self.images, "labels": self.labels}
        return {name: tensor_digest(each) for name, each in data.items() if each is not None}

    def check(self, attack: Attack) -> None:
        """Refuses a class or an image that an attack is to lead to and this attacker has not; `UserError` names it."""
        if not attack.on_encoder:  # those on the model are led to a class of its own
            return
        image, target, most = (attack.settings.get(name) for name in ("image", "target", "max_images"))
        if is_whole(image):
            check_image(image, min(len(self.images), most or len(self.images)))
        if is_whole(target) and self.labels is not None:
            check_target(target, self.labels)

    def said(self, attack: Attack) -> str:
        """What an attack is crafted from, in words."""
        return f"{self.words}, {'with' if 'labels' in attack.needs else 'without'} labels"
