"""Peak memory of hardening ViT-B/16 at 224 px on the CPU, with and without activation checkpointing.

    python benchmarks/memory.py

Two steps of stage 1 on batches of 8 random images, PGD of two steps, fp32, with AdamW and all weights; random weights
by configuration. Each side runs in a process of its own, whose peak of resident memory is that of everything that it
holds, Python and libraries too. Prints a Markdown table.
"""

import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification, ViTImageProcessor

from genaf_hf import GenAFConfig, GenAFTrainer
from genaf_hf.evaluation.report import markdown

BATCH_SIZE, STEPS = 8, 2
GIB = 2**30
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
# The second is its older name, the only one in transformers 5.20.
CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)


def main() -> None:
    rows = [["activation checkpointing", "peak memory (GiB)", "seconds for two steps"]]
    for checkpointing in (True, False):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:  # which says so if it is killed
            peak, seconds = process.submit(harden, checkpointing).result()
        rows.append(["on" if checkpointing else "off", f"{peak / GIB:.2f}", f"{seconds:.0f}"])
    print(f"\n{markdown(rows)}")


def harden(checkpointing: bool) -> tuple[int, float]:
    """Peak resident memory of this process in bytes, and the seconds that training took."""
    torch.manual_seed(0)
    config = ViTConfig(num_labels=10)
    images = 2 * torch.rand(STEPS * BATCH_SIZE, 3, config.image_size, config.image_size) - 1
    with tempfile.TemporaryDirectory() as folder:
        trainer = GenAFTrainer(
            model=ViTForImageClassification(config),
            args=GenAFConfig(
                output_dir=folder,
                max_steps=STEPS,
                steps=2,
                per_device_train_batch_size=BATCH_SIZE,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                **{CHECKPOINTING: checkpointing},
            ),
            train_dataset=[{"pixel_values": image, "labels": i % 10} for i, image in enumerate(images)],
            processing_class=ViTImageProcessor(),
        )
        start = time.perf_counter()
        trainer.adversarial_finetune()
        seconds = time.perf_counter() - start
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES, seconds


if __name__ == "__main__":
    main()
