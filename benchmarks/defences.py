"""What each defence costs and what it buys: accuracy without attack and under attacks, and time.

    python benchmarks/defences.py ENCODER DATASET --rows none 'one live:{"defence": "universal", "live": 1}'

A row is a defence, or a name of its own with settings: fields of GenAFConfig and settings of the defence. Each is
trained and attacked for each seed. Attacks are given likewise, as 'NAME:{"attack": "l4a", "steps": 900}'. The attacker
crafts on images that no defence is trained on. What is found is a line of defences.jsonl, and a command that was killed
and is started again goes on. Lines of other settings stand in a section of their own: those of one section were made
alike. The table, defences.md, and the picture, defences.png, are drawn of all lines.

Time is the median over the steps of stage 1, as a ratio to that of the row "none" of the same seed, which is trained on
the same machine for it: of a CPU the time of the process, loading of the images included.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from accelerate import PartialState
from datasets import Dataset
from defence_tables import (
    ADAPTIVELY,
    FAR,
    IMAGEWISE,
    MODEL,
    NONE,
    PATCH,
    PUBLIC,
    TRAINED,
    UNIVERSAL_PGD,
    lines,
    write,
)
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from transformers import TrainerCallback

from genaf_hf import GenAFConfig, GenAFTrainer, PixelModel, load_encoder, load_images, with_pixel_values
from genaf_hf.attacks import Attack, UniversalPerturbation
from genaf_hf.data import stratified_rows, stratified_subset
from genaf_hf.evaluation import perturbation_cache
from genaf_hf.evaluation.answers import answer
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.evaluate import evaluate_threats
from genaf_hf.evaluation.measurement import CLEAN, PUBLIC_ENCODER, Rate
from genaf_hf.evaluation.report import ADAPTIVE
from genaf_hf.evaluation.threats import CraftedThreat, ImageThreat, UniversalThreat
from genaf_hf.models.identity import encoder_digest
from genaf_hf.models.loading import load_classifier
from genaf_hf.pipelines.attack_arguments import named_attacks
from genaf_hf.pretraining.digits_encoder import pretrain_where_named
from genaf_hf.runs.journal import Journal
from genaf_hf.sharing.layout import TRAINED_ON
from genaf_hf.training.config import OF_DEFENCE
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)

HERE = Path(__file__).with_suffix("")
TIME = "time"
AUTHORS = {"defence": "gen-af", "eps": 0.03, "steps": 10, "step_size": 0.007, "random_start": False}
AUTHORS |= {"genetic_weight": 5120, "genetic_share": float("inf"), "clean_share": 0.0, "eps_warmup_ratio": 0.0}
KNOWN_ROWS = {"gen-af, authors' adversary and loss": AUTHORS}  # 20 in a sum over 256 images is 5120 in a mean over rows
GENERATOR = '{"steps": 100, "batch_size": 64, "width": 256}'  # of AdvEncoder, of a size for a CPU
WANTED = {
    PUBLIC: [
        *("l4a", "ssp", "uapgd", f"advencoder-per:{GENERATOR}", "fff", "std"),
        *('uap:{"steps": 50}', f"{PATCH}:{GENERATOR}"),
    ],
    FAR: [f'{name} at 16/255:{{"attack": "{name}", "eps": "16/255"}}' for name in ("l4a", "uapgd")],
    ADAPTIVELY: ["l4a", "ssp", "uapgd", f'{UNIVERSAL_PGD}:{{"steps": 150}}'],
    IMAGEWISE: [
        *(f'pgd-20 at {n}/255:{{"attack": "pgd", "steps": 20, "eps": "{n}/255"}}' for n in (4, 8)),
        'autoattack at 4/255:{"attack": "autoattack", "eps": "4/255"}',
    ],
}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    args = parsed_arguments()
    pretrain_where_named(args.encoder, use_cpu=True)
    measure(args)


def parsed_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("dataset")
    parser.add_argument("--rows", nargs="+", default=[NONE, "pgd-at", "gen-af", *KNOWN_ROWS, "universal"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, help="of the encoder, default by its size")
    parser.add_argument("--head_learning_rate", type=float, default=1e-3)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of the training")
    parser.add_argument("--random_flip", action="store_true", help="mirror half of the training images")
    parser.add_argument("--train_images", type=int, default=10_000)
    parser.add_argument("--test_images", type=int, default=500)
    parser.add_argument("--image_attack_images", type=int, default=200, help="test images for attacks on each image")
    parser.add_argument("--autoattack_images", type=int, default=200)
    parser.add_argument("--attacker_images", type=int, default=1024)
    parser.add_argument("--held_out_share", type=float, default=0.1, help="of the images, which the attacker has")
    parser.add_argument("--attacker_dataset", help="other images for the attacker, for attacks without labels")
    parser.add_argument("--attacker_encoder", help="another encoder for the attacker, in place of the public one")
    for kind, names in WANTED.items():
        parser.add_argument(f"--{kind.replace(' ', '_')}", nargs="*", default=names)
    parser.add_argument("--title", help="of the section, default encoder and dataset")
    parser.add_argument("--found", type=Path, default=HERE, help="of the results, without .jsonl, .md and .png")
    parser.add_argument("--models", type=Path, default=Path("defences-found"), help="folder of the trained models")
    return parser.parse_args(given)


def read_as(text: str, kind: str) -> tuple[str, str, dict]:
    """Label, name and settings out of `"NAME"` or `'LABEL:{"kind": "NAME", "setting": 1}'`."""
    label, _, given = text.partition(":")
    settings = json.loads(given) if given else dict(KNOWN_ROWS.get(label, {}))
    return label, settings.pop(kind, label), settings


def measure(args: argparse.Namespace) -> None:
    """All rows and seeds that were not measured before; draws table and picture after each."""
    data = load_images(args.dataset, held_out_share=args.held_out_share, max_train_samples=args.train_images)
    names = data["train"].features["label"].names
    public = PixelModel(*load_encoder(args.encoder, names)).to(PartialState().device).eval()
    train, test = data["train"], stratified_subset(data["test"], args.test_images, seed=0)
    known, source = data["validation"], args.dataset
    if args.attacker_dataset:
        others = load_images(args.attacker_dataset, max_train_samples=args.attacker_images)
        known, source = others["train"], args.attacker_dataset
    attacker = Attacker.of(stratified_subset(known, args.attacker_images, seed=0), source, public, public)
    if args.attacker_encoder:
        other = PixelModel(*load_encoder(args.attacker_encoder, names, image_size=public.image_size[0]))
        other = other.to(public.device).eval()
        attacker = replace(attacker, encoder=other, words=f"{attacker.words}, and {public_name(args.attacker_encoder)}")
    attacks = {kind: wanted_attacks(args, kind) for kind in WANTED}
    setting = described(args, attacks, public, train, test, attacker)
    found = args.found.with_suffix(".jsonl")
    for row in args.rows:
        for seed in args.seeds:
            config = configured(args, row, seed)
            line = {"setting": setting, "row": described_row(config, row), "seed": seed}
            if any(line == {name: each[name] for name in line} for each in lines(found)):
                continue
            logger.info("%s, seed %d", row, seed)
            began = time.perf_counter()
            journal, spent = trained_once(args, config, row, setting["training"], names, train)
            _, fine_tune = trained_once(args, configured(args, NONE, seed), NONE, setting["training"], names, train)
            line |= {**spent, "fine_tune": fine_tune}
            model = PixelModel(*load_classifier(config.output_dir)).to(public.device).eval()
            line |= attacked(model, test, attacks, attacker, args, journal)
            with found.open("a") as file:
                file.write(json.dumps(line) + "\n")
            write(args.found)
            logger.info("%s, seed %d: %.0f s", row, seed, time.perf_counter() - began)
    write(args.found)


def wanted_attacks(args: argparse.Namespace, kind: str) -> dict[str, Attack]:
    """The attacks of a kind by their names in the table."""
    found = {}
    for text in getattr(args, kind.replace(" ", "_")):
        label, name, settings = read_as(text, "attack")
        found[label] = named_attacks(name, {name: settings})[name]
    return found


def told(attack: Attack) -> dict:
    """What an attack is; what is None does nothing."""
    return {
        "attack": attack.name,
        **{name: value for name, value in attack.settings.items() if value is not None},
    }


def described(args, attacks, public: PixelModel, train: Dataset, test: Dataset, attacker: Attacker) -> dict:
    """Everything that the rows of a section have in common, as JSON gives it back."""
    training = described_training(args, public, train)
    per_kind = {kind: {name: told(each) for name, each in these.items()} for kind, these in attacks.items()}
    title = args.title or f"{training['encoder']} on {training['dataset']}"
    known = {"title": title, "training": training, "attacks": per_kind}
    counts = ("image_attack_images", "autoattack_images")
    known |= {"attacker": attacker.words, "test_images": len(test), **{each: getattr(args, each) for each in counts}}
    return json.loads(json.dumps(known))


def described_training(args: argparse.Namespace, public: PixelModel, train: Dataset) -> dict:
    """Everything that the trainings of a section have in common."""
    encoder, dataset = (public_name(str(each)) for each in (args.encoder, args.dataset))
    rates = ("learning_rate", "head_learning_rate")
    options = ("steps", "batch_size", *rates, "precision", "held_out_share", "random_flip")
    training = {"encoder": encoder, "content of the encoder": encoder_digest(public)[:16], "dataset": dataset}
    return {**training, "train_images": len(train), **{each: getattr(args, each) for each in options}}


def configured(args: argparse.Namespace, row: str, seed: int) -> GenAFConfig:
    """The configuration of a row's training."""
    _, defence, settings = read_as(row, "defence")
    fields = {name: value for name, value in settings.items() if name in GenAFConfig.__dataclass_fields__}
    others = {name: value for name, value in settings.items() if name not in fields}
    common = {
        "max_steps": args.steps,
        "per_device_train_batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "head_learning_rate": args.head_learning_rate,
        "bf16": args.precision == "bf16",
        "random_flip": args.random_flip,
        "output_dir": str(args.models),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.accelerator.is_available(),
        "seed": seed,
    }
    return GenAFConfig(**{**common, "defence": defence, "defence_settings": others or None, **fields})


def described_row(config: GenAFConfig, row: str) -> dict:
    """Name and defence of a row and all its settings, as JSON gives them back."""
    settings = config.make_defence().record()["settings"]
    name, _, given = read_as(row, "defence")
    given = {setting: value for setting, value in given.items() if setting not in OF_DEFENCE}
    return json.loads(json.dumps({"name": name, "defence": config.defence, "settings": {**settings, **given}}))


def trained_once(
    args: argparse.Namespace, config: GenAFConfig, row: str, training: dict, names: list[str], train: Dataset
) -> tuple[Journal, dict]:
    """Where a row's model and what it is attacked with are kept on this machine, and the seconds it took to train."""
    told = described_row(config, row)
    folder = f"{training['encoder']} {training['dataset']} {told['name']} {config.seed}"
    journal = Journal(args.models / folder.replace("/", " "))
    config.output_dir = str(journal.folder / "training")
    of = json.dumps([training, told])
    return journal, journal.once(TIME, partial(trained, args, config, names, train), of=of)


def trained(args: argparse.Namespace, config: GenAFConfig, names: list[str], train: Dataset) -> dict:
    """Trains a model into `config.output_dir`; seconds of a step, and of all of it."""
    torch.manual_seed(config.seed)
    model, processor = load_encoder(args.encoder, names)
    pixels, clock = with_pixel_values(train, processor), Clock(config.use_cpu)
    trainer = GenAFTrainer(
        model=model, args=config, train_dataset=pixels, processing_class=processor, callbacks=[clock]
    )
    began = clock.read()
    with TemporaryDirectory() as empty, patch.object(perturbation_cache, "CACHE", Path(empty)):
        trainer.train()  # which crafts its bank, whatever was crafted before
    spent = {"seconds": clock.read() - began, "step_seconds": clock.step_seconds(args.steps)}
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).save_pretrained(config.output_dir)
    processor.save_pretrained(config.output_dir)
    trainer.save_perturbations(config.output_dir)
    return spent


class Clock(TrainerCallback):
    """Reads the time at the end of each step: of a CPU that of the process, which others do not slow down as much."""

    def __init__(self, of_process: bool):
        self.read: Callable[[], float] = time.process_time if of_process else time.perf_counter
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(self.read())

    def step_seconds(self, steps: int) -> float:
        """The median over the first steps, which are those of stage 1."""
        ends = self.ends[:steps]
        return median(after - before for before, after in pairwise(ends))


def attacked(model: PixelModel, test: Dataset, attacks: dict, attacker: Attacker, args, journal: Journal) -> dict:
    """Right answers and images by kind and attack, and which self-checks failed."""
    pixels, threats = with_pixel_values(test, model.processor), {}
    for kind in (PUBLIC, FAR, ADAPTIVELY):
        for name, attack in attacks[kind].items():
            adaptive = kind == ADAPTIVELY
            title = name + ADAPTIVE if adaptive and attack.on_encoder else name
            threat = CraftedThreat(title, MODEL if adaptive else PUBLIC_ENCODER, attack=attack)
            threats[kind, name] = threat.crafted(attacker, {MODEL: model})
    for folder in sorted(journal.folder.glob(f"training/{TRAINED_ON}/*")):
        known = {MODEL: UniversalPerturbation.from_pretrained(folder)}
        threats[TRAINED, folder.name] = UniversalThreat(f"{TRAINED}: {folder.name}", PUBLIC_ENCODER, known)
    report = evaluate_threats({MODEL: model}, pixels, [*threats.values()], batch_size=128, journal=journal)
    found: dict[str, dict[str, list[int]]] = {kind: {} for kind in (*WANTED, TRAINED)}
    for (kind, name), threat in threats.items():
        found[kind][name] = counted(report.measurement(MODEL, threat.name).accuracy)
    for name, attack in attacks[IMAGEWISE].items():
        most = args.autoattack_images if attack.name == "autoattack" else args.image_attack_images
        some = Subset(pixels, stratified_rows(test["label"], most, seed=0).tolist())
        answers = answer(model, some, ImageThreat(name, attack).on(MODEL), norm=attack.norm, batch_size=100)
        found[IMAGEWISE][name] = counted(Rate(sum(answers.right), len(some)))
    of_clean, failed = report.measurement(MODEL, CLEAN).accuracy, [each.name for each in report.failed_checks]
    direction = threats.get((ADAPTIVELY, UNIVERSAL_PGD))
    shares = {} if direction is None else along(model, pixels, direction.perturbations[MODEL].delta)
    return {CLEAN: counted(of_clean), "attacks": found, "along": shares, "unreliable": failed}


def along(model: PixelModel, pixels: Dataset, delta: torch.Tensor) -> dict[str, float]:
    """Mean cross-entropy under shares of a perturbation: where gradients are masked, it does not rise smoothly."""
    losses = {share / 4: 0.0 for share in range(9)}
    with torch.no_grad():
        for batch in DataLoader(pixels, batch_size=128):
            images, labels = model.to_images(batch["pixel_values"].to(delta.device)), batch["labels"].to(delta.device)
            for share in losses:
                logits = model((images + share * delta).clamp(0, 1))
                losses[share] += F.cross_entropy(logits, labels, reduction="sum").item() / len(pixels)
    return {f"{share:g}": loss for share, loss in losses.items()}


def counted(rate: Rate) -> list[int]:
    return [rate.part, rate.count]


if __name__ == "__main__":
    main()
