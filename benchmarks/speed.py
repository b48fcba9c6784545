"""How fast a stage-1 step and the attack loop are, each as a ratio measured in one run.

    python benchmarks/speed.py
    python benchmarks/speed.py --model vit-base --image_size 224 --patch_size 16 --device cuda

Both sides of a ratio run in turn, round after round; the table shows their medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from genaf_hf import GenAFConfig, GenAFTrainer, PixelModel, l4a, pgd
from genaf_hf.training.genetic_regularization import genetic_regularization

EPS, STEPS, STEP_SIZE = 8 / 255, 10, 2 / 255
SIZES = {"vit-tiny": (192, 12, 3), "vit-small": (384, 12, 6), "vit-base": (768, 12, 12)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="vit-tiny")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--patch_size", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak_tflops", type=float, help="bf16 peak of the device, to show the share that is reached")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    images = torch.rand(arguments.batch_size, 3, arguments.image_size, arguments.image_size, device=arguments.device)
    labels = torch.randint(10, (arguments.batch_size,), device=arguments.device)
    print(f"{arguments.model}, {arguments.image_size} px, batch {arguments.batch_size}, {arguments.device}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}")  # fmt: skip
    stage_1_step(arguments, images, labels)
    attack_loop(arguments, images, labels)
    crafting(arguments, images)


def stage_1_step(arguments, images: torch.Tensor, labels: torch.Tensor) -> None:
    """One update of the trainer, in fp32 and bf16, against the authors' way in fp32."""
    fp32, bf16 = make_trainer(arguments, "sdpa", False), make_trainer(arguments, "eager", True)
    plain = make_model(arguments, "sdpa")
    losses: dict[str, float] = {}

    def straightforward() -> None:
        losses["straightforward"] = straightforward_step(plain, images, labels)

    def ours(trainer: GenAFTrainer, name: str) -> None:
        batch = {"pixel_values": trainer.pixel_model(trainer.model).to_pixel_values(images), "labels": labels}
        trainer.model.zero_grad()
        [batch], _ = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
        losses[name] = trainer.training_step(trainer.model_wrapped, batch).item()

    sides = {
        "straightforward, fp32": straightforward,
        "genaf_hf, fp32": lambda: ours(fp32, "fp32"),
        "genaf_hf, bf16": lambda: ours(bf16, "bf16"),
    }
    seconds = medians(sides, arguments)
    print("\nStage-1 step (PGD-10, update without the optimizer)")
    for name, value in seconds.items():
        print(f"  {name:24} {value:8.3f} s  x {seconds['straightforward, fp32'] / value:.2f}"
              f"  {arguments.batch_size / value:8.1f} images/s")  # fmt: skip
    print(f"  loss: fp32 differs by {abs(losses['fp32'] - losses['straightforward']):.1e}, "
          f"bf16 by {abs(losses['bf16'] - losses['straightforward']):.1e}")  # fmt: skip
    if arguments.peak_tflops:
        tokens = (arguments.image_size // arguments.patch_size) ** 2 + 1
        parameters = sum(p.numel() for p in plain.parameters())
        # A forward pass takes 2 operations per weight and token; so does an input gradient; a full backward takes 4.
        operations = 2 * parameters * tokens * arguments.batch_size * (2 * STEPS + 2 * 3)
        reached = operations / seconds["genaf_hf, bf16"] / 1e12
        print(f"  bf16 reaches {reached:.1f} TFLOP/s, {reached / arguments.peak_tflops:.0%} of the peak")


def straightforward_step(model: ViTForImageClassification, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Gradients of all parameters at every attack step, and a pass each for benign and adversarial images."""
    normalise = lambda pixels: (pixels - 0.5) / 0.5  # noqa: E731
    model.eval()
    adversarial = images.clone()
    for _ in range(STEPS):
        adversarial.requires_grad_()
        F.cross_entropy(model(normalise(adversarial)).logits, labels).backward()
        adversarial = adversarial.detach() + STEP_SIZE * adversarial.grad.sign()
        adversarial = (images + (adversarial - images).clamp(-EPS, EPS)).clamp(0, 1)
    model.zero_grad()
    model.train()
    benign_logits, adversarial_logits = model(normalise(images)).logits, model(normalise(adversarial)).logits
    weight = F.cross_entropy(benign_logits, labels, reduction="none")
    loss = F.cross_entropy(adversarial_logits, labels) + 20 * genetic_regularization(
        benign_logits, adversarial_logits, labels, weight
    )
    loss.backward()
    return loss.item()


def attack_loop(arguments, images: torch.Tensor, labels: torch.Tensor) -> None:
    """`pgd` against its floor: as many forward passes and input gradients of the bare model."""
    print("\nPGD-10 against its floor (forward + input gradient of the bare model)")
    for name, attention, half in (("fp32", "sdpa", False), ("bf16", "eager", True)):
        model = make_model(arguments, attention).eval()
        pixel_model = PixelModel(model, make_processor(arguments))
        autocast = torch.autocast(arguments.device, torch.bfloat16) if half else nullcontext()
        if half:
            model.forward = autocast(model.forward)

        def floor(model=model, autocast=autocast) -> None:
            with autocast:
                for _ in range(STEPS):
                    pixel_values = images.clone().requires_grad_()
                    torch.autograd.grad(F.cross_entropy(model(pixel_values).logits.float(), labels), pixel_values)

        def attack(model=pixel_model) -> None:
            pgd(model, images, labels, eps=EPS, steps=STEPS, step_size=STEP_SIZE)

        seconds = medians({"floor": floor, "pgd": attack}, arguments)
        print(f"  {name}: floor {seconds['floor']:.3f} s, pgd {seconds['pgd']:.3f} s, "
              f"{seconds['pgd'] / seconds['floor'] - 1:+.1%}")  # fmt: skip


def crafting(arguments, images: torch.Tensor) -> None:
    """`l4a` on the first block against its floor: forward to that block and input gradient, as many times."""
    model = make_model(arguments, "sdpa").eval()
    pixel_model = PixelModel(model, make_processor(arguments))
    pixel_model.layer_names(images)
    settings = {"eps": EPS, "steps": STEPS, "batch_size": len(images)}

    def floor() -> None:
        for _ in range(STEPS):
            pixel_values = images.clone().requires_grad_()
            hidden = model.vit.layers[0](model.vit.embeddings(pixel_values))
            torch.autograd.grad(hidden.square().mean(), pixel_values)

    def whole() -> None:
        for _ in range(STEPS):
            pixel_values = images.clone().requires_grad_()
            hidden = model(pixel_values, output_hidden_states=True).hidden_states[1]
            torch.autograd.grad(hidden.square().mean(), pixel_values)

    sides = {"floor": floor, "l4a": lambda: l4a(pixel_model, images, **settings), "whole encoder": whole}
    seconds = medians(sides, arguments)
    print("\nL4A on block 1 of the encoder against its floor (forward to block 1 + input gradient)")
    print(f"  fp32: floor {seconds['floor']:.3f} s, l4a {seconds['l4a']:.3f} s, "
          f"{seconds['l4a'] / seconds['floor'] - 1:+.1%}; with a forward through the whole encoder "
          f"{seconds['whole encoder']:.3f} s")  # fmt: skip


def medians(sides: dict[str, Callable], arguments) -> dict[str, float]:
    """Median seconds of each side over rounds in which all run in turn, after one round of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(arguments.rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if arguments.device != "cpu":
                torch.cuda.synchronize()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def make_model(arguments, attention: str) -> ViTForImageClassification:
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
        attn_implementation=attention,
    )
    return ViTForImageClassification(config).to(arguments.device)


def make_processor(arguments) -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": arguments.image_size, "width": arguments.image_size})


def make_trainer(arguments, attention: str, bf16: bool) -> GenAFTrainer:
    """A trainer in the middle of stage 1, with the straightforward step's settings."""
    config = GenAFConfig(
        output_dir="benchmark-output",
        eps=EPS,
        steps=STEPS,
        step_size=STEP_SIZE,
        random_start=False,
        eps_warmup_ratio=0.0,
        bf16=bf16,
        save_strategy="no",
        report_to="none",
        use_cpu=arguments.device == "cpu",
    )
    trainer = GenAFTrainer(make_model(arguments, attention), config, processing_class=make_processor(arguments))
    trainer.stage = "adversarial_finetune"
    trainer.current_gradient_accumulation_steps = 1
    trainer.model_wrapped = trainer.accelerator.prepare_model(trainer.model)
    return trainer


if __name__ == "__main__":
    main()
