"""What an encoder that was hardened without labels is worth to whoever uses it: probes, neighbours and fine-tunes.

    python benchmarks/hardened_encoders.py digits-simclr digits --downstream digits
    python benchmarks/hardened_encoders.py ENCODER IMAGES --downstream IMAGES OTHERS --seeds 0 1 2 --steps 600

The encoder is hardened on the first images without their labels, once for each seed. Of the public and of the hardened
encoder a linear probe, the nearest neighbours and fine-tunes by the stock `Trainer` are measured on each of the others,
clean and under perturbations that are crafted on the public encoder and on the hardened one, which is published too,
from images that none of these sees. Fine-tunes are given as KIND:STEPS:RATE: `all` weights from a new head on, all
weights from the `probe` on, as Kumar et al. (ICLR 2022, https://arxiv.org/abs/2202.10054) do, or `lora` of rank 8 on
every layer; of the public encoder only the first. What is found is a line of hardened_encoders.jsonl, and a command
that was killed and is started again goes on. The table, hardened_encoders.md, is written from all lines.
"""

import argparse
import copy
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from genaf_hf import GenAFConfig, GenAFTrainer, PixelModel, load_encoder, load_images, with_pixel_values
from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.data import stratified_subset
from genaf_hf.evaluation.answers import Answers, answer, feature_bank
from genaf_hf.evaluation.drift import measure_drift
from genaf_hf.evaluation.neighbors import Neighbors
from genaf_hf.evaluation.perturbation_cache import encoder_digest
from genaf_hf.evaluation.probing import probed
from genaf_hf.evaluation.report import CLEAN, markdown
from genaf_hf.evaluation.threats import Attacker
from genaf_hf.models.blocks import is_adaptable
from genaf_hf.models.head import head_name
from genaf_hf.pipelines.attack_arguments import named_attacks
from genaf_hf.pretraining.digits_encoder import pretrain_where_named
from genaf_hf.runs.journal import write_whole
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)

HERE = Path(__file__).with_suffix("")
PUBLIC, HARDENED = "public", "hardened"
INTRODUCTION = """\
Accuracy in %, the mean over seeds. Perturbations are crafted on the public encoder, or on the hardened one, from images
that neither the hardening nor its user has. *drift* is the relative squared distance of clean features from the public
encoder's. *worst* is the lowest of those that were crafted there. *probe* is what a user has who leaves the encoder as
it is. Of the hardening the time is given, of the process, and the passes forward and backward in epochs of its images.
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


def parsed_arguments() -> argparse.Namespace:
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
    return parser.parse_args()


# ---- what is measured ----


def measure(args: argparse.Namespace, downstream: str, seed: int) -> None:
    """All ways of using both encoders on some images, unless they were measured before."""
    setting = {name: value for name, value in vars(args).items() if name not in ("found", "models", "downstream")}
    setting |= {name: public_name(setting[name]) for name in ("encoder", "dataset")}
    line = json.loads(json.dumps({"setting": {**setting, "seeds": None}, "downstream": public_name(downstream)}))
    line["seed"] = seed
    if any(line == {name: each[name] for name in line} for each in lines(args.found)):
        return
    data = load_images(downstream, max_train_samples=args.probe_images, max_eval_samples=args.test_images)
    names = [f"class {i}" for i in range(data["train"].features["label"].num_classes)]  # else a head that fits is kept
    public = PixelModel(*load_encoder(args.encoder, names)).eval()
    folder, cost = hardened_once(args, public, seed)
    models = {PUBLIC: public, HARDENED: PixelModel(*load_encoder(str(folder), names)).eval()}
    attacker = Attacker.of(stratified_subset(data["validation"], args.attacker_images, 0), downstream, public, public)
    attacks = named_attacks(args.attacks, args.attack_settings, dae_eps=args.eps)
    crafted = {
        f"{name}, {origin}": attacker.craft(attack, model)
        for origin, model in models.items()
        for name, attack in attacks.items()
    }
    pixels = {split: with_pixel_values(images, public.processor) for split, images in data.items()}
    train = pixels["train"][:]
    images, rows = public.to_images(train["pixel_values"]), {}
    for origin, model in models.items():
        probe = probed(model, images, train["labels"])
        own = {name: each for name, each in crafted.items() if origin == HARDENED or name.endswith(PUBLIC)}
        found = answers(probe, pixels["test"], own, feature_bank(model, pixels["train"], batch_size=128))
        rows[f"linear probe, {origin}"] = accuracies(found)
        rows[f"kNN, {origin}"] = accuracies(found, of="neighbors")
        place = str(folder) if origin == HARDENED else args.encoder
        for given in args.fine_tunes:
            kind, steps, rate = given.split(":")
            if origin == HARDENED or given == args.fine_tunes[0]:
                set_seed(seed)
                begun = probe.model if kind == "probe" else load_encoder(place, names)[0]
                tuned = fine_tuned(args, copy.deepcopy(begun), pixels, int(steps), float(rate), seed, kind == "lora")
                found = answers(PixelModel(tuned, public.processor).eval(), pixels["test"], own)
                rows[f"fine-tune {given}, {origin}"] = accuracies(found)
    drift = [each.distance for each in measure_drift(models, public, pixels["test"], [], batch_size=128)]
    line |= {"rows": rows, "drift": dict(zip(models, drift, strict=True)), **cost}
    with args.found.with_suffix(".jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    write(args.found)


def hardened_once(args: argparse.Namespace, public: PixelModel, seed: int) -> tuple[Path, dict[str, float]]:
    """The folder of the encoder, hardened by this seed, with an unused head, and what this took: seconds and epochs."""
    told = (args.steps, args.batch_size, args.learning_rate, args.eps, args.clean_share, args.bank_steps)
    name = "-".join(map(str, (public_name(args.encoder), public_name(args.dataset), seed, *told, args.train_images)))
    folder = args.models / f"{name}-{args.precision}-{encoder_digest(public)[:8]}"
    if not (folder / COST).exists():
        images = load_images(args.dataset, max_train_samples=args.train_images)["train"]
        torch.manual_seed(seed)
        model, processor = load_encoder(args.encoder, ("a", "b"))
        config = GenAFConfig(
            output_dir=str(folder),
            defence="anchor",
            defence_settings={"bank_steps": args.bank_steps},
            eps=args.eps,
            clean_share=args.clean_share,
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
        write_whole(folder / COST, json.dumps({"seconds": spent, "epochs": epochs}))
    return folder, json.loads((folder / COST).read_text())


def fine_tuned(
    args: argparse.Namespace, model: PreTrainedModel, pixels: Mapping, steps: int, rate: float, seed: int, lora: bool
) -> PreTrainedModel:
    """A classifier, trained on clean images as anybody would."""
    if lora:
        layers = [name for name, each in model.base_model.named_modules() if is_adaptable(each)]
        targets = [f"{model.base_model_prefix}.{name}" for name in layers]
        model = get_peft_model(model, LoraConfig(target_modules=targets, modules_to_save=[head_name(model)]))
    training = TrainingArguments(
        output_dir="fine-tune",
        max_steps=steps,
        learning_rate=rate,
        per_device_train_batch_size=64,
        weight_decay=0.05,
        warmup_steps=0.1,
        bf16=args.precision == "bf16",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=not torch.accelerator.is_available(),
        seed=seed,
    )
    Trainer(model=model, args=training, train_dataset=pixels["train"]).train()
    return (model.merge_and_unload() if lora else model).cpu()


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
    parts += [section(found) for found in sections.values()]
    write_whole(path.with_suffix(".md"), "\n".join(parts))


def section(found: list[dict]) -> str:
    """Settings, drift and time in words, and the table."""
    told, first = found[0]["setting"], found[0]
    attacks = list(dict.fromkeys(name for row in first["rows"].values() for name in row))
    rows = [["used as", CLEAN, *(f"worst, {origin}" for origin in (PUBLIC, HARDENED)), *attacks[1:]]]
    for way in first["rows"]:
        means = {name: mean(line["rows"][way][name] for line in found) for name in first["rows"][way]}
        for origin in (PUBLIC, HARDENED):
            means[f"worst, {origin}"] = min(
                (each for name, each in means.items() if name.endswith(origin)), default=None
            )
        rows.append([way, *("-" if means.get(name) is None else f"{means[name]:.1f}" for name in rows[0][1:])])
    drift = mean(line["drift"][HARDENED] for line in found)
    seconds, epochs = (mean(line[name] for line in found) for name in ("seconds", "epochs"))
    settings = ", ".join(
        f"{name} {value}" for name, value in told.items() if name not in ("encoder", "dataset", "seeds")
    )
    return (
        f"## {told['encoder']}, hardened on {told['dataset']}, used on {first['downstream']}\n\n"
        f"Seed {', '.join(str(line['seed']) for line in found)}; {settings}. Drift {drift:.3f}; {epochs:.1f} epochs, "
        f"{seconds:.0f} s.\n\n"
        f"{markdown(rows)}\n"
    )


if __name__ == "__main__":
    main()
