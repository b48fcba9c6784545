"""What a hardening would take: images, steps, time and memory, the latter from a few steps that are thrown away."""

import copy
import gc
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from genaf_hf.evaluation.evaluate import try_out
from genaf_hf.evaluation.report import UNDEFENDED
from genaf_hf.evaluation.threats import in_one_step
from genaf_hf.pipelines.experiment import Experiment, asked_attacks
from genaf_hf.pipelines.harden import HardeningArguments
from genaf_hf.pipelines.hardening import hardening_run
from genaf_hf.sharing.record import ADAPT, STANDARD_FINETUNE
from genaf_hf.training.config import GenAFConfig
from genaf_hf.training.trainer import GenAFTrainer

FEW_STEPS = {
    "max_steps": 3,  # of which the first one is slower, and not counted
    "num_train_epochs": 1.0,  # which these overrule; the Trainer compares it all the same
    "adapt_epochs": 0.0,
    "adapt_max_steps": -1,
    "eval_strategy": IntervalStrategy.NO,
    "save_strategy": SaveStrategy.NO,
    "load_best_model_at_end": False,
}
QUIET = {
    "logging_strategy": IntervalStrategy.NO,
    "report_to": [],
    "push_to_hub": False,
    "disable_tqdm": True,
}


@dataclass(frozen=True)
class Stage:
    """How long one stage of training is.

    Attributes:
        steps: of the optimizer.
        seconds: of one step, with the images' way into it.
    """

    steps: int
    seconds: float


@dataclass(frozen=True)
class DryRun:
    """What a hardening would take.

    Attributes:
        images: how many, by split.
        stages: of the training, by name.
        crafting: seconds that perturbations took which are trained on, 0 where there are none.
        memory: bytes that training took at most, of the GPU where there is one, else of the process.
    """

    images: Mapping[str, int]
    stages: Mapping[str, Stage]
    crafting: float
    memory: int

    def __str__(self) -> str:
        images = ", ".join(f"{count:,} {split}" for split, count in self.images.items())
        lines = [f"{'stage':<22} {'steps':>7} {'s/step':>8} {'minutes':>8}"]
        for name, stage in self.stages.items():
            lines.append(f"{name:<22} {stage.steps:>7} {stage.seconds:>8.3g} {stage.steps * stage.seconds / 60:>8.1f}")
        if self.crafting:
            lines.insert(1, f"{'perturbations':<22} {'':>7} {'':>8} {self.crafting / 60:>8.1f}")
        minutes = (self.crafting + sum(each.steps * each.seconds for each in self.stages.values())) / 60
        return (
            f"Images: {images}.\n\n" + "\n".join(lines) + f"\n\nTraining takes about {minutes:.1f} minutes and "
            f"{self.memory / 2**30:.1f} GiB. Evaluations on the validation images come on top, and the attacks on the\n"
            f"result. Nothing was trained{', and the perturbations are kept for the run' if self.crafting else ''}."
        )


class StepTimes(TrainerCallback):
    """Seconds from the end of each step to the end of the next one."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        if args.device.type != "cpu":
            torch.accelerator.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Of one step, the first one excepted."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def dry_run(arguments: HardeningArguments, config: GenAFConfig) -> DryRun:
    """Does all that comes before the training, and times a few steps of it on copies of the encoder.

    Raises:
        UserError: for whatever `harden` refuses before any training.
    """
    asked_attacks(arguments, config)
    hardening_run(arguments, config).check()
    case = Experiment.load(arguments, config)
    brief = {name: in_one_step(each) if each.on_encoder else each for name, each in case.attacks.items()}
    try_out(brief, case.attacker, case.public)  # by which those on the encoder would be crafted to their end
    if config.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    with TemporaryDirectory() as folder:

        def trainer(*callbacks: TrainerCallback, **changes) -> GenAFTrainer:
            args = copy.copy(config)
            for name, value in {**QUIET, **changes, "output_dir": folder}.items():
                setattr(args, name, value)
            made = GenAFTrainer(
                copy.deepcopy(case.encoder),
                args,
                train_dataset=case.pixels["train"],
                eval_dataset=case.pixels["validation"],
                processing_class=case.processor,
                callbacks=list(callbacks),
            )
            made.remove_callback(PrinterCallback)
            return made

        case.public.cpu()
        clean, attacked, timed = StepTimes(), StepTimes(), trainer()
        stage_1, adapts = timed.stage_1, config.adapt_epochs > 0 or config.adapt_max_steps > 0
        steps = {stage: timed.steps_of(stage) for stage in (STANDARD_FINETUNE, stage_1, *([ADAPT] if adapts else []))}
        del timed
        gc.collect()  # a trainer is in circles of references
        timed = trainer(attacked, **FEW_STEPS)
        began = time.perf_counter()
        timed.begin_adversary()
        crafted = timed.defence.adversary is not None and timed.defence.adversary.state
        crafting = time.perf_counter() - began if crafted else 0.0
        timed.train()
        del timed, crafted
        gc.collect()
        trainer(clean, **FEW_STEPS).standard_finetune()
        stages = {
            UNDEFENDED: Stage(arguments.standard_max_steps or steps[STANDARD_FINETUNE], clean.seconds),
            stage_1: Stage(steps[stage_1], attacked.seconds),
        }
        if adapts:
            stages[ADAPT] = Stage(steps[ADAPT], clean.seconds)  # at most: fewer weights are trained
    images = {split: len(part) for split, part in case.data.items()}
    return DryRun(images, stages, crafting, peak_memory(config.device))


def peak_memory(device: torch.device) -> int:
    """Bytes that were taken at most, of the GPU where there is one, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
