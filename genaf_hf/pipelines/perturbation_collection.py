"""Ready-made universal perturbations: collections of a folder or a repository of the Hub, ours and those of others."""

import json
import logging
import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file

from genaf_hf.attacks import UniversalPatch, UniversalPerturbation
from genaf_hf.attacks.norms import lengths
from genaf_hf.attacks.perturbation import FILE_NAME
from genaf_hf.errors import UserError, first_line
from genaf_hf.values.names import some_of
from genaf_hf.values.numbers import is_number
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)

WEIGHTS = ".safetensors"
KINDS = (WEIGHTS, ".pt")
OF_A_MODULE, ITS_SETTINGS = "model.safetensors", "config.json"  # as PyTorchModelHubMixin saves them
OF_A_TRAINING = ("optimizer.pt", "scheduler.pt", "scaler.pt", "adapter_model.safetensors")  # of the Trainer and PEFT
UNREAD = (".npy", ".npz", ".pkl")  # that others keep perturbations in
MOST_FILES = 200


def collected(name_or_path: str, revision: str | None = None) -> dict[str, UniversalPerturbation]:
    """The perturbations of a collection by name: those of a folder with all folders in it, or of a Hub repository.

    Read are what `UniversalPerturbation.save_pretrained` writes, `.pt` files that hold one tensor in pixel units, and
    the modules of XTransferBench (Huang et al., ICML 2025, https://arxiv.org/abs/2505.05528). Nothing is executed. The
    weights of a model of `transformers`, beside which perturbations lie where a hardened one was published, and what a
    training leaves there are passed over.

    Args:
        name_or_path: local folder or Hub id.
        revision: branch, tag or commit on the Hub.

    Returns:
        By the file's folder, or for `.pt` by the file, with hyphens between the parts of its path.

    Raises:
        UserError: when there is none, or a file of these kinds is none, or there are too many, or two of one name.
    """
    folder = Path(name_or_path)
    if folder.is_file():
        raise UserError(f'"{name_or_path}" is a file, expected a folder of perturbations: name {folder.parent}.')
    if not folder.is_dir():
        try:
            patterns = [*(f"*{kind}" for kind in KINDS), f"*{ITS_SETTINGS}"]
            folder = Path(snapshot_download(name_or_path, revision=revision, allow_patterns=patterns))
        except (OSError, ValueError) as error:  # also those of the Hub
            raise UserError(
                f'There is no collection of perturbations "{name_or_path}", neither a folder nor on the Hub: '
                f"{first_line(error)}."
            ) from error
    there = sorted(file for file in folder.rglob("*") if file.is_file())
    files = [file for file in there if file.suffix in KINDS and not of_a_model(file)]
    unread = some_of([file.name for file in there if file.suffix in UNREAD])
    if not 1 <= len(files) <= MOST_FILES:
        others = f", and {unread}, which can be none here" if unread else ""
        raise UserError(
            f'The collection "{public_name(name_or_path)}" holds {len(files)} files that end in {" or ".join(KINDS)} '
            f"and are no weights of a model{others}, expected 1 to {MOST_FILES} perturbations."
        )
    if unread:
        said = 'What is not read of the collection "%s": %s; perturbations end in %s'
        logger.warning(said, public_name(name_or_path), unread, " or ".join(KINDS))
    found: dict[str, UniversalPerturbation] = {}
    for file in files:
        name = name_of(file, folder, name_or_path)
        if name in found:
            raise UserError(f'{file} would be "{name}" in a report, as another file of the collection is: rename one.')
        found[name] = read(file)
    return found


def of_a_model(file: Path) -> bool:
    """Whether these are weights of a model of `transformers`, whose settings tell so, or what a training leaves."""
    if file.name in OF_A_TRAINING:
        return True
    settings = file.with_name(ITS_SETTINGS)
    if file.suffix != WEIGHTS or file.name == FILE_NAME or not settings.is_file():
        return False
    return '"model_type"' in settings.read_text(encoding="utf-8", errors="replace")


def name_of(file: Path, folder: Path, collection: str) -> str:
    """What a perturbation is called in a report: where it lies, without signs that a page or a path gives a meaning."""
    place = file.relative_to(folder)
    parts = place.parts[:-1] if file.name in (FILE_NAME, OF_A_MODULE) else place.with_suffix("").parts
    return re.sub(r"[^\w .+-]", "_", "-".join(parts) or public_name(collection).rpartition("/")[2])


def read(file: Path) -> UniversalPerturbation:
    """The perturbation in a file.

    Raises:
        UserError: when it is none.
    """
    if file.suffix == ".pt":
        return UniversalPerturbation.from_published(file, attack=file.stem)
    if file.name == FILE_NAME:
        return UniversalPerturbation.from_pretrained(file.parent)
    try:
        return of_x_transfer(load_file(file), json.loads((file.parent / ITS_SETTINGS).read_text(encoding="utf-8")))
    except (OSError, SafetensorError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is no universal perturbation, neither of ours nor of XTransferBench ({first_line(error)}): take "
            "it out of the collection, or save it by UniversalPerturbation(tensor, name, eps).save_pretrained(folder)."
        ) from error


def of_x_transfer(tensors: dict[str, torch.Tensor], settings: dict) -> UniversalPerturbation:
    """A perturbation as XTransferBench applies it, from what its module holds and is made with.

    Raises:
        UserError: when these are of no such module.
    """
    if tensors.keys() == {"delta"} and is_number(eps := settings.get("epsilon")):
        [delta], norm = tensors["delta"].float(), "linf"
        delta = delta.clamp(-eps, eps)
    elif tensors.keys() == {"delta_param"}:
        [delta], norm = tensors["delta_param"].float().tanh(), "l2"
        eps = lengths(delta[None], norm).item()
    else:
        found = some_of([*tensors]) or "nothing"
        raise UserError(f"it holds {found}, expected delta with an epsilon, or delta_param")
    towards = settings.get("target_text")
    return UniversalPerturbation(
        delta, "x-transfer", eps, objective=towards and f'towards the text "{towards}"', norm=norm
    )


def fitting(
    perturbations: dict[str, UniversalPerturbation], size: tuple[int, int], *, resized: bool
) -> dict[str, UniversalPerturbation]:
    """Perturbations for images of a height and width.

    Args:
        perturbations: by name.
        size: of the images that a model takes.
        resized: whether those of another size are to be resized, which weakens them.

    Raises:
        UserError: names one of another size, if it is not, or that does not fit for another reason.
    """
    found = {}
    for name, each in perturbations.items():
        if not isinstance(each, UniversalPerturbation):
            raise UserError(
                f'The perturbation "{name}" is a {type(each).__name__}, expected a UniversalPerturbation, such as '
                'UniversalPerturbation(tensor, "mine", eps=10 / 255).'
            )
        fits = each.partial or each.delta.shape[1:] == torch.Size(size)
        if not fits and not resized:
            sizes = [" x ".join(map(str, shape)) for shape in (each.delta.shape[1:], size)]
            raise UserError(
                f'The perturbation "{name}" is of {sizes[0]} pixels, the model takes images of {sizes[1]}: give '
                "others, or have them resized by --resize_perturbations, which weakens them."
            )
        found[name] = each if fits else each.resize(*size)
        if isinstance(each, UniversalPatch):
            found[name] = each.on_images_of(*size)
        try:
            found[name](torch.zeros(1, 3, *size))
        except UserError as error:
            raise UserError(f'The perturbation "{name}" cannot be used: {first_line(error)}.') from error
    return found
