"""Universal perturbations: one perturbation for every image."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FILE_NAME = "perturbation.safetensors"
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class UniversalPerturbation:
    """A perturbation that is added to every image, with the record of how it was crafted.

    Calling it attacks: `perturbation(images)` adds `delta` and clips to [0, 1].

    Attributes:
        delta: (3, h, w) in pixel units, no larger than `eps`.
        attack: name of the attack, e.g. `"l4a"`.
        eps: radius of the L-inf ball in pixel units.
        steps: number of gradient steps.
        step_size: length of a step in pixel units.
        seed: of the start and of the batches.
        encoder: Hub id or name of the folder of the encoder it was crafted on, the surrogate.
        encoder_revision: commit of the encoder on the Hub.
        data: the images the attacker used.
        objective: what was raised, in words.

    Raises:
        ValueError: when `delta` is no (3, h, w), not finite or larger than `eps`.
    """

    delta: Tensor
    attack: str
    eps: float
    steps: int
    step_size: float
    seed: int
    encoder: str | None = None
    encoder_revision: str | None = None
    data: str | None = None
    objective: str | None = None

    def __post_init__(self):
        largest = self.delta.abs().amax().item()
        if self.delta.ndim != 3 or not largest <= self.eps + ROUNDING:
            raise ValueError(
                f"The perturbation has shape {tuple(self.delta.shape)} and reaches {largest:.4g}, expected (3, h, w) "
                f"and at most eps = {self.eps:.4g}."
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Attacked images (n, 3, h, w) in [0, 1].

        Raises:
            ValueError: when the images have another size than the perturbation.
        """
        if images.shape[1:] != self.delta.shape:
            raise ValueError(
                f"The images have shape {tuple(images.shape[1:])}, the perturbation {tuple(self.delta.shape)}: "
                "craft one on an encoder with the size of this model."
            )
        return (images + self.delta.to(images)).clamp(0, 1)

    @property
    def provenance(self) -> dict:
        """Everything but the perturbation itself."""
        return {name: value for name, value in vars(self).items() if name != "delta"}

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes `perturbation.safetensors`; the provenance is in its header."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {"delta": self.delta.cpu().contiguous()}, folder / FILE_NAME, {"provenance": json.dumps(self.provenance)}
        )

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "UniversalPerturbation":
        """Reads what `save_pretrained` wrote.

        Raises:
            ValueError: when the file is missing, broken, or no perturbation.
        """
        path = Path(directory) / FILE_NAME
        try:
            with safe_open(path, framework="pt") as file:
                return cls(delta=file.get_tensor("delta"), **json.loads(file.metadata()["provenance"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a universal perturbation saved by genaf_hf: {error}.") from error
