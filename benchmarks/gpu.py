"""Whether all computes on a device as it does on a CPU: what no test of a machine without one can tell.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --checks trainings resuming

Tiny models with random weights, and the digits. Prints a Markdown table of the checks, and exits with 1 where one
fails.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from transformers import (
    PrinterCallback,
    ResNetConfig,
    ResNetForImageClassification,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from genaf_hf import ATTACKS, GenAFConfig, GenAFTrainer, PixelModel
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.training.defences import DEFENCES

SIDE, CLASSES, BATCH = 8, 10, 8
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PROCESSOR = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
ON_CPUS = {"autoattack"}  # a package of its own
ROUNDING = 0.03  # of accuracies, which a few images at a boundary change
TEST_IMAGES = 200  # that commands attack
SETTINGS = {"l4a": {"steps": 20}, "pgd": {"steps": 5}}


def main() -> None:
    checks = {each.__name__: each for each in (attacks, trainings, waiting, resuming, half, compiled, commands)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--checks", choices=checks, nargs="+", default=[*checks])
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    failed = False
    print("| check | found | seconds |\n|---|---|---:|")
    for name in arguments.checks:
        start = time.perf_counter()
        try:
            found = checks[name](arguments.device)
        except Exception:
            traceback.print_exc()
            found, failed = "FAILED", True
        print(f"| {name} | {found} | {time.perf_counter() - start:.0f} |", flush=True)
    sys.exit(int(failed))


# ---- checks ----


def attacks(device: str) -> str:
    """Every attack returns the CPU's result, on the device."""
    images, labels = torch.rand(BATCH, 3, SIDE, SIDE, dtype=torch.float64), torch.arange(BATCH) % CLASSES
    furthest = 0.0
    for name in ATTACKS.keys() - ON_CPUS:
        attack, found = ATTACKS[name], []
        settings = {name: value for name, value in {"steps": 3, "width": 16}.items() if name in attack.setting_names}
        for place in ("cpu", device):
            model = PixelModel(make_model().to(place), PROCESSOR)
            needed = [{"images": images, "labels": labels}[need].to(place) for need in attack.needs[1:]]
            made = attack.configure(**settings)(model, *needed)
            made = made.delta if attack.universal else made
            assert made.device.type == place, f"{name} is on {made.device}"
            found.append(made.double().cpu())
        furthest = max(furthest, (found[0] - found[1]).abs().max().item())
        assert furthest < 1e-4, f"{name} is {furthest} off"
    return f"{len(ATTACKS) - len(ON_CPUS)} attacks, {furthest:.0e} off the CPU's"


def trainings(device: str) -> str:
    """Every defence trains the CPU's weights."""
    furthest = 0.0
    for name in DEFENCES:
        here, there = (trained(place, defence=name).model.cpu().state_dict() for place in ("cpu", device))
        off = max((here[each].double() - there[each].double()).abs().max().item() for each in here)
        assert off < 1e-6, f"{name} is {off} off"
        furthest = max(furthest, off)
    return f"{len(DEFENCES)} defences, {furthest:.0e} off the CPU's"


def waiting(device: str) -> str:
    """No step of a training has the CPU wait."""
    if device == "cpu":
        return "only on an accelerator"
    for name in DEFENCES.keys() - {"none"}:
        trained(device, callbacks=[Refuses()], defence=name)
    return f"{len(DEFENCES) - 1} defences"


def resuming(device: str) -> str:
    """A run that goes on from a checkpoint ends with the weights of one that was not interrupted."""
    saving = {"save_strategy": "steps", "save_steps": 2}
    with tempfile.TemporaryDirectory() as folder:
        whole = trained(device, Path(folder), **saving).model.state_dict()
        again = make_trainer(device, Path(folder), **saving)
        again.train(resume_from_checkpoint=f"{folder}/adversarial_finetune/checkpoint-2")
    assert all(torch.equal(value, whole[name]) for name, value in again.model.state_dict().items())
    return "to the bit"


def half(device: str) -> str:
    """In bf16 the loss is that of float32, but for rounding."""
    losses = [
        trained(device, dtype=torch.float32, logging_steps=1, bf16=bf16).state.log_history for bf16 in (False, True)
    ]
    first = [history[0]["loss"] for history in losses]
    assert abs(first[0] - first[1]) < 0.05 * first[0], first
    return f"first losses {first[0]:.4f} and {first[1]:.4f}"


def compiled(device: str) -> str:
    """Compiled passes train the weights of eager ones."""
    eager, fast = (trained(device, torch_compile=on).model.state_dict() for on in (False, True))
    off = max((eager[name].double() - fast[name].double()).abs().max().item() for name in eager)
    assert off < 1e-6, f"{off} off"
    return f"{off:.0e} off the eager ones"


def commands(device: str) -> str:
    """`harden`, `audit` and `evolve` as a user gives them; the report is the CPU's."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        torch.manual_seed(0)
        ViTModel(ViTConfig(image_size=SIDE, patch_size=2, **SIZES)).save_pretrained(place / "encoder")
        PROCESSOR.save_pretrained(place / "encoder")
        data = {"dataset_name": "digits", "attacks": "l4a,pgd", "attack_settings": json.dumps(SETTINGS)}
        training = {"model_name_or_path": place / "encoder", "defence": "gen-af", "steps": 2, "report_to": "none"}
        reports, fewer = [], {"max_eval_samples": TEST_IMAGES}
        for name, on_cpu in (("here", True), ("there", device == "cpu")):
            lengths = {"max_steps": 40, "standard_max_steps": 40, "adapt_max_steps": 5, **fewer}
            genaf_hf("harden", on_cpu, **data, **training, **lengths, output_dir=place / name)
            reports.append(RobustnessReport.load(place / name / "report.json"))
        here, there = (
            {(each.model, each.attack): each.accuracy.value for each in report.measurements} for report in reports
        )
        assert here.keys() == there.keys()
        off = max(abs(here[name] - there[name]) for name in here)
        assert off <= ROUNDING, f"accuracies are up to {off} apart: {here}, {there}"
        audited = {"model_name_or_path": place / "there", "encoder": place / "encoder", "limit": TEST_IMAGES}
        genaf_hf("audit", False, **data, **audited, output_dir=place / "audit")
        sizes = {"population": 4, "generations": 1, "max_steps": 5, **fewer}
        genaf_hf("evolve", device == "cpu", **data, **training, **sizes, output_dir=place / "search")
    return f"accuracies {off:.3f} off the CPU's, on {reports[1].environment['hardware']}"


# ---- what checks are made of ----


class Refuses(TrainerCallback):
    """Has torch raise where the CPU waits for the device, from the second step of a stage to its last one."""

    def on_step_begin(self, args, state, control, **kwargs):
        torch.cuda.set_sync_debug_mode("error" if state.global_step else "default")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == state.max_steps:  # what follows reads the losses
            torch.cuda.set_sync_debug_mode("default")


def make_model(dtype: torch.dtype = torch.float64, defence: str = "gen-af"):
    torch.manual_seed(0)
    if defence == "twins":  # which is for encoders with BatchNorm
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
        return ResNetForImageClassification(ResNetConfig(**sizes, num_labels=CLASSES)).to(dtype)
    return ViTForImageClassification(ViTConfig(image_size=SIDE, patch_size=2, num_labels=CLASSES, **SIZES)).to(dtype)


def make_trainer(device: str, folder: Path, dtype: torch.dtype = torch.float64, callbacks=(), **settings):
    generator = torch.Generator().manual_seed(0)
    pixel_values = 2 * torch.rand(6 * BATCH, 3, SIDE, SIDE, generator=generator, dtype=torch.float64).to(dtype) - 1
    defaults = {
        "output_dir": str(folder),
        "max_steps": 5,
        "adapt_max_steps": 2,
        "per_device_train_batch_size": BATCH,
        "assessment_samples": BATCH,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
    }
    defence = settings.get("defence", "gen-af")
    if "bank_steps" in DEFENCES[defence].defaults:
        defaults["defence_settings"] = {"bank_steps": 5}
    trainer = GenAFTrainer(
        make_model(dtype, defence),
        GenAFConfig(**{**defaults, **settings}),
        processing_class=PROCESSOR,
        train_dataset=[{"pixel_values": each, "labels": row % CLASSES} for row, each in enumerate(pixel_values)],
        callbacks=[*callbacks],
    )
    trainer.remove_callback(PrinterCallback)  # the table stands alone
    return trainer


def trained(device: str, folder: Path | None = None, **settings) -> GenAFTrainer:
    """A tiny trainer after its stages."""
    with tempfile.TemporaryDirectory() as elsewhere:
        trainer = make_trainer(device, folder or Path(elsewhere), **settings)
        trainer.train()
    return trainer


def genaf_hf(command: str, on_cpu: bool, **flags) -> None:
    """Runs a command, which says what is wrong where something is."""
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    words += ["--use_cpu"] if on_cpu else []
    subprocess.run([sys.executable, "-m", "genaf_hf.cli", command, *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
