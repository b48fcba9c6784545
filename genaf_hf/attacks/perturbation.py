"""Universal perturbations: one perturbation for every image."""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_type_hints

import torch
from huggingface_hub import HfApi, hf_hub_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.attacks.inputs import FLOATS, check_images, checked_setting
from genaf_hf.attacks.norms import Norm, into_ball, lengths
from genaf_hf.errors import UserError, first_line
from genaf_hf.values.numbers import LARGEST_EPS, is_number, is_whole, make_plain, plain
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)

FILE_NAME = "perturbation.safetensors"
LARGEST_SIDE = 8192
ROUNDING = 1e-6
LARGEST_PROVENANCE = 2**16  # characters


@dataclass(frozen=True, eq=False)
class UniversalPerturbation:
    """A perturbation that is added to every image, with the record of how it was crafted.

    Calling it attacks: `perturbation(images)` adds `delta` and clips to [0, 1].

    Attributes:
        delta: (3, h, w) in pixel units, no larger than `eps`.
        attack: name of the attack, e.g. `"l4a"`.
        eps: radius of the ball in pixel units.
        steps: number of gradient steps. This and what follows is None where it is not known, or there is no such thing.
        step_size: length of a step in pixel units.
        seed: of the start and of the batches.
        encoder: Hub id or name of the folder of the encoder it was crafted on, the surrogate; of several separated by
            commas.
        encoder_revision: commit of the encoder on the Hub.
        data: the images the attacker used.
        objective: what was raised, in words.
        resized_from: the size it was crafted with, e.g. `"224 x 224"`, when `resize` changed it.
        norm: of the ball, `"linf"` or `"l2"`.

    Raises:
        UserError: when `delta` is no (3, h, w), not finite or larger than `eps` in the norm.
    """

    delta: Tensor
    attack: str
    eps: float
    steps: int | None = None
    step_size: float | None = None
    seed: int | None = None
    encoder: str | None = None
    encoder_revision: str | None = None
    data: str | None = None
    objective: str | None = None
    resized_from: str | None = None
    norm: Norm = "linf"

    @property
    def partial(self) -> bool:
        """Whether it changes a part of an image alone, which may then be of another size."""
        return False

    def __post_init__(self):
        self.check_shape()
        self.check_provenance()
        length = lengths(self.delta[None], self.norm).item()
        if not length <= self.eps + ROUNDING * max(1, self.eps):
            raise UserError(
                f"The perturbation has shape {tuple(self.delta.shape)} and reaches {length:.4g} in the norm "
                f"{self.norm}, expected (3, h, w) and at most eps = {self.eps:.4g}."
            )

    def check_shape(self) -> None:
        """Refuses what is no image; the `UserError` names the shape."""
        if not isinstance(self.delta, Tensor):
            raise UserError(f"The perturbation is a {type(self.delta).__name__}, expected a torch tensor (3, h, w).")
        shape = tuple(self.delta.shape)
        sized = len(shape) == 3 and shape[0] == 3 and all(1 <= side <= LARGEST_SIDE for side in shape)
        if not sized or self.delta.dtype not in FLOATS:
            raise UserError(f"The perturbation is {self.delta.dtype} of shape {shape}, expected floats (3, h, w).")

    def check_provenance(self) -> None:
        """Makes what is said of the perturbation plain, and refuses what a report cannot hold.

        Raises:
            UserError: names what was found.
        """
        make_plain(self)
        for name, hint in get_type_hints(type(self)).items():
            if name != "delta":
                checked_setting(name, getattr(self, name), hint)

    def __call__(self, images: Tensor, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Attacked images (n, 3, h, w) in [0, 1].

        Args:
            images: (n, 3, h, w) in [0, 1].
            seeds: one per image, as every attack takes them; not used, nothing is random.

        Raises:
            UserError: when these are no such images, or of another size than the perturbation.
        """
        check_images(images)
        if images.shape[1:] != self.delta.shape:
            raise UserError(
                f"The images have shape {tuple(images.shape[1:])}, the perturbation {tuple(self.delta.shape)}: "
                "craft one on an encoder with the size of this model."
            )
        return (images + self.delta.to(images)).clamp(0, 1)

    @property
    def provenance(self) -> dict:
        """Everything but the perturbation itself."""
        return {name: value for name, value in vars(self).items() if name != "delta"}

    @property
    def header(self) -> dict[str, str]:
        """What its file says of it."""
        return {"kind": type(self).__name__, "provenance": json.dumps(self.provenance)}

    def resize(self, height: int, width: int) -> "UniversalPerturbation":
        """The same in another size, by bilinear interpolation. It is weaker than one that is crafted in that size.

        Its eps is then what it still reaches, so that what is held against it is of its size.

        Raises:
            UserError: when this is no size.
        """
        height, width = plain(height), plain(width)
        if not all(is_whole(side) and 1 <= side <= LARGEST_SIDE for side in (height, width)):
            raise UserError(f"The size is {height} x {width}, expected whole numbers from 1 to {LARGEST_SIDE}.")
        before = " x ".join(map(str, self.delta.shape[1:]))
        logger.warning(
            "A perturbation of %s pixels is resized to %d x %d, which weakens it: an accuracy under it says less than "
            "under one that is crafted in that size.",
            *(before, height, width),
        )
        delta = F.interpolate(self.delta[None], (height, width), mode="bilinear", antialias=True, align_corners=False)
        delta = into_ball(delta, self.eps, self.norm)
        eps = min(self.eps, lengths(delta, self.norm).item()) or self.eps  # of none at all the one that it had
        return replace(self, delta=delta[0], eps=eps, resized_from=self.resized_from or before)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes `perturbation.safetensors`; the provenance is in its header."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"delta": self.delta.cpu().contiguous()}, folder / FILE_NAME, self.header)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        subfolder: str | None = None,
        token: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
    ) -> str:
        """Uploads what `save_pretrained` writes.

        Args:
            repo_id: where to. Made if it is not there.
            subfolder: of the repository, e.g. `"perturbation"` beside a model.
            token: default the one of `hf auth login`.
            private: whether a new repository is private.
            revision: branch to upload to. Made if it is not there.

        Returns:
            The address of the commit.
        """
        api = HfApi(token=token)
        repository = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository.repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            commit = api.upload_folder(
                repo_id=repository.repo_id,
                folder_path=folder,
                path_in_repo=subfolder,
                revision=revision,
                commit_message=f"A universal perturbation ({self.attack})",
            )
        return str(commit.commit_url)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> "UniversalPerturbation":
        """Reads what `save_pretrained` or `push_to_hub` wrote.

        Args:
            name_or_path: local folder or Hub id.
            subfolder: of either, e.g. `"perturbation"` beside a model.
            revision: branch, tag or commit on the Hub.
            token: for private and gated repositories.

        Returns:
            The perturbation, or the `UniversalPatch` if it was one.

        Raises:
            UserError: when the file is missing, broken, or no perturbation.
        """
        path = Path(name_or_path, subfolder or "", FILE_NAME)
        try:
            if not Path(name_or_path).is_dir():
                path = hf_hub_download(
                    str(name_or_path), FILE_NAME, subfolder=subfolder, revision=revision, token=token
                )
            with safe_open(path, framework="pt") as file:
                classes: list[type[UniversalPerturbation]] = [
                    UniversalPerturbation,
                    *UniversalPerturbation.__subclasses__(),
                ]
                kinds = {kind.__name__: kind for kind in classes}
                shape, words = file.get_slice("delta").get_shape(), file.metadata()["provenance"]
                if len(words) > LARGEST_PROVENANCE or any(side > LARGEST_SIDE for side in shape):
                    raise UserError(f"its shape is {shape}, and {len(words)} characters tell where it is from")
                provenance = json.loads(words)
                largest = LARGEST_EPS.get(provenance.get("norm", "linf"), 0)
                if not is_number(provenance["eps"]) or not 0 < provenance["eps"] <= largest:
                    words = f"{provenance['eps']} in the norm {provenance.get('norm', 'linf')}"
                    raise UserError(f"its eps is {words}, expected a value in (0, 1] in linf, or a length in l2")
                kind = kinds[file.metadata().get("kind", "UniversalPerturbation")]
                return kind(delta=file.get_tensor("delta"), **provenance)
        except (OSError, SafetensorError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not a universal perturbation saved by genaf_hf: {first_line(error)}."
            ) from error

    @classmethod
    def from_published(
        cls, path: str | Path, *, attack: str, eps: float | None = None, encoder: str | None = None
    ) -> "UniversalPerturbation":
        """Reads a `.pt` file that others published, a tensor (3, h, w) or (1, 3, h, w) in pixel units.

        Nothing in it is executed.

        Args:
            path: the file.
            attack: what it was crafted with, e.g. `"l4a"`.
            eps: radius of the L-inf ball in pixel units, default how far it reaches.
            encoder: what it was crafted on.

        Raises:
            UserError: when the file is missing, broken, or no such tensor.
        """
        try:
            delta = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(delta, Tensor) or delta.layout != torch.strided or delta.is_quantized:
                raise UserError(f"it holds a {type(delta).__name__}")
            if delta.ndim == 4 and len(delta) == 1:
                delta = delta[0]
            delta = delta.detach().float().clone()
            largest = delta.abs().amax().item()
            if eps is None and not 0 < largest <= 1:
                raise UserError(f"it reaches {largest:.4g}, expected values in [-1, 1], in units of pixels in [0, 1]")
            return cls(delta, attack, largest if eps is None else eps, encoder=encoder)
        except Exception as error:  # a hostile file can raise anything
            told = isinstance(error, OSError | UserError)
            raise UserError(
                f"{public_name(str(path))} is not a published universal perturbation: "
                f"{first_line(error) if told else 'it is broken, or holds more than tensors'}; expected a tensor "
                "(3, h, w) in pixel units, as torch.save writes it."
            ) from error
