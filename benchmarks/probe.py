"""What a linear probe reads from encoders pre-trained on the digits by each method, and from random weights.

    python benchmarks/probe.py

The encoders are those that the recipes make; each is made first if it is not there. The probe is fitted on the
features of the training images with their labels, and counted on the test images. Prints a Markdown table.
"""

import argparse
import logging

import torch
from torch import nn
from transformers import AutoModelForImageClassification, set_seed

from genaf_hf import PixelModel, load_encoder, load_images, with_pixel_values
from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.data import DIGITS
from genaf_hf.evaluation.measurement import Rate
from genaf_hf.pretraining.digits_encoder import DIGITS_ENCODERS, pretrain_digits_encoder
from genaf_hf.values.markup import markdown

POOLINGS = ("cls", "mean")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="Of the random weights.")
    args = parser.parse_args()

    data = load_images(DIGITS)
    rows = [["encoder", "pooling", "pre-trained", "random weights"]]
    for name in DIGITS_ENCODERS:
        folder = pretrain_digits_encoder(name, use_cpu=True)
        for pooling in POOLINGS:
            model, processor = load_encoder(str(folder), data["train"].features["label"].names, pooling=pooling)
            set_seed(args.seed)
            random = AutoModelForImageClassification.from_config(model.config)
            rows.append([name, pooling, *(str(probe(each, processor, data)) for each in (model, random))])
    print(f"\n{markdown(rows)}")


def probe(model: nn.Module, processor, data) -> Rate:
    """Test accuracy of a linear probe on a model's features."""
    encoder = PixelModel(model.eval(), processor)
    (train, labels), (test, expected) = (
        (encoder.to_images(rows["pixel_values"]), rows["labels"].to(encoder.device))
        for rows in (with_pixel_values(data[split], processor)[:] for split in ("train", "test"))
    )
    fitted = LinearProbe(encoder, train, labels)
    with torch.no_grad():
        predictions = fitted.classes[fitted(test).argmax(1)]
    return Rate(int((predictions == expected).sum()), len(predictions))


if __name__ == "__main__":
    main()
