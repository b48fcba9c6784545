"""Trains tiny models in processes of their own, for the tests that kill a run or start two processes.

python tests/train_tiny.py '[{"folder": ..., "kill": ["adapt", "on_step_end", 3], "settings": {...}}, ...]'
python -m torch.distributed.run --nproc_per_node 2 tests/train_tiny.py dies FOLDER
python -m torch.distributed.run --nproc_per_node 2 tests/train_tiny.py distributed FOLDER
"""

import json
import os
import signal
import sys
from functools import cache, partial
from pathlib import Path

import torch
from conftest import CLASSES, SIDE, TINY_VIT, colored_images
from transformers import TrainerCallback, ViTConfig, ViTForImageClassification, ViTImageProcessor

from genaf_hf import GenAFConfig, GenAFTrainer, PixelModel, pgd, with_pixel_values
from genaf_hf.cli.harden_encoder import main as harden_encoder
from genaf_hf.evaluation.evaluate import evaluate_robustness
from genaf_hf.training.defences import DEFENCES
from genaf_hf.training.genetic_regularization import genetic_regularization
from genaf_hf.training.global_batch import gather_rows

PROCESSOR = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
TRAINER_SETTINGS = ("callbacks", "compute_metrics", "optimizers", "optimizer_cls_and_kwargs")
ODD = 13  # evaluation images, shared unevenly by two processes
FULL_BATCH = {"dtype": torch.float64, "images": 24, "per_device_train_batch_size": 8, "eps": 8 / 255}
FULL_BATCH |= {"random_flip": True, "seed": 1}  # of which some images are right, and less of them attacked ones
HALF_BATCH = {**FULL_BATCH, "per_device_train_batch_size": 4}
QUARTER_BATCH = {**FULL_BATCH, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
WITH_DROPOUT = {"dropout": 0.1, "random_flip": True, "save_strategy": "steps", "save_steps": 2, "images": 24}


@cache
def decoded(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Images as pixel values, which takes as long as training on them."""
    return [*with_pixel_values(colored_images(count, seed), PROCESSOR)]


def tensors(count: int, seed: int, dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    """Decoded images: a dataset of its own for a Trainer in any precision."""
    rows = decoded(count, seed)
    return [{"pixel_values": row["pixel_values"].to(dtype), "labels": row["labels"]} for row in rows]


def tiny_model(dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> ViTForImageClassification:
    torch.manual_seed(0)
    config = ViTConfig(
        **TINY_VIT,
        id2label=dict(enumerate(CLASSES)),
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return ViTForImageClassification(config).to(dtype)


def tiny_trainer(
    folder,
    *,
    images: int = 22,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    trainer_class: type[GenAFTrainer] = GenAFTrainer,
    model=None,
    **settings,
) -> GenAFTrainer:
    """A trainer whose stages have 5 steps, and whose epochs 3; `settings` are the Trainer's and the configuration's."""
    of_trainer = {name: settings.pop(name) for name in TRAINER_SETTINGS if name in settings}
    defaults = {
        "output_dir": str(folder),
        "max_steps": 5,
        "adapt_max_steps": 5,
        "learning_rate": 3e-3,
        "adapt_learning_rate": 3e-3,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 4,
        "assessment_samples": 8,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    if "steps" in DEFENCES[settings.get("defence", "gen-af")].defaults:
        defaults["steps"] = 2
    return trainer_class(
        tiny_model(dtype, dropout) if model is None else model,
        GenAFConfig(**{**defaults, **settings}),
        processing_class=PROCESSOR,
        train_dataset=tensors(images, 0, dtype),
        eval_dataset=tensors(ODD, 1, dtype),
        **of_trainer,
    )


def copied_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


class Kill(TrainerCallback):
    """Ends the process without notice at an event of a stage: `on_step_end` is before saving, `on_save` after it."""

    def __init__(self, stage: str, event: str, step: int):
        setattr(self, event, partial(self.kill, stage, step))

    def kill(self, stage: str, step: int, args, state, control, **kwargs):
        if Path(args.output_dir).name == stage and state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)


class KilledWhileSaving(GenAFTrainer):
    """Dies at step 4 of a stage with the weights and the optimizer written, the rest of the checkpoint not."""

    dies_in = ""

    def _save_rng_state(self, output_dir: str) -> None:
        if self.stage == self.dies_in and self.state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_rng_state(output_dir)


def train_until_killed(folder: str, kill: list, settings: dict) -> None:
    stage, event, step = kill
    if event == "while_saving":
        KilledWhileSaving.dies_in = stage
        tiny_trainer(folder, trainer_class=KilledWhileSaving, **settings).train()
    else:
        tiny_trainer(folder, callbacks=[Kill(stage, event, step)], **settings).train()


class OneDies(TrainerCallback):
    """Ends the last process without notice at step 3, between two passes that all processes take part in."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3 and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def fork_killed_runs(jobs: list[dict]) -> None:
    """Trains each job in a child process, which saves importing everything anew; prints the signal that ended it."""
    for job in jobs:
        child = os.fork()
        if child == 0:
            train_until_killed(**job)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status))


def evaluation_counts(trainer: GenAFTrainer) -> dict[str, float]:
    """Correct answers that `evaluate` reports."""
    metrics = trainer.evaluate()
    return {name: metrics[f"eval_{name}_accuracy"] * ODD for name in ("clean", "robust")}


def robustness_counts(trainer: GenAFTrainer) -> list[list[int]]:
    """What `evaluate_robustness` counts, clean and attacked: correct, fooled, changed, correct by neighbors."""
    attack = partial(pgd, eps=16 / 255, steps=3, step_size=8 / 255, norm="linf")
    model = PixelModel(trainer.model, PROCESSOR)
    report = evaluate_robustness(
        {"tiny": model}, trainer.eval_dataset, {"pgd": attack}, bank=trainer.train_dataset, batch_size=3
    )
    return [[each.correct, each.fooled, each.changed, each.neighbors_correct] for each in report.measurements]


def relations(rows: torch.Tensor) -> torch.Tensor:
    """A loss in which every row meets every other one."""
    return genetic_regularization(rows, rows.flip(1), torch.arange(len(rows)) % 3, rows.square().sum(1).detach())


def gathered_gradient_error(rank: int, world_size: int) -> float:
    """How far the gradient through `gather_rows`, averaged over processes as DDP does, is from that of one process."""
    rows = torch.randn(4 * world_size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = rows.chunk(world_size)[rank].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(relations(gather_rows(own) + gather_rows(own.clone())), own)
    (expected,) = torch.autograd.grad(relations(2 * rows.requires_grad_()), rows)
    return (gradient / world_size - expected.chunk(world_size)[rank]).abs().max().item()


def write_images_and_encoder(folder: Path) -> None:
    """What `hardened_encoder` reads."""
    (folder / "images").mkdir(parents=True)
    for number, image in enumerate(colored_images(26, 0)["image"]):
        image.save(folder / "images" / f"{number}.png")
    tiny_model().base_model.save_pretrained(folder / "encoder")
    PROCESSOR.save_pretrained(folder / "encoder")


def hardened_encoder(folder: Path, rows: int) -> None:
    """Runs `genaf-hf harden-encoder` by batches of so many rows on each process, into `folder / "hardened"`."""
    words = f"""
        --model_name_or_path {folder}/encoder --dataset_name {folder}/images --output_dir {folder}/hardened
        --attacks l4a,feature-pgd --attack_settings {{"steps":2}} --defence_settings {{"bank":["l4a"],"bank_steps":2}}
        --max_steps 4 --per_device_train_batch_size {rows} --learning_rate 1e-3 --eps 0.5 --eps_warmup_ratio 0
        --use_cpu true --disable_tqdm true --report_to none
    """
    harden_encoder(words.split())


def resumed_from_middle(folder: Path) -> GenAFTrainer:
    """A run of both stages, and then its second half again from a checkpoint."""
    first = tiny_trainer(folder, **WITH_DROPOUT)
    first.train()
    again = tiny_trainer(folder, **WITH_DROPOUT)
    again.train(resume_from_checkpoint=str(folder / "adapt" / "checkpoint-2"))
    torch.testing.assert_close(again.model.state_dict(), first.model.state_dict(), rtol=0, atol=0)
    return again


def resumed_after_a_death(folder: Path) -> GenAFTrainer:
    """The run whose last process died, to its end."""
    again = tiny_trainer(folder / "died", **WITH_DROPOUT)
    again.train(resume_from_checkpoint=True)
    return again


def write_distributed_results(folder: Path) -> None:
    """Everything that the test of two processes compares."""
    weights = {}
    for name, settings in {"half": HALF_BATCH, "quarter": QUARTER_BATCH}.items():
        trainer = tiny_trainer(folder / name, **settings)
        trainer.train()
        weights[name] = trainer.model.state_dict()
    resumed, after_death = resumed_from_middle(folder / "resumed"), resumed_after_a_death(folder)
    weights["uninterrupted"], weights["after a death"] = resumed.model.state_dict(), after_death.model.state_dict()
    rank, world_size = trainer.args.process_index, trainer.args.world_size
    error = torch.tensor([gathered_gradient_error(rank, world_size)], dtype=torch.float64)
    results = {
        "world_size": world_size,
        "gradient_error": trainer.accelerator.gather(error).max().item(),
        "evaluation": evaluation_counts(trainer),
        "robustness": robustness_counts(trainer),
        "resumed_to": resumed.state.global_step,
    }
    if rank == 0:
        torch.save(weights, folder / "weights.pt")
        (folder / "results.json").write_text(json.dumps(results))
    hardened_encoder(folder, 4)  # last: its arguments begin a state of the processes anew


if __name__ == "__main__":
    if sys.argv[1] == "dies":
        tiny_trainer(Path(sys.argv[2]) / "died", callbacks=[OneDies()], **WITH_DROPOUT).train()
    elif sys.argv[1] == "distributed":
        write_distributed_results(Path(sys.argv[2]))
    else:
        fork_killed_runs(json.loads(sys.argv[1]))
