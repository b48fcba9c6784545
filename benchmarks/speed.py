"""How fast trainings and attacks are, as ratios to the plainest way, or to the passes that cannot be done without.

    python benchmarks/speed.py
    python benchmarks/speed.py --model vit-base --image_size 224 --patch_size 16 --device cuda --bf16
    python benchmarks/speed.py --parts whole --model digits --image_size 8 --patch_size 2 --images 1280

All sides of a table run in turn, round after round, and it shows their medians: on a CPU those of the process's own
time, which does not count what else the machine does. The parts:

- training: a step of each defence, optimizer and loader included, against one of the stock `Trainer` on clean images;
- straightforward: a step on PGD-10 with the genetic regularization, against one that is written as the paper tells it;
- whole: all of a hardening but its evaluation, crafted perturbations and second stage included, against a fine-tune by
  the stock `Trainer`, as many epochs as the first stage;
- layout: forward and backward of convolutional encoders in `channels_last` against the layout that they come in;
- attacks: attacks on a model against their floor, as many gradients of the bare model by its images;
- crafting: universal attacks against theirs, the passes through the blocks of the encoder that they read.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    MobileNetV1Config,
    PreTrainedModel,
    PrinterCallback,
    ResNetConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from genaf_hf import ATTACKS, GenAFConfig, GenAFTrainer, PixelModel
from genaf_hf.evaluation import perturbation_cache
from genaf_hf.training.genetic_regularization import genetic_regularization
from genaf_hf.values.markup import markdown

SIZES = {"digits": (64, 4, 4), "vit-tiny": (192, 12, 3), "vit-small": (384, 12, 6), "vit-base": (768, 12, 12)}
DEFENCES = {
    "none": {"defence": "none"},
    "universal, single pass": {
        "defence": "universal",
        "defence_settings": {"single_pass": True, "divergence_weight": 0},
    },
    "universal": {"defence": "universal"},
    "universal, by a pass of its own": {"defence": "universal", "defence_settings": {"ascent_share": 0.5}},
    "universal-anchor": {"defence": "universal-anchor"},
    "gen-af-universal": {"defence": "gen-af-universal"},
    "n-fgsm": {"defence": "n-fgsm"},
    "gen-af": {"defence": "gen-af"},
    "pgd-at": {"defence": "pgd-at"},
    "trades": {"defence": "trades"},
}
WHOLE = ("universal, single pass", "universal", "gen-af-universal", "gen-af")
EPS, STEPS, STEP_SIZE = 8 / 255, 10, 2 / 255
CONVOLUTIONAL = {
    "MobileNetV1 0.25": MobileNetV1Config(depth_multiplier=0.25, num_labels=10),
    "ResNet-18": ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=10),
    "ConvNeXt-T": ConvNextConfig(num_labels=10),
}
# Passes of a step: how many without gradients, how many with; through how many blocks, None is all; on how many images.
# As in a training, pgd goes on with images that it fools.
PER_IMAGE = {"fgsm": (0, 1), "n-fgsm": (0, 1), "mi-fgsm": (0, STEPS), "pgd": (0, STEPS), "feature-pgd": (1, STEPS)}
UNIVERSAL = {
    "l4a": (0, 1, 1),
    "l4a-fuse": (0, 1, 2),
    "l4a-ugs": (0, 2, 1),
    "ssp": (1, 1, 1),
    "std": (0, 1, 2),
    "uapgd": (0, 1, None),
    "upgd": (0, 1, None),
    "fff": (0, 1, None),
    "activation-attack": (0, 1, None),
    "advencoder-per": (1, 1, None),
    "advencoder-pat": (1, 1, None),
    "adversarial-patch": (0, 1, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"training": training, "straightforward": straightforward, "whole": whole}
    parts |= {"layout": layout, "attacks": attacks, "crafting": crafting}
    default = ["training", "straightforward", "attacks", "crafting"]
    parser.add_argument("--parts", choices=parts, nargs="+", default=default)
    parser.add_argument("--model", choices=SIZES, default="vit-tiny")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--patch_size", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--images", type=int, default=512, help="that are trained on")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--crafting_steps", type=int, default=20)
    parser.add_argument("--defences", choices=DEFENCES, nargs="+", default=[*DEFENCES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--torch_compile", action="store_true")
    parser.add_argument("--peak_tflops", type=float, help="bf16 peak of the device, to show the share that is reached")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    images = torch.rand(arguments.batch_size, 3, arguments.image_size, arguments.image_size, device=arguments.device)
    labels = torch.randint(10, (arguments.batch_size,), device=arguments.device)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    told = ", bf16" * arguments.bf16 + ", compiled" * arguments.torch_compile
    print(f"{arguments.model}, {arguments.image_size} px, batches of {arguments.batch_size}{told}; {device}, "
          f"torch {torch.__version__}, medians of {arguments.rounds} rounds")  # fmt: skip
    for name in arguments.parts:
        print(f"\n{name}\n\n{markdown(parts[name](arguments, images, labels))}", flush=True)


# ---- parts ----


def training(arguments, images: Tensor, labels: Tensor) -> list[list[str]]:
    """Seconds of a step by the side it is of."""
    rows = examples(arguments)
    steps = -(-len(rows) // arguments.batch_size)
    sides = {"stock Trainer": partial(train_plainly, arguments, rows)}
    sides |= {name: partial(train_stage_1, arguments, rows, DEFENCES[name]) for name in arguments.defences}
    return ratios("a step of", medians(sides, arguments), "stock Trainer", arguments.batch_size * steps, steps)


def whole(arguments, images: Tensor, labels: Tensor) -> list[list[str]]:
    """Seconds of a whole training."""
    rows = examples(arguments)
    sides = {"stock Trainer": partial(train_plainly, arguments, rows)}
    sides |= {name: partial(harden, arguments, rows, DEFENCES[name]) for name in WHOLE if name in arguments.defences}
    seconds = medians(sides, arguments, warm_up=0)  # each is long
    return ratios("a hardening by", seconds, "stock Trainer", len(rows) * arguments.epochs)


def straightforward(arguments, images: Tensor, labels: Tensor) -> list[list[str]]:
    """Seconds of a step, without the optimizer, and how far its loss is off."""
    model, losses = make_model(arguments), {}
    adversary = {"defence": "gen-af", "eps": EPS, "steps": STEPS, "step_size": STEP_SIZE, "random_start": False}
    settings = {**adversary, "clean_share": 0.0, "genetic_weight": 20.0, "genetic_share": float("inf")}
    trainer = make_trainer(arguments, examples(arguments), {**settings, "eps_warmup_ratio": 0.0})
    trainer.stage, trainer.current_gradient_accumulation_steps = trainer.stage_1, 1
    trainer.model_wrapped = trainer.accelerator.prepare_model(trainer.model)

    def plain() -> None:
        losses["straightforward"] = straightforward_step(arguments, model, images, labels)

    def ours() -> None:
        trainer.model.zero_grad()
        batch = {"pixel_values": (images - 0.5) / 0.5, "labels": labels}
        [batch], _ = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
        losses["genaf_hf"] = trainer.training_step(trainer.model_wrapped, batch)

    seconds = medians({"straightforward": plain, "genaf_hf": ours}, arguments)
    table = ratios("a step", seconds, "straightforward", arguments.batch_size)
    off = abs(losses["genaf_hf"] - losses["straightforward"]).item()
    table.append([f"the losses differ by {off:.1e}", "", "", ""])
    if arguments.peak_tflops:
        tokens = (arguments.image_size // arguments.patch_size) ** 2 + 1
        parameters = sum(each.numel() for each in model.parameters())
        # A forward pass takes 2 operations per weight and token; so does an input gradient; a full backward takes 4.
        operations = 2 * parameters * tokens * arguments.batch_size * (2 * STEPS + 2 * 3)
        share = operations / seconds["genaf_hf"] / 1e12 / arguments.peak_tflops
        table.append([f"genaf_hf reaches {share:.0%} of the peak", "", "", ""])
    return table


def layout(arguments, images: Tensor, labels: Tensor) -> list[list[str]]:
    """Seconds of a pass and its gradients in both layouts."""
    table = [["a pass of", "seconds", "channels_last", "times the former"]]
    for name, config in CONVOLUTIONAL.items():
        model = AutoModelForImageClassification.from_config(config).to(arguments.device)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        sides = {"seconds": model, "channels_last": last}
        passes = {side: partial(whole_pass, arguments, each, images, labels) for side, each in sides.items()}
        first, second = medians(passes, arguments).values()
        table.append([name, f"{first:.3f}", f"{second:.3f}", f"{second / first:.2f}"])
    return table


def attacks(arguments, images: Tensor, labels: Tensor) -> list[list[str]]:
    """Seconds of an attack and of its floor."""
    model = make_model(arguments).eval()
    pixel_model = PixelModel(model, make_processor(arguments), autocast=torch.bfloat16 if arguments.bf16 else None)
    table = [["attack", "seconds", "floor", "beyond it"]]
    for name, (forwards, gradients) in PER_IMAGE.items():
        attack = ATTACKS[name]
        settings = {"steps": gradients, "keep_best": False}
        settings = {name: value for name, value in settings.items() if name in attack.setting_names}
        attack = attack.configure(eps=EPS, **settings)
        needed = (images, labels)[: len(attack.needs) - 1]
        sides = {
            "floor": partial(floor, arguments, model, images, labels, forwards, gradients),
            "attack": partial(attack, pixel_model, *needed),
        }
        table.append(beyond(name, measured(sides, arguments)))
    return table


def crafting(arguments, images: Tensor, labels: Tensor) -> list[list[str]]:
    """Seconds of crafting and of its floor; what comes once, such as the fit of a probe, is in a run of no step."""
    model = make_model(arguments).eval()
    pixel_model = PixelModel(model, make_processor(arguments), autocast=torch.bfloat16 if arguments.bf16 else None)
    table = [["attack", "seconds", "floor", "beyond it"]]
    for name, (forwards, gradients, blocks) in UNIVERSAL.items():
        settings = {"batch_size": len(images), "width": 64, "restarts": 1}
        settings = {each: value for each, value in settings.items() if each in ATTACKS[name].setting_names}
        needed = (images, labels)[: len(ATTACKS[name].needs) - 1]
        seen = images if needed else images[:1]  # fff passes the mean image alone

        def craft(steps: int, name=name, settings=settings, needed=needed) -> None:
            ATTACKS[name].configure(steps=steps, **settings)(pixel_model, *needed)

        steps = arguments.crafting_steps
        passes = partial(floor, arguments, model, seen, labels, steps * forwards, steps * gradients, blocks)
        sides = {"floor": passes, "one step": partial(craft, 1), "attack": partial(craft, steps + 1)}
        seconds = measured(sides, arguments)
        crafted = [each - one for each, one in zip(seconds["attack"], seconds["one step"], strict=True)]
        table.append(beyond(name, {"attack": crafted, "floor": seconds["floor"]}))
    return table


# ---- sides ----


def train_plainly(arguments, rows: list[dict]) -> float:
    """A fine-tune on clean images by the stock Trainer; its seconds."""
    watch = Watch(arguments)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(**of_trainer(arguments, folder))
        trainer = Trainer(make_model(arguments), settings, train_dataset=rows, callbacks=[watch])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return watch.seconds


def train_stage_1(arguments, rows: list[dict], defence: dict) -> float:
    """The first stage; its seconds from the first step on."""
    watch = Watch(arguments)
    if "universal" in defence["defence"]:  # what is crafted before does not count
        defence = {**defence, "defence_settings": {**defence.get("defence_settings", {}), "bank_steps": 1}}
    make_trainer(arguments, rows, {**defence, "adapt_epochs": 0.0}, watch).train()
    return watch.seconds


def harden(arguments, rows: list[dict], defence: dict) -> float:
    """All stages, and what is before and between them; the seconds."""
    trainer = make_trainer(arguments, rows, defence)
    with tempfile.TemporaryDirectory() as folder:
        perturbation_cache.CACHE = Path(folder)  # else it is crafted in the first round alone
        start = now(arguments)
        trainer.train()
        return now(arguments) - start


def straightforward_step(arguments, model: ViTForImageClassification, images: Tensor, labels: Tensor) -> Tensor:
    """Gradients of all parameters at every attack step, and a pass each for benign and adversarial images."""
    autocast = half(arguments)

    def answer(pixels: Tensor) -> Tensor:
        with autocast:
            return model((pixels - 0.5) / 0.5).logits.float()

    model.eval()
    adversarial = images.clone()
    for _ in range(STEPS):
        adversarial.requires_grad_()
        F.cross_entropy(answer(adversarial), labels).backward()
        adversarial = adversarial.detach() + STEP_SIZE * adversarial.grad.sign()
        adversarial = (images + (adversarial - images).clamp(-EPS, EPS)).clamp(0, 1)
    model.zero_grad()
    model.train()
    benign, attacked = answer(images), answer(adversarial)
    weight = F.cross_entropy(benign, labels, reduction="none")
    loss = F.cross_entropy(attacked, labels) + 20 * genetic_regularization(benign, attacked, labels, weight)
    loss.backward()
    return loss.detach()


def whole_pass(arguments, model: PreTrainedModel, images: Tensor, labels: Tensor) -> None:
    """Gradients of all parameters."""
    model.zero_grad()
    with half(arguments):
        logits = model(images).logits
    F.cross_entropy(logits.float(), labels).backward()


def floor(arguments, model, images: Tensor, labels: Tensor, forwards: int, gradients: int, blocks=None) -> None:
    """Passes of the bare model, or of its embeddings and some blocks, without and with the gradient by the images."""
    with half(arguments):
        for number in range(forwards + gradients):
            pixel_values = images.clone().requires_grad_(number >= forwards)
            with torch.set_grad_enabled(number >= forwards):
                if blocks is None:
                    loss = F.cross_entropy(model(pixel_values).logits.float(), labels[: len(images)])
                else:
                    hidden = model.vit.embeddings(pixel_values)
                    for layer in model.vit.layers[:blocks]:
                        hidden = layer(hidden)
                    loss = hidden.square().mean()
                if number >= forwards:
                    torch.autograd.grad(loss, pixel_values)


# ---- what sides are made of ----


class Watch(TrainerCallback):
    """The seconds that a training takes from its first step on."""

    def __init__(self, arguments):
        self.clock, self.seconds = partial(now, arguments), 0.0

    def on_train_begin(self, *args, **kwargs):
        self.seconds = -self.clock()

    def on_train_end(self, *args, **kwargs):
        self.seconds += self.clock()


def of_trainer(arguments, folder: str) -> dict:
    """What both Trainers are given."""
    return {
        "output_dir": folder,
        "num_train_epochs": arguments.epochs,
        "per_device_train_batch_size": arguments.batch_size,
        "bf16": arguments.bf16,
        "torch_compile": arguments.torch_compile,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": arguments.device == "cpu",
    }


def make_trainer(arguments, rows: list[dict], settings: Mapping, *callbacks: TrainerCallback) -> GenAFTrainer:
    config = GenAFConfig(**of_trainer(arguments, tempfile.mkdtemp()), **settings)
    data = {"train_dataset": rows, "processing_class": make_processor(arguments)}
    trainer = GenAFTrainer(make_model(arguments), config, **data, callbacks=[*callbacks])
    trainer.remove_callback(PrinterCallback)
    return trainer


def examples(arguments) -> list[dict]:
    """Random images, as the Trainer takes them."""
    generator = torch.Generator().manual_seed(0)
    size = arguments.image_size
    pixel_values = 2 * torch.rand(arguments.images, 3, size, size, generator=generator) - 1
    return [{"pixel_values": each, "labels": row % 10} for row, each in enumerate(pixel_values)]


def make_model(arguments) -> ViTForImageClassification:
    width, depth, heads = SIZES[arguments.model]
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=arguments.image_size,
        patch_size=arguments.patch_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_labels=10,
        # The backward pass of the other one takes longer in bf16 on a CPU.
        attn_implementation="eager" if arguments.bf16 and arguments.device == "cpu" else "sdpa",
    )
    return ViTForImageClassification(config).to(arguments.device)


def make_processor(arguments) -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": arguments.image_size, "width": arguments.image_size})


def half(arguments):
    return torch.autocast(arguments.device, torch.bfloat16) if arguments.bf16 else nullcontext()


# ---- measuring and tables ----


def now(arguments) -> float:
    """Seconds: of this process on a CPU, else those of a clock when the device has done all."""
    if arguments.device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measured(sides: Mapping[str, Callable[[], float | None]], arguments, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each side in each round, as it tells them or as long as it runs; the first rounds do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm_up + arguments.rounds):
        for name, run in sides.items():
            start = now(arguments)
            told = run()
            if number >= warm_up:
                seconds[name].append(told if isinstance(told, float) else now(arguments) - start)
    return seconds


def medians(sides: Mapping[str, Callable[[], float | None]], arguments, warm_up: int = 1) -> dict[str, float]:
    """Median seconds of each side."""
    return {name: statistics.median(values) for name, values in measured(sides, arguments, warm_up).items()}


def ratios(of: str, seconds: Mapping[str, float], plainest: str, images: int, parts: int = 1) -> list[list[str]]:
    rows = [
        [name, f"{value / parts:.3f}", f"{images / value:.0f}", f"{value / seconds[plainest]:.2f}"]
        for name, value in seconds.items()
    ]
    return [[of, "seconds", "images per second", f"times {plainest}"], *rows]


def beyond(name: str, seconds: Mapping[str, list[float]]) -> list[str]:
    """Medians, and that of how far an attack is beyond its floor in the same round, which other work slows alike."""
    sides = seconds["attack"], seconds["floor"]
    over = statistics.median(attack / passes - 1 for attack, passes in zip(*sides, strict=True))
    return [name, *(f"{statistics.median(values):.3f}" for values in sides), f"{over:+.1%}"]


if __name__ == "__main__":
    main()
