"""What universal attacks do to models that were fine-tuned from the encoder they are crafted on, and from another.

    python benchmarks/transfer.py --encoders FOLDER --data FOLDER --models FOLDER

The folders hold the encoders and datasets of `CASES` by their names, and what benchmarks/defences.py trained from them.
A command that was killed and is started again goes on. The tables are written to transfer.md.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from genaf_hf import PixelModel, load_images, with_pixel_values
from genaf_hf.attacks import ATTACKS, Attack
from genaf_hf.data import stratified_subset
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.evaluate import evaluate_threats
from genaf_hf.evaluation.measurement import CLEAN, PUBLIC_ENCODER
from genaf_hf.evaluation.report import ADAPTIVE, RobustnessReport
from genaf_hf.evaluation.threats import CraftedThreat, Threat, threats_of
from genaf_hf.models.loading import load_classifier
from genaf_hf.runs.journal import Journal, write_whole
from genaf_hf.values.markup import markdown
from genaf_hf.values.numbers import eps_text

logger = logging.getLogger(__name__)

FOUND = Path(__file__).with_suffix(".md")
EPS = 10 / 255
TARGET, IMAGE = 0, 0  # class id, and which of the attacker's images
STEPS, BATCH_SIZE = 200, 16
VISITS = 50  # of uap
INTRODUCTION = f"""\
# Universal attacks on models from the encoder that they are crafted on, and from others

`python benchmarks/transfer.py --encoders FOLDER --data FOLDER --models FOLDER`

Accuracy with its 95 % Wilson interval. A perturbation in L-inf has {eps_text(EPS)}, one in L2 half the length that a
perturbation has whose pixels are all {eps_text(EPS)} away. *Noise* is the accuracy under random noise of that norm and
size, or under a patch of random pixels; *shuffled* that under the perturbation with its pixels in random order; *for
the target* the share of all images that are taken for the class that the attack wants, or for that of the image to
whose features it leads, the attacker's first. The attacker's images are none that the models were trained on, and of
the same task, which is more than an attacker has who knows the encoder alone. Perturbations are crafted in {STEPS}
steps on batches of {BATCH_SIZE} images, but for `advencoder`, 100 steps on batches of 64, and `uap`, which visits
{VISITS} images.
"""


@dataclass(frozen=True)
class Case:
    """Models, and who attacks them.

    Attributes:
        encoder: its folder; the public encoder of the models.
        dataset: its folder.
        models: rows of benchmarks/defences.py.
        others: encoders that the models were not made from, to be crafted on too.
        held_out_share: of the images, which the attacker has.
        test_images: at most.
    """

    encoder: str
    dataset: str
    models: tuple[str, ...]
    others: tuple[str, ...]
    held_out_share: float = 0.1
    test_images: int = 500


RESNET, SMALL_RESNET, VIT = "resnet-cifar10", "resnet20-cifar10", "vit-sup-cifar10"
MOBILENET, SMALL_MOBILENET = "mobilenet-v1-0.5-160", "mobilenet-v1-0.25-128"
CASES = [
    Case(RESNET, "cifar10", ("none",), (SMALL_RESNET, VIT)),
    Case(MOBILENET, "animals22", ("none",), (SMALL_MOBILENET,), held_out_share=0.3, test_images=300),
]


class AtSize(PixelModel):
    """A model that is given images of another size than its own, and resizes them.

    Args:
        model, processor: as for `PixelModel`.
        size: height and width of the images.
    """

    def __init__(self, model, processor, size: Sequence[int]):
        super().__init__(model, processor)
        self.register_buffer("size", torch.tensor(size), persistent=False)  # a part of what it is, for the cache
        self.own_size = super().image_size

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.size.tolist()
        return height, width

    def _normalised(self, images: Tensor) -> Tensor:
        resized = F.interpolate(images, self.own_size, mode="bilinear", antialias=True, align_corners=False)
        return super()._normalised(resized)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("encoders", "data", "models"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    parts = [INTRODUCTION]
    for case in CASES:
        parts.append(section(case, args))
        write_whole(FOUND, "\n".join(parts))


def section(case: Case, args: argparse.Namespace) -> str:
    """The tables of a case, below its title."""
    logger.info("%s on %s", case.encoder, case.dataset)
    public = loaded(args.encoders / case.encoder)
    folders = {row: args.models / f"{case.encoder} {case.dataset} {row} 0" / "training" for row in case.models}
    models = {row: loaded(folder) for row, folder in folders.items()}
    data = load_images(str(args.data / case.dataset), held_out_share=case.held_out_share, max_train_samples=10_000)
    known = stratified_subset(data["validation"], 1024, seed=0)
    attacker = Attacker.of(known, str(args.data / case.dataset), public, public)
    test = with_pixel_values(stratified_subset(data["test"], case.test_images, seed=0), public.processor)
    journal = Journal(args.models / f"transfer {case.encoder} {case.dataset}")
    parts = [f"## {case.encoder} on {case.dataset}", f"{len(test)} test images; the attacker has {attacker.words}."]
    crafted = [each.crafted(attacker, models) for each in threats_of(wanted(public.image_size))
               if not each.name.endswith(ADAPTIVE)]  # fmt: skip
    report = evaluate_threats(models, test, crafted, batch_size=128, journal=journal)
    parts += [each_attack(report, crafted, model, models[model], attacker) for model in models]
    parts.append(each_surrogate(case, args, models, test, attacker, journal))
    return "\n\n".join(parts) + "\n"


def loaded(folder: Path, size: Sequence[int] | None = None) -> PixelModel:
    """A classifier, as it is or for images of another size."""
    parts = load_classifier(str(folder))
    return (PixelModel(*parts) if size is None else AtSize(*parts, size)).eval()


def wanted(size: Sequence[int]) -> dict[str, Attack]:
    """Attacks for all images, by their names in the table."""
    length = {"norm": "l2", "eps": EPS * (3 * size[0] * size[1]) ** 0.5 / 2}
    on_encoder = [name for name, attack in ATTACKS.items() if attack.on_encoder and "norm" in attack.setting_names]
    found = {name: of_budget(name).configure(eps=EPS) for name in on_encoder}
    for name in ("l4a", "ssp", "fff", "uapgd", "advencoder-per"):
        found[f"{name} in L2"] = found[name].configure(**length)
    for name in ("uap", "uapgd"):
        found[f"{name} to a class"] = found[name].configure(target=TARGET)
    for name in ("l4a", "std", "advencoder-per"):  # of what each of these reads: the first stage, the second, features
        found[f"{name} to an image"] = found[name].configure(image=IMAGE)
    on_model = of_budget("upgd").configure(eps=EPS)
    patch = of_budget("adversarial-patch")
    return {
        **found,
        "advencoder-pat": of_budget("advencoder-pat"),
        "upgd": on_model,
        "upgd in L2": on_model.configure(**length),
        "upgd to a class": on_model.configure(target=TARGET),
        "adversarial-patch": patch,
        "adversarial-patch, round": patch.configure(shape="round"),
        "adversarial-patch in a corner": patch.configure(place="fixed"),
        "adversarial-patch, turned by 45 degrees": patch.configure(degrees=45.0, smallest=0.7),
        "adversarial-patch to a class": patch.configure(target=TARGET),
    }


def of_budget(name: str) -> Attack:
    """An attack that a CPU crafts in some minutes."""
    budget = {"steps": STEPS, "restarts": 1, "batch_size": BATCH_SIZE}
    if name.startswith("advencoder"):  # whose batch holds the negatives of an image
        budget = {}
    if name == "uap":
        budget = {"steps": VISITS}
    known = {setting: value for setting, value in budget.items() if setting in ATTACKS[name].setting_names}
    return ATTACKS[name].configure(**known)


def each_attack(
    report: RobustnessReport, threats: Sequence[Threat], name: str, model: PixelModel, attacker: Attacker
) -> str:
    """A row for each attack on a model, beside its controls."""
    clean = report.measurement(name, CLEAN)
    rows = [[name, "attacker knows", "accuracy", "noise", "shuffled", "for the target"]]
    rows.append(["no attack", "-", str(clean.accuracy), "-", "-", "-"])
    for threat in threats:
        found = report.measurement(name, threat.name)
        marks = [mark for mark in report.marks(found) if mark != "*worst*"]
        answers = [report.answers[name][of].predictions for of in (threat.name, CLEAN)]
        target = target_of(threat.attack, model, attacker)
        share = "{} (no attack {})".format(*(percent(each.count(target), len(each)) for each in answers))
        controls = [percent(each, found.count) for each in (found.noise_correct, found.shuffled_correct)]
        accuracy = " ".join([str(found.accuracy), *marks])
        rows.append([threat.name, found.knowledge, accuracy, *controls, "-" if target is None else share])
    return markdown(rows)


def percent(part: int, count: int) -> str:
    return f"{part / count:.1%}"


def target_of(attack: Attack, model: PixelModel, attacker: Attacker) -> int | None:
    """The class that an attack wants all images to be taken for, if any: one, or that of an image."""
    if (image := attack.settings.get("image")) is None:
        return attack.settings.get("target")
    with torch.no_grad():
        return int(model(attacker.images[image : image + 1]).argmax())


def each_surrogate(
    case: Case, args: argparse.Namespace, models: dict, test: Dataset, attacker: Attacker, journal: Journal
) -> str:
    """A row for each attack that was crafted on the public encoder, on others, on these at once, and on all."""
    size = attacker.encoder.image_size
    others = {name: loaded(args.encoders / name, size) for name in case.others}
    sets = {case.encoder: attacker.encoder, **others}
    if len(others) > 1:
        sets[" and ".join(others)] = [*others.values()]
    sets["all of these"] = [attacker.encoder, *others.values()]
    name, model = next(iter(models.items()))
    attacks = {each: of_budget(each).configure(eps=EPS) for each in ("uapgd", "ssp")}
    threats = {
        (attack, title): CraftedThreat(f"{attack} on {title}", PUBLIC_ENCODER, attack=configured).crafted(
            replace(attacker, encoder=encoder), {name: model}
        )
        for attack, configured in attacks.items()
        for title, encoder in sets.items()
    }
    report = evaluate_threats({name: model}, test, [*threats.values()], batch_size=128, journal=journal)
    rows = [[f"{name}, crafted on", *sets], ["no attack", *[str(report.measurement(name, CLEAN).accuracy)] * len(sets)]]
    for attack in attacks:
        rows.append([attack, *(str(report.measurement(name, threats[attack, title].name).accuracy) for title in sets)])
    return markdown(rows)


if __name__ == "__main__":
    main()
