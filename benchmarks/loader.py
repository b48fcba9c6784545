"""Images per second of a DataLoader that reads JPEGs as pixel values, without and with workers, and its memory.

    python benchmarks/loader.py
    python benchmarks/loader.py --workers 0 4 8 16

All ways take their turn, round after round; the table shows their medians.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from genaf_hf import load_images, with_pixel_values
from genaf_hf.data import pixel_values, to_rgb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, nargs=2, default=[500, 375], help="Width and height of the JPEGs.")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="after which memory is looked at again")
    args = parser.parse_args()

    torch.set_num_threads(1)
    processor = ViTImageProcessor(size={"height": args.image_size, "width": args.image_size})
    pixel_values.IN_MEMORY_BYTES = 0
    with TemporaryDirectory() as folder:
        write_jpegs(Path(folder), args.images, args.size)
        encoded = load_images(folder, held_out_share=0.1)["train"]
        rows = with_pixel_values(encoded, processor)
        sides = {
            "decoding alone": lambda: [to_rgb(image) for image in encoded["image"]],
            "decoding, resizing and normalising alone": lambda: floor(encoded, args.image_size),
        }
        for workers in args.workers:
            sides[f"loader, {workers} workers"] = lambda workers=workers: read(rows, args.batch_size, workers)
        seconds = medians(sides, args.rounds)
        grown = {workers: memory(rows, args.batch_size, workers, args.epochs) for workers in args.workers}

    print(f"{len(encoded)} JPEGs of {args.size[0]} x {args.size[1]} pixels to {args.image_size} x {args.image_size}, "
          f"batches of {args.batch_size}, {os.cpu_count()} cores, {type(processor).__name__}\n")  # fmt: skip
    print("| way | images/s |\n| --- | ---: |")
    for name, value in seconds.items():
        print(f"| {name} | {len(encoded) / value:.0f} |")
    print(f"\n| MiB held after epoch | 1 | {args.epochs} |\n| --- | ---: | ---: |")
    for workers, found in grown.items():
        print(f"| by the process, {workers} workers | {found[0][0]:.0f} | {found[-1][0]:.0f} |")
        if workers:
            print(f"| by its largest worker | {found[0][1]:.0f} | {found[-1][1]:.0f} |")


def write_jpegs(folder: Path, count: int, size: list[int]) -> None:
    """Noisy pictures of two classes, each about as large a file as a photograph is."""
    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + generator.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        place = folder / "train" / ("even", "odd")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(place / f"{index}.jpg", quality=90)


def floor(encoded: Dataset, side: int) -> None:
    """The same work by Pillow and NumPy alone."""
    for image in encoded["image"]:
        picture = Image.open(image["path"]).resize((side, side), Image.Resampling.BILINEAR)
        torch.from_numpy((np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 255 - 0.5) / 0.5)


def read(rows: Dataset, batch_size: int, workers: int) -> None:
    for _ in DataLoader(rows, batch_size=batch_size, num_workers=workers):
        pass


def memory(rows: Dataset, batch_size: int, workers: int, epochs: int) -> list[tuple[float, float]]:
    """MiB that this process holds after each epoch, and that its largest worker has held at any time."""
    found = []
    for _ in range(epochs):
        read(rows, batch_size, workers)
        of_workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10 if workers else 0.0
        found.append((psutil.Process().memory_info().rss / 2**20, of_workers))
    return found


def medians(sides: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median seconds of each side over rounds in which all run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
