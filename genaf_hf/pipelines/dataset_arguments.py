"""Where in a dataset the images are, and their labels."""

from dataclasses import dataclass, field

from genaf_hf.values.numbers import make_plain


@dataclass(kw_only=True)
class DatasetArguments:
    """The part that whatever reads a dataset by its name is asked for."""

    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration (subset) of the dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the dataset."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images; found if there is one."})
    label_column: str | None = field(default=None, metadata={"help": "Column of class labels; found if there is one."})
    train_split: str | None = field(default=None, metadata={"help": "Split to train on."})
    skip_broken_images: bool = field(default=False, metadata={"help": "Leave out images that cannot be read."})

    def __post_init__(self):
        make_plain(self)

    @property
    def unlabelled_options(self) -> dict:
        """Arguments for `load_unlabelled_images`."""
        return {
            "config_name": self.dataset_config_name,
            "revision": self.dataset_revision,
            "image_column": self.image_column,
            "train_split": self.train_split,
            "skip_broken_images": self.skip_broken_images,
        }

    @property
    def labelled_options(self) -> dict:
        """Arguments for `load_images`."""
        return {**self.unlabelled_options, "label_column": self.label_column}
