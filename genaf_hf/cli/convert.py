"""Makes a checkpoint of transformers of an encoder that solo-learn pre-trained.

    genaf-hf convert --checkpoint byol-cifar10.ckpt --output_dir byol-resnet18-cifar10

The method is one of BYOL, DINO, MoCo v2+, MoCo v3, NNCLR, ReSSL, SimCLR, SwAV, VIbCReg, W-MSE, Barlow Twins, SupCon,
VICReg and DeepCluster v2; the encoder is a ResNet. The result is hardened like any other encoder.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from genaf_hf.cli.command_line import FlagParser, parse_arguments
from genaf_hf.pretraining.solo_learn import METHODS, convert_solo_learn


@dataclass
class ConversionArguments:
    """Which file becomes which folder."""

    checkpoint: str = field(metadata={"help": "The .ckpt file of solo-learn."})
    output_dir: str = field(metadata={"help": "The folder to write."})
    method: str | None = field(
        default=None,
        metadata={"help": f"By which it was pre-trained, where its name does not tell: {', '.join(METHODS)}."},
    )
    stem_padding: int | None = field(
        default=None, metadata={"help": "Of a CIFAR stem: 2 in solo-learn, the default, 1 in others' ResNets."}
    )
    image_size: int | None = field(default=None, metadata={"help": "Default 32 for a CIFAR stem, else 224."})
    image_mean: list[float] | None = field(default=None, metadata={"help": "Default that of CIFAR-10 or ImageNet."})
    image_std: list[float] | None = field(default=None, metadata={"help": "Default that of CIFAR-10 or ImageNet."})


def parser() -> FlagParser:
    return FlagParser((ConversionArguments,))


def main(argv: Sequence[str]) -> None:
    """Converts what the words name."""
    (arguments,) = parse_arguments((ConversionArguments,), None, argv)
    found = convert_solo_learn(**asdict(arguments))
    left_out = ", ".join(f"{name} ({count} tensors)" for name, count in found.left_out.items())
    print(f"{found}, is in {arguments.output_dir}. Left out: {left_out or 'nothing'}.")
