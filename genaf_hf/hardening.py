"""From a public encoder and labelled images to a hardened model with its report: what every recipe runs."""

import copy
import json
import logging
import shutil
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import DatasetDict
from torch import Tensor
from transformers import PreTrainedModel

from genaf_hf.attacks import l4a, pgd
from genaf_hf.checkpoint import newest_complete_checkpoint
from genaf_hf.data import load_images, stratified_subset, with_pixel_values
from genaf_hf.encoders import load_encoder
from genaf_hf.evaluation import evaluate_robustness
from genaf_hf.figures import draw_overview
from genaf_hf.genaf_config import GenAFConfig
from genaf_hf.genaf_trainer import ADAPT, ADVERSARIAL_FINETUNE, STAGES, STANDARD_FINETUNE, GenAFTrainer
from genaf_hf.model_card import model_card
from genaf_hf.pixel_model import PixelModel
from genaf_hf.report import RobustnessReport

logger = logging.getLogger(__name__)

UNFINISHED_RUN = "unfinished_run.json"
UNDEFENDED, HARDENED = "undefended", "hardened"
SURROGATE_IMAGES = 2048


@dataclass
class HardeningArguments:
    """Which encoder is hardened on which images, and what the result is attacked with."""

    model_name_or_path: str = field(metadata={"help": "Public encoder: Hub id or local folder."})
    dataset_name: str = field(metadata={"help": "Hub id, local folder (also of images in class folders), or digits."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the encoder."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "As in from_pretrained; eager for bf16 on CPU."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration (subset) of the dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the dataset."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images; found if there is one."})
    label_column: str | None = field(default=None, metadata={"help": "Column of class labels; found if there is one."})
    train_split: str | None = field(default=None, metadata={"help": "Split to train on."})
    validation_split: str | None = field(
        default=None, metadata={"help": "Split to make choices by; else held out of train."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Split to report, never used to choose anything."})
    held_out_share: float = field(default=0.1, metadata={"help": "Share of train held out for each missing split."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on a stratified subset of this size."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Validate and report on stratified subsets of this size."}
    )
    dae_eps: float | None = field(
        default=None, metadata={"help": "Eps of the universal perturbation in the report, default the training eps."}
    )
    dae_steps: int = field(default=500, metadata={"help": "Steps by which the universal perturbation is crafted."})
    pgd_eps: float | None = field(
        default=None, metadata={"help": "Eps of PGD in the report, default the training eps."}
    )
    pgd_steps: int = field(default=20, metadata={"help": "Steps of PGD in the report."})


def harden(arguments: HardeningArguments, config: GenAFConfig) -> RobustnessReport:
    """Fine-tunes an undefended and a hardened model from one encoder, attacks both, and writes everything down.

    `config.output_dir` then holds the hardened model with its processor and card, `undefended/`, `perturbation/`,
    `report.json` and `overview.png`. A run that was killed goes on where it was when it is started again with the same
    settings.

    Raises:
        ValueError: for input that cannot be worked with, before any work.
    """
    data = load_images(
        arguments.dataset_name,
        config_name=arguments.dataset_config_name,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        train_split=arguments.train_split,
        validation_split=arguments.validation_split,
        test_split=arguments.test_split,
        held_out_share=arguments.held_out_share,
        revision=arguments.dataset_revision,
    )
    data = DatasetDict(
        train=stratified_subset(data["train"], arguments.max_train_samples, seed=0),
        validation=stratified_subset(data["validation"], arguments.max_eval_samples, seed=0),
        test=stratified_subset(data["test"], arguments.max_eval_samples, seed=0),
    )
    class_names = data["train"].features["label"].names
    torch.manual_seed(config.seed)
    encoder, processor = load_encoder(
        arguments.model_name_or_path,
        class_names,
        revision=arguments.model_revision,
        attn_implementation=arguments.attn_implementation,
    )
    pixels = {split: with_pixel_values(dataset, processor) for split, dataset in data.items()}
    resume = claim_output_dir(arguments, config)

    def trainer(model: PreTrainedModel) -> GenAFTrainer:
        return GenAFTrainer(
            model=model,
            args=copy.copy(config),
            train_dataset=pixels["train"],
            eval_dataset=pixels["validation"],
            processing_class=processor,
        )

    undefended = trainer(copy.deepcopy(encoder))
    undefended.standard_finetune(newest_checkpoint(config, STANDARD_FINETUNE) if resume else None)
    hardened = trainer(copy.deepcopy(encoder))
    began = any(newest_checkpoint(config, stage) for stage in (ADVERSARIAL_FINETUNE, ADAPT))
    hardened.train(resume_from_checkpoint=resume and began)

    device = config.device
    models = {
        UNDEFENDED: PixelModel(undefended.model, processor).to(device),
        HARDENED: PixelModel(hardened.model, processor).to(device),
    }
    public_encoder = PixelModel(encoder.to(device), processor)
    surrogate = stratified_subset(data["train"], SURROGATE_IMAGES, seed=0)
    perturbation = l4a(
        public_encoder,
        all_images(public_encoder, with_pixel_values(surrogate, processor)),
        eps=arguments.dae_eps or config.eps,
        steps=arguments.dae_steps,
        seed=config.seed,
        data=f"{len(surrogate)} images of {arguments.dataset_name}, split train, without labels",
    )
    pgd_eps = arguments.pgd_eps or config.eps
    attacks = {
        "l4a": perturbation,
        "pgd": partial(
            pgd, eps=pgd_eps, steps=arguments.pgd_steps, step_size=2.5 * pgd_eps / arguments.pgd_steps, norm=config.norm
        ),
    }
    report = evaluate_robustness(
        models,
        pixels["test"],
        attacks,
        batch_size=config.per_device_eval_batch_size,
        seed=config.seed,
        dataset_info={
            "name": arguments.dataset_name,
            "config": arguments.dataset_config_name,
            "revision": arguments.dataset_revision,
            "split": arguments.test_split or "test",
        },
    )
    if PartialState().is_main_process:
        folder = Path(config.output_dir)
        for model, place in ((undefended.model, folder / UNDEFENDED), (hardened.model, folder)):
            model.save_pretrained(place)
            processor.save_pretrained(place)
        perturbation.save_pretrained(folder / "perturbation")
        report.save(folder / "report.json")
        shown = with_pixel_values(data["test"], processor)[:8]
        images = public_encoder.to_images(shown["pixel_values"].to(device))
        draw_overview(report, models, images, shown["labels"], class_names, perturbation, folder / "overview.png")
        card = model_card(report, model_name=config.hub_model_id or folder.name, picture="overview.png")
        card.save(folder / "README.md")
        release_output_dir(folder)
    PartialState().wait_for_everyone()
    return report


def all_images(model: PixelModel, dataset, batch_size: int = 256) -> Tensor:
    """The images of a dataset in [0, 1], (n, 3, h, w), on the model's device."""
    batches = [dataset[start : start + batch_size]["pixel_values"] for start in range(0, len(dataset), batch_size)]
    return torch.cat([model.to_images(batch.to(model.mean.device)) for batch in batches])


def newest_checkpoint(config: GenAFConfig, stage: str) -> Path | None:
    return newest_complete_checkpoint(Path(config.output_dir) / stage, config.world_size)


def claim_output_dir(arguments: HardeningArguments, config: GenAFConfig) -> bool:
    """Whether the output folder holds an unfinished run with these settings, to be gone on with.

    Raises:
        ValueError: when it holds one with other settings; names them.
    """
    path = Path(config.output_dir) / UNFINISHED_RUN
    now = json.loads(json.dumps({**asdict(arguments), **config.to_dict()}))
    [before] = broadcast_object_list([json.loads(path.read_text()) if path.exists() else None])
    if before is None:
        if PartialState().is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(now, indent=2))
        return False
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        details = ", ".join(f"{name} was {before.get(name)} and is {now[name]}" for name in changed)
        raise ValueError(
            f"{config.output_dir} holds an unfinished run with other settings ({details}): choose another output_dir, "
            f"or delete {path} to start anew."
        )
    logger.info("Going on with the unfinished run in %s", config.output_dir)
    return True


def release_output_dir(folder: Path) -> None:
    """Removes what served only to resume the run."""
    for stage in STAGES:
        shutil.rmtree(folder / stage, ignore_errors=True)
    (folder / UNFINISHED_RUN).unlink(missing_ok=True)
