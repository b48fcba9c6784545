"""PGD-10 in fp32 and in bf16 on the same model and images: time, and robust accuracy, which is judged in fp32.

python benchmarks/half_precision.py --model_name_or_path vit-sup-cifar10-genaf --dataset_name cifar10
"""

import argparse
import time

import torch

from genaf_hf import PixelModel, load_images, pgd, with_pixel_values
from genaf_hf.data import stratified_subset
from genaf_hf.evaluation.measurement import Rate
from genaf_hf.models.loading import load_classifier

BATCH_SIZE = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--eps", type=float, default=8 / 255)
    parser.add_argument("--test_images", type=int, default=2000)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    classifier, processor = load_classifier(args.model_name_or_path)
    model = PixelModel(classifier.to(args.device), processor).eval()
    test = with_pixel_values(
        stratified_subset(load_images(args.dataset_name)["test"], args.test_images, seed=0), processor
    )
    images, labels = (test[:][name].to(args.device) for name in ("pixel_values", "labels"))
    images = model.to_images(images)
    in_fp32 = classifier.forward
    for name, attention, forward in (
        ("fp32", "sdpa", in_fp32),
        ("bf16", "eager", torch.autocast(args.device, torch.bfloat16)(in_fp32)),
    ):
        classifier.set_attn_implementation(attention)
        classifier.forward = forward
        start = time.perf_counter()
        adversarial = []
        for first in range(0, len(images), BATCH_SIZE):
            rows = slice(first, first + BATCH_SIZE)
            adversarial.append(pgd(model, images[rows], labels[rows], eps=args.eps, steps=10))
        seconds = time.perf_counter() - start
        classifier.forward = in_fp32
        with torch.no_grad():
            predictions = torch.cat([model(batch).argmax(1) for batch in adversarial])
        right = (predictions == labels).sum().item()
        print(f"{name}: {seconds:.1f} s, robust accuracy {Rate(right, len(images))}", flush=True)


if __name__ == "__main__":
    main()
