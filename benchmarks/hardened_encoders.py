"""What an encoder that was hardened without labels is worth to whoever uses it: probes, neighbours and fine-tunes.

    python benchmarks/hardened_encoders.py digits-simclr digits --downstream digits
    python benchmarks/hardened_encoders.py ENCODER IMAGES --downstream IMAGES OTHERS --seeds 0 1 2 --steps 600

The encoder is hardened on the first images without their labels, once for each seed. Of the public and of the hardened
encoder a linear probe, the nearest neighbours and fine-tunes by the stock `Trainer` are measured on each of the others,
clean and under perturbations that are crafted on the public encoder and on the hardened one, which is published too,
from images that none of these sees. Fine-tunes are given as KIND:STEPS:RATE: `all` weights from a new head on; all
weights from the `probe` on, as Kumar et al. (ICLR 2022, https://arxiv.org/abs/2202.10054) do; `lora` of rank 8 on every
layer; all weights, half of the images `shown` under the perturbations that lie beside the hardened encoder; or, by
`GenAFTrainer`, the defence `universal`. Of the public encoder there are only the first and the last two kinds. What is
found is a line of hardened_encoders.jsonl, and a command that was killed and is started again goes on. The table,
hardened_encoders.md, is written from all lines.
"""

import argparse
import copy
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import mean

import torch
from datasets import Dataset
from defence_tables import PATCH, bold, cell
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainingArguments, default_data_collator, set_seed

from genaf_hf import GenAFConfig, GenAFTrainer, PixelModel, load_encoder, load_images, with_pixel_values
from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.data import stratified_subset
from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import Answers, answer, feature_bank
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.drift import measure_drift
from genaf_hf.evaluation.measurement import CLEAN
from genaf_hf.evaluation.neighbors import Neighbors
from genaf_hf.evaluation.probing import probed
from genaf_hf.models.blocks import is_adaptable
from genaf_hf.models.head import head_name
from genaf_hf.models.identity import encoder_digest
from genaf_hf.pipelines.attack_arguments import named_attacks
from genaf_hf.pretraining.digits_encoder import pretrain_where_named
from genaf_hf.runs.journal import write_whole
from genaf_hf.sharing.layout import TRAINED_ON
from genaf_hf.values.markup import markdown
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)

HERE = Path(__file__).with_suffix("")
PUBLIC, HARDENED = "public", "hardened"
PROBE = "as it is"  # beside fine-tunes: the probe and the neighbours of its features
UNTOLD = ("found", "models", "downstream", "seeds", "fine_tunes")  # of the settings
INTRODUCTION = """\
Accuracy in %, the mean over seeds with its 95 % t interval where they differ. Perturbations are crafted on the
public encoder, or on the hardened one, from images that neither the hardening nor its user has. *drift* is the relative
squared distance of clean features from the public encoder's. *worst* is the lowest of those that were crafted there,
patches left out. *probe* is what a user has who leaves the encoder as it is. Of the hardening the time is given, of the
process, and the passes forward and backward in epochs of its images, those that craft the bank apart.
"""
SAME, OTHER, LONGEST = -1.0, -2.0, 3.0  # points of clean accuracy, and epochs of passes
ATTACKED = {"probe": -6.0, "fine-tune": -10.0}  # points of its own clean accuracy
GOALS_TOLD = """\
In brackets is what was to be reached, in bold what is not: points of a probe's clean accuracy beside that of the public
encoder, points that the worst perturbation from either encoder costs of a probe's and of a plain fine-tune's own clean
accuracy (the first fine-tune below), and passes in epochs. **Attacks on each image, such as PGD, are not withstood.**
"""
COST = "cost.json"
PASSES = 2 + 1 / 3  # of an image in a step: clean and attacked, and forward alone through the public encoder


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    args = parsed_arguments()
    pretrain_where_named(args.encoder, use_cpu=True)
    for seed in args.seeds:
        for downstream in args.downstream or [args.dataset]:
            measure(args, downstream, seed)
    write(args.found)


def parsed_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("dataset", help="images that it is hardened on")
    parser.add_argument("--downstream", nargs="+", help="labelled images that it is used on, default the same")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, help="default by the size of the encoder")
    parser.add_argument("--eps", type=float, default=10 / 255)
    parser.add_argument("--clean_share", type=float, default=0.5)
    parser.add_argument("--bank_steps", type=int, default=300)
    parser.add_argument("--fine_tunes", nargs="*", default=["all:300:1e-4"], help="KIND:STEPS:RATE")
    parser.add_argument("--attacks", default="l4a,ssp,uapgd,fff,advencoder-per,advencoder-pat")
    parser.add_argument("--attack_settings", default='{"advencoder-per": {"width": 256, "batch_size": 64}}')
    parser.add_argument("--train_images", type=int, default=45_000)
    parser.add_argument("--probe_images", type=int, default=4_000)
    parser.add_argument("--attacker_images", type=int, default=1024)
    parser.add_argument("--test_images", type=int, default=1000)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of trainings")
    parser.add_argument("--found", type=Path, default=HERE, help="of the results, without .jsonl and .md")
    parser.add_argument("--models", type=Path, default=Path("hardened-encoders-found"))
    return parser.parse_args(argv)


# ---- what is measured ----


@dataclass(frozen=True, eq=False)
class Use:
    """Both encoders by name, where each lies, and images, classes and perturbations that they are used with."""

    models: Mapping[str, PixelModel]
    places: Mapping[str, str]
    names: Sequence[str]
    pixels: Mapping[str, Dataset]
    crafted: Mapping[str, UniversalPerturbation]
    known: Sequence[UniversalPerturbation]  # that the hardened encoder was trained on


def measure(args: argparse.Namespace, downstream: str, seed: int) -> None:
    """Each way of using either encoder on some images, unless it was measured before."""
    setting = {name: value for name, value in vars(args).items() if name not in UNTOLD}
    setting |= {name: public_name(setting[name]) for name in ("encoder", "dataset")}
    setting["anchor"] = anchor_settings(args)
    line = {"setting": setting, "downstream": public_name(downstream), "seed": seed}
    done = [each["way"] for each in lines(args.found) if all(each[name] == value for name, value in line.items())]
    again = [given for given in args.fine_tunes[1:] if given.startswith(("shown:", "universal:"))]
    ways = [(PUBLIC, given) for given in (PROBE, *args.fine_tunes[:1], *again)]
    ways += [(HARDENED, given) for given in (PROBE, *args.fine_tunes)]
    missing = [(origin, given) for origin, given in ways if [origin, given] not in done]
    if not missing:
        return
    attacks = named_attacks(args.attacks, args.attack_settings, dae_eps=args.eps)
    data = load_images(downstream, max_train_samples=args.probe_images, max_eval_samples=args.test_images)
    names = [f"class {i}" for i in range(data["train"].features["label"].num_classes)]  # else a head that fits is kept
    public = PixelModel(*load_encoder(args.encoder, names)).eval()
    if any(given.startswith("lora:") for _, given in missing):
        check_lora(public)
    folder, cost = hardened_once(args, public, seed)
    models = {PUBLIC: public, HARDENED: PixelModel(*load_encoder(str(folder), names)).eval()}
    attacker = Attacker.of(stratified_subset(data["validation"], args.attacker_images, 0), downstream, public, public)
    use = Use(
        models=models,
        places={PUBLIC: args.encoder, HARDENED: str(folder)},
        names=names,
        pixels={split: with_pixel_values(images, public.processor) for split, images in data.items()},
        crafted={
            f"{name}, {origin}": attacker.craft(attack, model)
            for origin, model in models.items()
            for name, attack in attacks.items()
        },
        known=[UniversalPerturbation.from_pretrained(each) for each in sorted((folder / TRAINED_ON).iterdir())],
    )
    drift = measure_drift({HARDENED: models[HARDENED]}, public, use.pixels["test"], [], batch_size=128)[0].distance
    for origin, given in missing:
        rows = measured(args, use, origin, given, seed)
        with args.found.with_suffix(".jsonl").open("a") as file:
            file.write(json.dumps({**line, "drift": drift, **cost, "way": [origin, given], "rows": rows}) + "\n")
        write(args.found)


def measured(args: argparse.Namespace, use: Use, origin: str, given: str, seed: int) -> dict[str, dict[str, float]]:
    """Accuracies of one way of using an encoder, of a probe also those of the neighbours."""
    own = {name: each for name, each in use.crafted.items() if origin == HARDENED or name.endswith(PUBLIC)}
    model, test = use.models[origin], use.pixels["test"]
    if given == PROBE:
        found = answers(probe_of(model, use), test, own, feature_bank(model, use.pixels["train"], batch_size=128))
        return {"linear probe": accuracies(found), "kNN": accuracies(found, of="neighbors")}
    set_seed(seed)
    kept = given.startswith("probe:")
    begun = copy.deepcopy(probe_of(model, use)) if kept else PixelModel(*load_encoder(use.places[origin], use.names))
    tuned = fine_tuned(args, given, begun, use.pixels["train"], use.known, seed)
    return {f"fine-tune {given}": accuracies(answers(tuned, test, own))}


@cache
def probe_of(model: PixelModel, use: Use) -> PixelModel:
    """A linear probe on the features of an encoder."""
    train = use.pixels["train"][:]
    return probed(model, model.to_images(train["pixel_values"]), train["labels"], len(use.names))


def hardened_once(args: argparse.Namespace, public: PixelModel, seed: int) -> tuple[Path, dict[str, float]]:
    """The folder of the encoder, hardened by this seed, with an unused head, and what this took: seconds and epochs."""
    told = (args.steps, args.batch_size, args.learning_rate, args.train_images, args.precision)
    told += (json.dumps(anchored(args).make_defence().record()["settings"]), encoder_digest(public))
    names = (public_name(args.encoder), public_name(args.dataset), str(seed))
    folder = args.models / "-".join([*names, hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]])
    if not (folder / COST).exists():
        images = load_images(args.dataset, max_train_samples=args.train_images)["train"]
        torch.manual_seed(seed)
        model, processor = load_encoder(args.encoder, ("a", "b"))
        config = anchored(
            args,
            output_dir=str(folder),
            learning_rate=args.learning_rate,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch_size,
            bf16=args.precision == "bf16",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.accelerator.is_available(),
            seed=seed,
        )
        pixels = with_pixel_values(images.select_columns("image"), processor)
        trainer = GenAFTrainer(model=model, args=config, train_dataset=pixels, processing_class=processor)
        began = time.process_time()
        trainer.train()
        spent = time.process_time() - began
        epochs = PASSES * args.steps * args.batch_size / len(images)
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).cpu().save_pretrained(folder)
        processor.save_pretrained(folder)
        trainer.save_perturbations(folder)
        write_whole(folder / COST, json.dumps({"seconds": spent, "epochs": epochs}))
    return folder, json.loads((folder / COST).read_text())


def anchored(args: argparse.Namespace, **training) -> GenAFConfig:
    """The configuration of the hardening."""
    settings = {"eps": args.eps, "clean_share": args.clean_share, "defence_settings": {"bank_steps": args.bank_steps}}
    return GenAFConfig(defence="anchor", **settings, **training)


def anchor_settings(args: argparse.Namespace) -> dict:
    """Those of the hardening that no argument names, as JSON gives them back."""
    settings = anchored(args).make_defence().record()["settings"]
    return json.loads(json.dumps({name: value for name, value in settings.items() if not hasattr(args, name)}))


def fine_tuned(
    args: argparse.Namespace,
    given: str,
    begun: PixelModel,
    train: torch.utils.data.Dataset,
    known: Sequence[UniversalPerturbation],
    seed: int,
) -> PixelModel:
    """A classifier, trained on as anybody would; `given` is KIND:STEPS:RATE."""
    kind, steps, rate = given.split(":")
    settings = {
        "output_dir": "fine-tune",
        "max_steps": int(steps),
        "learning_rate": float(rate),
        "per_device_train_batch_size": 64,
        "weight_decay": 0.05,
        "warmup_steps": 0.1,
        "bf16": args.precision == "bf16",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.accelerator.is_available(),
        "seed": seed,
    }
    trainer: Trainer
    if kind == "universal":
        live = {"live": 6, "class_share": 0, "bank_steps": args.bank_steps}  # as the table was measured
        config = GenAFConfig(**settings, defence="universal", eps=args.eps, defence_settings=live)
        trainer = GenAFTrainer(model=begun.model, args=config, train_dataset=train, processing_class=begun.processor)
    else:
        trainer = Trainer(
            model=with_lora(begun.model) if kind == "lora" else begun.model,
            args=TrainingArguments(**settings, remove_unused_columns=False, label_names=["labels"]),
            train_dataset=train,
            data_collator=partial(shown, begun, known) if kind == "shown" else default_data_collator,
        )
    trainer.train()
    tuned = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    tuned = tuned.merge_and_unload() if kind == "lora" else tuned
    return PixelModel(tuned.cpu(), begun.processor).eval()


def shown(model: PixelModel, known: Sequence[UniversalPerturbation], rows: list[dict]) -> dict[str, Tensor]:
    """A batch, half of whose images are each under one of some perturbations."""
    batch = default_data_collator(rows)
    images = model.to_images(batch["pixel_values"])
    chosen = torch.randint(2 * len(known), (len(images),))
    for i, perturbation in enumerate(known):
        if (mine := chosen == i).any():
            images[mine] = perturbation(images[mine], seeds=torch.randint(2**31, (int(mine.sum()),)).tolist())
    return {**batch, "pixel_values": model.to_pixel_values(images)}


def with_lora(model: PreTrainedModel) -> PreTrainedModel:
    """A classifier with LoRA on each layer of its encoder that adapters can be put on."""
    layers = [name for name, each in model.base_model.named_modules() if is_adaptable(each)]
    targets = [f"{model.base_model_prefix}.{name}" for name in layers]
    return get_peft_model(model, LoraConfig(target_modules=targets, modules_to_save=[head_name(model)]))


def check_lora(public: PixelModel) -> None:
    """Refuses LoRA where its layers do not work in an encoder, before it is hardened.

    Raises:
        UserError: says what fails.
    """
    images = public.mean.new_full((1, 3, *public.image_size), 0.5)
    try:
        with_lora(copy.deepcopy(public.model))(pixel_values=public.to_pixel_values(images))
    except AttributeError as error:
        raise UserError(
            f"fine_tunes has lora, but PEFT's layers do not work in a {type(public.model).__name__} ({error}): "
            "leave it out."
        ) from error


def answers(
    model: PixelModel,
    test: Dataset,
    crafted: Mapping[str, UniversalPerturbation],
    neighbors: Neighbors | None = None,
) -> dict[str, Answers]:
    """What a model answers without an attack, and under each."""
    return {
        name: answer(model, test, under(perturbation), neighbors=neighbors, batch_size=128)
        for name, perturbation in {CLEAN: None, **crafted}.items()
    }


def accuracies(found: Mapping[str, Answers], of: str = "predictions") -> dict[str, float]:
    """Accuracy in % by attack, of the head or of the nearest neighbours."""
    right = {name: zip(getattr(each, of), each.labels, strict=True) for name, each in found.items()}
    return {name: 100 * mean(given == label for given, label in pairs) for name, pairs in right.items()}


def under(perturbation: UniversalPerturbation | None) -> Callable | None:
    """A perturbation, called as an attack is."""
    return None if perturbation is None else lambda _, images, __, *, seeds: perturbation(images, seeds=seeds)


# ---- how it is shown ----


def lines(path: Path) -> list[dict]:
    """What was found before."""
    file = path.with_suffix(".jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def write(path: Path) -> None:
    """A section for each setting and images that the encoder is used on, with a line for each way of using it."""
    sections: dict[str, list[dict]] = {}
    for line in lines(path):
        sections.setdefault(json.dumps([line["setting"], line["downstream"]]), []).append(line)
    parts = ["# Encoders hardened without labels, used by others\n", INTRODUCTION]
    parts += ["## What was to be reached\n", GOALS_TOLD, f"{markdown(goals(sections.values()))}\n"]
    parts += [section(found) for found in sections.values()]
    write_whole(path.with_suffix(".md"), "\n".join(parts))


def used(found: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """Accuracies by way of using and by encoder, a dictionary for each seed; the worst of each origin is among them."""
    rows: dict[tuple[str, str], list[dict]] = {}
    for line in sorted(found, key=lambda line: line["way"][0] == HARDENED):
        for way, row in line["rows"].items():
            worst = {}
            for each in (PUBLIC, HARDENED):
                known = [row[name] for name in row if name.endswith(f", {each}") and not name.startswith(PATCH)]
                worst[f"worst, {each}"] = min(known, default=None)
            rows.setdefault((way, line["way"][0]), []).append({CLEAN: row[CLEAN], **worst, **row})
    return rows


def goals(sections: Iterable[list[dict]]) -> list[list[str]]:
    """A table of how far hardened encoders are from what was to be reached."""
    heads = [f"probe, clean ({SAME:g}; other images {OTHER:g})"]
    heads += [f"{way}, {each} ({most:g})" for way, most in ATTACKED.items() for each in (PUBLIC, HARDENED)]
    table = [["hardened", "used on", *heads, f"epochs ({LONGEST:g})"]]
    for found in sections:
        told, downstream, rows = found[0]["setting"], found[0]["downstream"], used(found)
        tunes = [way for way, origin in rows if origin == HARDENED and way.startswith("fine-tune all:")]
        ways = {"probe": "linear probe", "fine-tune": tunes[0] if tunes else None}
        if not {(ways["probe"], each) for each in (PUBLIC, HARDENED)} <= rows.keys():
            continue  # of a command that goes on
        before, after = (mean(row[CLEAN] for row in rows[ways["probe"], each]) for each in (PUBLIC, HARDENED))
        cells = [bold(f"{after - before:+.1f}", after - before < (SAME if downstream == told["dataset"] else OTHER))]
        for way, each in product(ATTACKED, (PUBLIC, HARDENED)):
            lost = [row[f"worst, {each}"] - row[CLEAN] for row in rows.get((ways[way], HARDENED), ())]
            cells.append(bold(f"{mean(lost):+.1f}", mean(lost) < ATTACKED[way]) if lost else "-")
        epochs = mean(line["epochs"] for line in found)
        encoder = f"{told['encoder']}, {told['steps']} steps on {told['dataset']}{alone(told)}"
        table.append([encoder, downstream, *cells, bold(f"{epochs:.1f}", epochs > LONGEST)])
    return table


def alone(told: dict) -> str:
    """What tells apart a section of a single attack, which is made longer there."""
    settings = json.loads(told["attack_settings"] or "{}")
    several = "," in told["attacks"] or "steps" not in settings
    return "" if several else f", attacked by {settings['steps']:,} steps of {told['attacks']}"


def section(found: list[dict]) -> str:
    """Settings, drift and time in words, and the table."""
    told, first = found[0]["setting"], found[0]
    by_seed, rows = {line["seed"]: line for line in found}, used(found)
    table = [["used as", "seeds", *dict.fromkeys(name for each in rows.values() for row in each for name in row)]]
    for (way, origin), each in rows.items():
        accuracies = (cell(row.get(name) for row in each) for name in table[0][2:])
        table.append([f"{way}, {origin}", str(len(each)), *accuracies])
    drift, seconds, epochs = (mean(line[name] for line in by_seed.values()) for name in ("drift", "seconds", "epochs"))
    settings = ", ".join(f"{name} {value}" for name, value in told.items() if name not in ("encoder", "dataset"))
    hardened = f"{told['encoder']}, hardened on {told['dataset']} in {told['steps']} steps{alone(told)}"
    return (
        f"## {hardened}, used on {first['downstream']}\n\n"
        f"Seed {', '.join(map(str, by_seed))}; {settings}. Drift {drift:.3f}; {epochs:.1f} epochs, {seconds:.0f} s.\n\n"
        f"{markdown(table)}\n"
    )


if __name__ == "__main__":
    main()
