"""Datasets of the Hub whose structure is known, so that their name is all that has to be given.

What is written here is as the pages of the datasets say. What the user says comes first; names of classes are taken
only where the dataset's own features have none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# As the benchmark's authors call them (https://benchmark.ini.rub.de/gtsrb_dataset.html), in the order of its class ids.
TRAFFIC_SIGNS = (
    *("speed limit 20", "speed limit 30", "speed limit 50", "speed limit 60", "speed limit 70", "speed limit 80"),
    *("end of speed limit 80", "speed limit 100", "speed limit 120", "no passing", "no passing for heavy vehicles"),
    *("right of way at the next intersection", "priority road", "yield", "stop", "no vehicles"),
    *("heavy vehicles prohibited", "no entry", "general caution", "dangerous curve to the left"),
    *("dangerous curve to the right", "double curve", "bumpy road", "slippery road", "road narrows on the right"),
    *("road work", "traffic signals", "pedestrians", "children crossing", "bicycles crossing", "beware of ice or snow"),
    *("wild animals crossing", "end of all speed and passing limits", "turn right ahead", "turn left ahead"),
    *("ahead only", "go straight or right", "go straight or left", "keep right", "keep left", "roundabout mandatory"),
    *("end of no passing", "end of no passing for heavy vehicles"),
)
ANIMALS = ("butterfly", "cat", "chicken", "cow", "dog", "elephant", "horse", "sheep", "spider", "squirrel")


@dataclass(frozen=True)
class KnownDataset:
    """What is known of a dataset.

    Attributes:
        config_name: configuration (subset) that is meant where several are there.
        image_column: of the images.
        label_column: of the class labels.
        splits: the dataset's name of the split for train, validation and test; what is missing is held out of train.
        class_names: of plain integers, in their order.
        large: whether it is streamed unless the user says otherwise.
    """

    config_name: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    large: bool = False

    def streamed(self, asked: bool | None) -> bool:
        """Whether it is streamed, as the user says or by its size."""
        return self.large if asked is None else asked


NOTHING_KNOWN = KnownDataset()
TRAIN_AND_TEST = {"train": "train", "test": "test"}

KNOWN_DATASETS = {
    "uoft-cs/cifar10": KnownDataset(image_column="img", label_column="label", splits=TRAIN_AND_TEST),
    "tanganke/stl10": KnownDataset(image_column="image", label_column="label", splits=TRAIN_AND_TEST),
    "tanganke/gtsrb": KnownDataset(
        image_column="image", label_column="label", splits=TRAIN_AND_TEST, class_names=TRAFFIC_SIGNS
    ),
    "ufldl-stanford/svhn": KnownDataset(
        config_name="cropped_digits", image_column="image", label_column="label", splits=TRAIN_AND_TEST
    ),
    "Rapidata/Animals-10": KnownDataset(
        image_column="image", label_column="label", splits={"train": "train"}, class_names=ANIMALS
    ),
    # Its split "test" has no labels.
    "ILSVRC/imagenet-1k": KnownDataset(
        image_column="image", label_column="label", splits={"train": "train", "test": "validation"}, large=True
    ),
    "clane9/imagenet-100": KnownDataset(
        image_column="image", label_column="label", splits={"train": "train", "test": "validation"}
    ),
    "zh-plus/tiny-imagenet": KnownDataset(
        image_column="image", label_column="label", splits={"train": "train", "test": "valid"}
    ),
}


# Ids that the Hub redirects.
OLD_NAMES = {
    "cifar10": "uoft-cs/cifar10",
    "imagenet-1k": "ILSVRC/imagenet-1k",
    "maysee/tiny-imagenet": "zh-plus/tiny-imagenet",
    "svhn": "ufldl-stanford/svhn",
}


def known_dataset(name_or_path: str) -> KnownDataset:
    """What is known of a dataset by its Hub id, also an older one or in other case; nothing of a local folder."""
    if Path(name_or_path).exists():
        return NOTHING_KNOWN
    name = name_or_path.casefold()
    name = OLD_NAMES.get(name, name).casefold()
    return next((known for repo_id, known in KNOWN_DATASETS.items() if repo_id.casefold() == name), NOTHING_KNOWN)
