"""Local folders of images: where a file lies says its split and its class, words in its name say nothing."""

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, NamedSplit

from genaf_hf.data.labels import LabelsError, check_told_apart
from genaf_hf.data.own_files import is_in, own_folders
from genaf_hf.errors import UserError
from genaf_hf.values.names import some_of

logger = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# What `datasets` reads: the former hold images themselves, so that those beside them are illustrations.
WITH_IMAGES = (".parquet", ".arrow")
OF_DATASETS = (*WITH_IMAGES, ".csv", ".tsv", ".json", ".jsonl", ".zip", ".tar", ".gz", ".py")
OF_SYSTEMS = (  # folders that no user made, some of thumbnails, or of what was deleted
    *("__MACOSX", "__pycache__", "@eaDir", "#recycle"),
    *("$RECYCLE.BIN", "System Volume Information", "lost+found"),
)
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
EXPECTED = 'expected a folder for each class ("cat/1.jpg"), or such folders in "train", "validation" and "test"'

Placed = dict[str, dict[str, list[Path]]]  # files by split and class


class Contents(NamedTuple):
    """What lies below a folder, relative to it and sorted, without what is hidden.

    Attributes:
        files: also those that are links.
        folders: without those that are links.
        links: of both kinds.
    """

    files: list[Path]
    folders: list[Path]
    links: list[Path]

    @property
    def images(self) -> list[Path]:
        return [file for file in self.files if kind(file) in EXTENSIONS]


def image_folder(name: str) -> Contents | None:
    """What lies in a local folder of images; None where a description of a dataset or other data tells more of it."""
    if not Path(name).is_dir() or "\nconfigs:" in read_if_there(Path(name) / "README.md"):
        return None
    found = contents(Path(name))
    of_images = {beginning(image) for image in found.images}  # what tells of one image alone is no table
    data = sum(kind(file) in OF_DATASETS and beginning(file) not in of_images for file in found.files)
    described = any(file.name in METADATA or kind(file) in WITH_IMAGES for file in found.files)
    return None if described or data > len(found.images) or not (found.files or found.links) else found


def read_image_folder(
    name: str, found: Contents, *, labelled: bool, named_splits: Mapping[str, str | None]
) -> DatasetDict:
    """The images of a folder, as paths in the column `image`, and where they are wanted their classes in `label`.

    Sub-folders named as splits are splits where they hold class folders; else each sub-folder is a class. What is taken
    and what is left is logged.

    Args:
        name: of the folder.
        found: in it, as `image_folder` gives it.
        labelled: whether classes are wanted; without them all images below a folder count, wherever they lie.
        named_splits: names of folders that are splits too, by role.

    Raises:
        UserError: for links that lead out of the folder, and where it holds no image; `LabelsError` for images whose
            place does not say what they are, and a class without an image.
    """
    check_links(name, found.links)
    if not found.images:
        raise UserError(
            f'The dataset "{name}" cannot be loaded: it holds no image that can be read, only {kinds(found.files)}; '
            f"convert them to one of {', '.join(EXTENSIONS)}."
        )
    check_names(name, found.images)
    placed = place(name, found, named_splits) if labelled else place_unlabelled(found.images, named_splits)
    tell(name, found.files, placed)
    return DatasetDict({split: as_dataset(name, split, placed, labelled=labelled) for split in placed})


def as_dataset(name: str, split: str, placed: Placed, *, labelled: bool) -> Dataset:
    """The images of one split by the order of their paths; classes have their ids by the names of all splits."""
    root = Path(os.path.abspath(name))
    names = sorted({label for classes in placed.values() for label in classes})
    ids = {label: i for i, label in enumerate(names)}
    rows = sorted((file, ids[label]) for label, files in placed[split].items() for file in files)
    columns = {"image": [{"bytes": None, "path": str(root / file)} for file, _ in rows]}
    features = {"image": Image(decode=False)}
    if labelled:
        columns["label"] = [label for _, label in rows]
        features["label"] = ClassLabel(names=names)
    return Dataset.from_dict(columns, features=Features(features), split=NamedSplit(re.sub(r"\W", "_", split)))


# ---- what is there ----


def contents(root: Path) -> Contents:
    """What lies below a folder; pipes and devices, which may never end, are no files."""
    files, folders, links, waiting = [], [], [], [Path()]
    for folder in waiting:
        for entry in os.scandir(root / folder):
            path = folder / entry.name
            if entry.name.startswith(".") or entry.name in OF_SYSTEMS:
                continue
            if entry.is_symlink():
                links.append(path)
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
                waiting.append(path)
            elif entry.is_file() or (entry.is_symlink() and not entry.is_dir()):
                files.append(path)
    return Contents(sorted(files), sorted(folders), sorted(links))


def check_names(name: str, images: Iterable[Path]) -> None:
    """Refuses names of images that are no text, as those of archives from elsewhere may be.

    Raises:
        UserError: names the first.
    """
    if odd := next((str(image) for image in images if not str(image).isascii() and is_no_text(str(image))), None):
        raise UserError(
            f'The dataset "{name}" has the image {odd!a}, whose name is not in UTF-8: rename it and what else is '
            "named so (convmv does so), or unpack it anew with the encoding of its archive."
        )


def is_no_text(name: str) -> bool:
    return name.encode(errors="ignore").decode() != name


def check_links(name: str, links: Iterable[Path]) -> None:
    """Refuses links to folders, and to files outside: in a folder that others made they could name any file.

    Raises:
        UserError: names the link and what it leads to.
    """
    own = own_folders(name)
    for link in links:
        path = Path(name) / link
        if path.is_dir() or not is_in(str(path), own):
            raise UserError(
                f'"{path}" is a link to {os.path.realpath(path)}, which is not followed: copy what it leads to into '
                "the folder (cp -rL does so), or delete it."
            )


def kind(file: Path) -> str:
    return file.suffix.lower()


def beginning(file: Path) -> Path:
    """A file's path up to the first full stop of its name: the same for `cat/1.jpg` and `cat/1.jpg.json`."""
    return file.with_name(file.name.partition(".")[0])


def kinds(files: Iterable[Path]) -> str:
    """How many files there are by extension, in words."""
    counts = Counter(kind(file) or "without extension" for file in files)
    return ", ".join(f"{count} {extension}" for extension, count in counts.most_common()) or "nothing"


def read_if_there(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


# ---- what it means ----


def place(name: str, found: Contents, named_splits: Mapping[str, str | None]) -> Placed:
    """The files by split and class.

    Raises:
        LabelsError: for images whose place does not say what they are.
    """
    base = innermost(found)
    below = grouped((file.relative_to(base) for file in found.images), 1)
    deep = {top: [file for file in files if len(file.parts) > 2] for top, files in below.items()}
    where = f'The folder "{Path(name) / base}"'
    if not below:
        raise LabelsError(
            f"{where} has images but no class folders: {EXPECTED}, or a metadata.csv beside the images with the "
            "columns file_name and label."
        )
    if any(deep[top] and split_of(top, named_splits) for top in below):
        placed = place_in_splits(where, below, deep, named_splits)
        splits = [top for top in in_folder(found.folders, base) if split_of(top.name, named_splits)]
        check_not_empty(where, splits, found, "split")
        check_not_empty(where, [each for split in splits for each in in_folder(found.folders, split)], found, "class")
        check_known_classes(where, placed, named_splits.get("train") or "train")
    elif all(split_of(top, named_splits) for top in below):
        raise LabelsError(f"{where} has images in {some_of(list(below))} but no class folders in there: {EXPECTED}.")
    elif all(len(deep[top]) == len(files) for top, files in below.items()):
        nearest = [f'"{top}" like "{near[0]}"' for top in below if (near := get_close_matches(top, SPLIT_FOLDERS, 1))]
        raise LabelsError(
            f"{where} has folders within {some_of(list(below))}, of which none is a split: {EXPECTED}"
            f"{'; ' + ' and '.join(nearest) + ' may be misspelt' if nearest else ''}."
        )
    else:
        placed = {"train": below}
        check_not_empty(where, in_folder(found.folders, base), found, "class")
        if odd := [top for top in below if split_of(top, {})]:
            logger.warning(
                "%s: %s is taken as a class, because not all folders beside it are splits", where, some_of(odd)
            )
    return {
        split: {label: [base / file for file in files] for label, files in classes.items()}
        for split, classes in placed.items()
    }


def place_in_splits(
    where: str, below: Mapping[str, list[Path]], deep: Mapping[str, list[Path]], named_splits: Mapping[str, str | None]
) -> Placed:
    """The files by split and class, where folders of splits hold those of classes.

    Raises:
        LabelsError: for folders beside that are no splits, without class folders, or two for one split.
    """
    placed = {}
    for top in below:
        split = split_of(top, named_splits)
        if split is None:
            near = get_close_matches(top, SPLIT_FOLDERS, 1)
            raise LabelsError(
                f'{where} has images in "{top}" beside the folders of splits, which would not be used: '
                f"{f'did you mean {near[0]}? ' if near else ''}Rename it, name it with --train_split, "
                "--validation_split or --test_split, or move it elsewhere."
            )
        if not deep[top]:
            raise LabelsError(f'{where} has images in "{top}" but no class folders in there: {EXPECTED}.')
        if split in placed:
            raise LabelsError(f'{where} has two folders for the split "{split}": expected one.')
        placed[split] = grouped(deep[top], 2)
    return placed


def place_unlabelled(images: Sequence[Path], named_splits: Mapping[str, str | None]) -> Placed:
    """The files by split, where one is named or folders of two splits are there, and else all in train."""
    below = grouped(images, 1)
    splits = {split_of(top, {}) for top in below}
    all_in_splits = None not in splits and all(len(file.parts) > 1 for file in images)
    if not (all_in_splits or {"train"} < splits - {None}) and not below.keys() & set(named_splits.values()):
        return {"train": {"": list(images)}}
    placed = {}
    for top, files in below.items():
        if split := split_of(top, named_splits):
            placed.setdefault(split, {"": []})[""].extend(files)
    return placed


def innermost(found: Contents) -> Path:
    """The folder that holds class folders or splits: one with nothing but one folder of folders in it says nothing."""
    base = Path()
    while True:
        inside = in_folder(found.folders, base)
        if len(inside) != 1 or split_of(inside[0].name, {}):
            return base
        if any(inside[0] not in image.parent.parents for image in found.images):
            return base
        base = inside[0]


def in_folder(paths: Iterable[Path], folder: Path) -> list[Path]:
    return [path for path in paths if path.parent == folder]


def grouped(files: Iterable[Path], depth: int) -> dict[str, list[Path]]:
    """Files by the folder that they lie in at a depth; without those that lie less deep."""
    groups = defaultdict(list)
    for file in files:
        if len(file.parts) > depth:
            groups[file.parts[depth - 1]].append(file)
    return dict(groups)


def split_of(folder: str, named_splits: Mapping[str, str | None]) -> str | None:
    """The split that a folder's name says, None where it says none."""
    return folder if folder in named_splits.values() else SPLIT_FOLDERS.get(folder.lower())


def check_not_empty(where: str, folders: Iterable[Path], found: Contents, what: str) -> None:
    """Refuses folders of classes or splits without an image; the `LabelsError` names the folder and what it holds."""
    filled = {parent for image in found.images for parent in image.parents}
    for folder in folders:
        if folder not in filled:
            held = kinds(file for file in found.files if folder in file.parents)
            raise LabelsError(
                f'{where} has the {what} folder "{folder}" without an image that can be read; it holds {held}: put '
                f"images into it ({', '.join(EXTENSIONS)}), or move it elsewhere."
            )


def check_known_classes(where: str, placed: Placed, train: str) -> None:
    """Refuses classes of which the split to train on has no image; the `LabelsError` names the class."""
    check_told_apart(sorted({name for classes in placed.values() for name in classes}))
    known = placed.get(train)
    for split, classes in placed.items() if known else ():
        if strange := [name for name in classes if name not in known]:
            near = get_close_matches(strange[0], known, 1)
            raise LabelsError(
                f"{where} has the class {some_of(strange)} in {split} but not in {train}"
                f"{f', did you mean {some_of(near)}' if near else ''}: expected the classes of {train}."
            )


def tell(name: str, files: Sequence[Path], placed: Placed) -> None:
    """Logs how many files there are, and how many of them were taken and left."""
    taken = {file for classes in placed.values() for found in classes.values() for file in found}
    places = {file.parent for file in taken}
    left = [file for file in files if file not in taken]
    sizes = ", ".join(f"{split} {sum(map(len, classes.values()))}" for split, classes in placed.items())
    # What lies beside images of a class, or is an image, may have been meant to be one of them.
    missed = any(kind(file) in EXTENSIONS or file.parent in places for file in left)
    level = logging.WARNING if missed else logging.INFO
    words = f" ({kinds(left)}: {some_of([str(file) for file in left])})" if left else ""
    logger.log(level, '"%s": %d files, %d taken (%s), %d left%s', name, len(files), len(taken), sizes, len(left), words)
