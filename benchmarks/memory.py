"""Peak memory of hardening at 224 px, by model and batch, with and without activation checkpointing.

    python benchmarks/memory.py
    python benchmarks/memory.py --device cuda --batch_sizes 16 64

Two steps of stage 1 on random images, PGD of one step, fp32, with AdamW and all weights; random weights by
configuration. On a CPU each side runs in a process of its own, whose peak of resident memory is that of everything that
it holds, Python and libraries too; on a GPU it is the peak of what torch allocated. Prints a Markdown table.
"""

import argparse
import gc
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import torch
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoModelForImageClassification,
    ConvNextConfig,
    PrinterCallback,
    TrainingArguments,
    ViTConfig,
    ViTImageProcessor,
)

from genaf_hf import GenAFConfig, GenAFTrainer

STEPS = 2
GIB = 2**30
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
# The second is its older name, the only one in transformers 5.20.
CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)
MODELS = {
    "vit-small": ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=10),
    "vit-base": ViTConfig(num_labels=10),
    "convnext-tiny": ConvNextConfig(num_labels=10),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=MODELS, nargs="+", default=[*MODELS])
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[4])
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print("| model | batch | without checkpointing (GiB) | with (GiB) |\n|---|---:|---:|---:|")
    for model, batch_size in product(arguments.models, arguments.batch_sizes):
        side = arguments.device, model, arguments.image_size, batch_size
        peaks = [peak(*side, checkpointing) for checkpointing in (False, True)[: 1 + has_checkpointing(model)]]
        told = [f"{each / GIB:.2f}" for each in peaks] + ["-"] * (2 - len(peaks))
        print("| " + " | ".join([model, str(batch_size), *told]) + " |", flush=True)


def has_checkpointing(model: str) -> bool:
    return MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(MODELS[model])].supports_gradient_checkpointing


def peak(device: str, *side) -> int:
    """Peak memory in bytes, of a process of its own or of the device; `side` is what `harden` takes besides."""
    if device == "cpu":
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:  # which says so if it is killed
            return process.submit(harden, device, *side).result()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    return harden(device, *side)


def harden(device: str, model: str, image_size: int, batch_size: int, checkpointing: bool) -> int:
    """Peak memory in bytes, of this process or of the device."""
    torch.manual_seed(0)
    config = MODELS[model]
    config.image_size = image_size
    images = 2 * torch.rand(STEPS * batch_size, 3, image_size, image_size) - 1
    with tempfile.TemporaryDirectory() as folder:
        trainer = GenAFTrainer(
            model=AutoModelForImageClassification.from_config(config),
            args=GenAFConfig(
                output_dir=folder,
                max_steps=STEPS,
                adapt_epochs=0.0,
                steps=1,
                per_device_train_batch_size=batch_size,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=device == "cpu",
                **{CHECKPOINTING: checkpointing},
            ),
            train_dataset=[{"pixel_values": image, "labels": i % 10} for i, image in enumerate(images)],
            processing_class=ViTImageProcessor(size={"height": image_size, "width": image_size}),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES


if __name__ == "__main__":
    main()
