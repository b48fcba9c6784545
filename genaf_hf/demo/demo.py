"""One image under attack, as an undefended and a hardened classifier see it."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from math import isclose

import torch
from accelerate import PartialState
from datasets import Dataset
from PIL import Image as PILImage
from torch import Tensor

from genaf_hf.attacks import ATTACKS, Attack, UniversalPerturbation
from genaf_hf.attacks.norms import lengths
from genaf_hf.data import stratified_subset, to_rgb
from genaf_hf.demo.arguments import DemoArguments, check_arguments, configured
from genaf_hf.errors import UserError
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.measurement import ANSWERS, PUBLIC_ENCODER
from genaf_hf.evaluation.report import HARDENED, UNDEFENDED
from genaf_hf.evaluation.threats import CraftedThreat, Threat, UniversalThreat, threats_of
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.pipelines.attack_arguments import separate
from genaf_hf.pipelines.audit_case import load_model, matched_images, public_encoder
from genaf_hf.pipelines.trained_images import read_record
from genaf_hf.sharing.layout import PERTURBATION
from genaf_hf.values.provenance import model_source, public_name

logger = logging.getLogger(__name__)

EXAMPLES = 12
SHOWN_CLASSES = 3


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one model makes of an image, clean and attacked.

    Attributes:
        image: (3, h, w) in [0, 1], as the model's image processor made it.
        attacked: the same under the attack.
        distance: how far the attack moved it, in the attack's norm.
        before, after: probabilities of the most likely classes by name, the highest first.
    """

    image: Tensor
    attacked: Tensor
    distance: float
    before: dict[str, float]
    after: dict[str, float]

    @property
    def fooled(self) -> bool:
        """Whether the attack changed the prediction."""
        return next(iter(self.before)) != next(iter(self.after))


class Demo:
    """An undefended and a hardened classifier, and attacks on one image at a time.

    Attributes:
        models: the two by name, undefended first.
        sources: where they were loaded from.
        encoder: the public one; None where no attack needs it.
        class_names: by class id, each one different.
        examples: a stratified few of the test images, with the columns `image` and `label`. The first is one on which
            the published perturbation fools the undefended model alone, if there is one.
        attacks: their names.
        eps: to choose from, ascending.
        published: the perturbation that came with the hardened model; None where it does not fit.

    Raises:
        UserError: for models, data or settings that cannot be worked with, or an attack whose package is missing.
    """

    def __init__(self, arguments: DemoArguments):
        check_arguments(arguments)
        self.arguments = arguments
        self.sources = {UNDEFENDED: arguments.undefended, HARDENED: arguments.hardened}
        self.attacks = separate(arguments.attacks)
        device = PartialState(cpu=not torch.accelerator.is_available()).device
        self.models = {name: load_model(path).to(device) for name, path in self.sources.items()}
        check_pair(*self.models.values())
        hardened, self.encoder = self.models[HARDENED], None
        if any(ATTACKS[name].on_encoder for name in self.attacks):
            self.encoder = public_encoder(arguments.encoder, hardened, arguments.hardened)
        self.class_names = different(hardened.class_names)
        trained_on = read_record(arguments.hardened)
        data, _ = matched_images(arguments.dataset_name, hardened.class_names, trained_on, None, {})
        self.train = data["train"]
        self.published = self.find_published()
        published = [self.published.eps] if self.published else []
        others = {eps for eps in arguments.eps if not any(isclose(eps, each, rel_tol=1e-4) for each in published)}
        self.eps = sorted([*others, *published])
        self.crafted: dict[tuple[str, float], Threat] = {}
        self.examples = self.telling_first(stratified_subset(data["test"], EXAMPLES, seed=0))
        [image] = self.view(self.examples[0]["image"])[HARDENED]
        one_image = Attacker(None, images=image[None], labels=torch.zeros(1), words="one image")
        for threat in (self.threat(name, self.eps[0]) for name in self.attacks):
            if not threat.universal:
                threat.try_out(one_image, hardened)

    def find_published(self) -> UniversalPerturbation | None:
        """The perturbation beside the hardened model, where it is of this encoder, and of an attack and norm shown."""
        try:
            found = UniversalPerturbation.from_pretrained(self.arguments.hardened, subfolder=PERTURBATION)
        except ValueError as error:
            logger.info("No perturbation of the hardened model is used: %s", error)
            return None
        if found.attack not in self.attacks or self.encoder is None:
            return None
        of_encoder = (found.encoder, found.encoder_revision) == model_source(self.encoder.model.config)
        fits = type(found) is UniversalPerturbation and found.delta.shape[1:] == self.encoder.image_size
        if (shown := configured(self.arguments, self.arguments.eps[0])[found.attack].norm) != found.norm:
            said = "The perturbation of the hardened model is not used: its norm is %s, that of %s here is %s"
            logger.info(said, found.norm, found.attack, shown)
            return None
        return found if of_encoder and fits else None

    def telling_first(self, examples: Dataset) -> Dataset:
        """The examples, first one that the published perturbation makes only the undefended model err on."""
        if self.published is None:
            return examples
        for index, example in enumerate(examples):
            outcomes = self.attack(self.view(example["image"]), self.published.attack, self.published.eps)
            holds = next(iter(outcomes[HARDENED].after)) == self.class_names[example["label"]]
            if outcomes[UNDEFENDED].fooled and holds and not outcomes[HARDENED].fooled:
                return examples.select([index, *(i for i in range(len(examples)) if i != index)])
        return examples

    def threat(self, name: str, eps: float) -> Threat:
        """An attack at one eps, against both models or the public encoder, before it is crafted."""
        if self.published and (self.published.attack, self.published.eps) == (name, eps):
            return UniversalThreat(name, PUBLIC_ENCODER, dict.fromkeys(self.models, self.published))
        attack = configured(self.arguments, eps, self.published)[name]
        return threats_of({name: attack})[0]

    @cached_property
    def attacker(self) -> Attacker:
        """Who crafts perturbations."""
        return Attacker.of(self.train, self.arguments.dataset_name, self.encoder, self.encoder)

    def view(self, image: PILImage.Image | dict) -> dict[str, Tensor]:
        """An image as each model's own image processor makes it, (1, 3, h, w) in [0, 1].

        Raises:
            UserError: for other pixels than 8-bit ones.
        """
        upright = to_rgb(image)
        return {
            name: model.to_images(model.processor(upright, return_tensors="pt")["pixel_values"])
            for name, model in self.models.items()
        }

    def crafted_threat(self, name: str, eps: float, tell: Callable[[int], None] = lambda passes: None) -> Threat:
        """An attack at one eps, ready to run: the perturbation that came with the hardened model where it fits.

        Args:
            name: of the attack.
            eps: one of those to choose from.
            tell: called with the number of forward passes of the encoder so far.

        Raises:
            UserError: for a setting that the attack refuses.
        """
        threat = self.threat(name, eps)
        if not threat.universal or threat.perturbations:
            return threat
        if (name, eps) not in self.crafted:
            with counted_passes(self.encoder, tell):
                self.crafted[name, eps] = threat.crafted(self.attacker, self.models)
        return self.crafted[name, eps]

    def attack(
        self, images: Mapping[str, Tensor], name: str, eps: float, tell: Callable[[int], None] = lambda passes: None
    ) -> dict[str, Outcome]:
        """Attacks an image and asks both models.

        An attack on the models themselves is run on each one, against what it predicts of the clean image.

        Args:
            images: what `view` made.
            name: of the attack.
            eps: one of those to choose from.
            tell: called with the number of forward passes so far.

        Raises:
            UserError: for a setting that the attack refuses.
        """
        threat, outcomes = self.crafted_threat(name, eps, tell), {}
        for model_name, model in self.models.items():
            image = images[model_name]
            before = probabilities(model, image)
            with counted_passes(model, tell):
                attacked = threat.on(model_name)(model, image, before.argmax(1), seeds=[0])
            outcomes[model_name] = Outcome(
                image[0],
                attacked[0],
                lengths(attacked - image, self.norm(name)).item(),
                *(self.most_likely(each) for each in (before, probabilities(model, attacked))),
            )
        return outcomes

    def norm(self, name: str) -> str:
        """The norm that bounds an attack."""
        return configured(self.arguments, self.eps[0], self.published)[name].norm

    def predictions(self, images: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Probabilities of the most likely classes by name, from each model, of what `view` made."""
        return {name: self.most_likely(probabilities(model, images[name])) for name, model in self.models.items()}

    def most_likely(self, of_classes: Tensor) -> dict[str, float]:
        """Probabilities (1, classes) of the most likely ones, by name."""
        highest = of_classes[0].topk(min(SHOWN_CLASSES, of_classes.shape[1]))
        pairs = zip(highest.indices.tolist(), highest.values.tolist(), strict=True)
        return {self.class_names[index]: probability for index, probability in pairs}

    def knowledge(self, name: str, eps: float) -> str:
        """Who attacks, in a sentence."""
        threat = self.threat(name, eps)
        if not threat.universal:
            means = "the answers" if threat.knowledge == ANSWERS else "the weights"
            return f"The attacker has {means} of each model and crafts a perturbation for this image and that model."
        source = public_name(model_source(self.encoder.model.config)[0])
        crafted = isinstance(threat, CraftedThreat)
        data = self.attackers_data(threat.attack) if crafted else self.published.data
        images = "no images" if data in (None, "none") else data
        sentence = (
            f"The attacker has the public encoder {source} and {images}, and neither model; one perturbation fits "
            "every image."
        )
        return sentence if crafted else f"{sentence} It is the one published with the hardened model."

    def attackers_data(self, attack: Attack) -> str:
        """What the attacker has to craft a perturbation from, in words, as an audit says it."""
        return self.attacker.said(attack) if attack.needs[1:] else "none"


def check_pair(undefended: PixelModel, hardened: PixelModel) -> None:
    """Refuses two models that cannot be shown side by side; the `UserError` names in what they differ."""
    if undefended.class_names != hardened.class_names:
        raise UserError(
            "The undefended and the hardened model have other class names; expected the same, in one order."
        )
    if undefended.image_size != hardened.image_size:
        sizes = [" x ".join(map(str, model.image_size)) for model in (undefended, hardened)]
        raise UserError(
            f"The undefended model takes images of {sizes[0]} pixels, the hardened one of {sizes[1]}; expected the "
            "same size."
        )


def different(names: list[str]) -> list[str]:
    """The names, with their class ids where several classes have the same."""
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def probabilities(model: PixelModel, images: Tensor) -> Tensor:
    """(n, classes)."""
    with evaluating(model), torch.no_grad():
        return model(images).softmax(1)


@contextmanager
def counted_passes(model: PixelModel, tell: Callable[[int], None]) -> Iterator[None]:
    """Tells the number of forward passes, at each one."""
    passes = count(1)
    handle = model.model.register_forward_pre_hook(lambda *_: tell(next(passes)))
    try:
        yield
    finally:
        handle.remove()


def amplified(outcome: Outcome) -> Tensor:
    """The perturbation (3, h, w), gray where nothing changed, black or white where it changed the most."""
    shift = outcome.attacked - outcome.image
    return 0.5 + shift / (2 * shift.abs().amax().clamp(min=1e-12))


def eps_words(eps: float, norm: str = "linf") -> str:
    """An eps as a number, and in L-inf as a number of 255ths."""
    return f"{eps:.3g} = {eps * 255:.4g}/255" if norm == "linf" else f"{eps:.3g}"
