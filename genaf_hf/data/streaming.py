"""Some images of a dataset that is too large to be downloaded as a whole."""

import logging
import os
from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path

import datasets
from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    DownloadConfig,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    NamedSplit,
)
from datasets.fingerprint import Hasher
from datasets.utils.file_utils import xopen

from genaf_hf.data.own_files import check_paths
from genaf_hf.data.pixel_values import holds_images
from genaf_hf.errors import UserError

logger = logging.getLogger(__name__)

STREAMED = "genaf_hf_streamed"  # folder of the cache of datasets
SHUFFLED_AT_ONCE = 1000
SHARDS_AT_ONCE = 10


def open_stream(builder: DatasetBuilder) -> tuple[IterableDatasetDict, Path]:
    """All splits as streams, and the folder of the cache, named by their commit on the Hub, for what is drawn."""
    if hasattr(builder.config, "decode_num_threads"):
        builder.config.decode_num_threads = 0  # else `datasets` itself decodes images of the Hub, of any format
    downloaded = Path(builder.cache_dir)  # of the whole dataset, beside which nothing is put: datasets looks there
    root = downloaded.parents[3]  # above dataset, configuration, version and commit
    return builder.as_streaming_dataset(), root / STREAMED / downloaded.relative_to(root)


def stream_folder(name: str, splits: DatasetDict) -> tuple[IterableDatasetDict, Path]:
    """The images of a local folder as streams, and the folder of the cache, named by their files, for what is drawn."""
    files = [image["path"] for images in splits.values() for image in images["image"]]
    content = [(file, os.path.getsize(file), os.path.getmtime(file)) for file in files]
    streams = {split: images.to_iterable_dataset() for split, images in splits.items()}
    cache = Path(datasets.config.HF_DATASETS_CACHE) / STREAMED / "imagefolder" / Hasher.hash([name, content])
    return IterableDatasetDict(streams), cache


def images_to_draw(limits: Mapping[str, int], roles: Collection[str]) -> dict[str, int]:
    """How many images of each role are drawn from its stream; for a role without one, train gets as many more."""
    held_out = sum(limit for role, limit in limits.items() if role not in roles)
    return {role: limits[role] + (held_out if role == "train" else 0) for role in roles}


def draw(
    stream: IterableDataset,
    count: int,
    columns: Mapping[str, str],
    *,
    split: str,
    name_or_path: str,
    seed: int,
    cache: Path,
    token: str | bool | None = None,
) -> Dataset:
    """At most `count` images, from all over a stream, the same ones for the same seed.

    They are fetched once and then read from the cache, also by other processes and by a run that goes on.

    Args:
        stream: a split.
        split: its name, which a stream may not know.
        count: of images.
        columns: the stream's names of `image`, which is kept as it is encoded, and of `label` where that is wanted.
        name_or_path: of the dataset.
        seed: of the order that the stream is shuffled into.
        cache: folder, as `open_stream` gives it.
        token: for private and gated datasets.

    Raises:
        UserError: when the column holds no images.
        DatasetGenerationError: when the stream breaks off.
    """
    image_column = columns["image"]
    if not holds_images(held := stream.features[image_column]):
        raise UserError(f'The column "{image_column}" holds {held}, expected images.')
    features = Features({name: stream.features[column] for name, column in columns.items()})
    features["image"] = Image(decode=False)
    fingerprint = Hasher.hash([split, *columns.values(), count, seed])
    encoded = stream.select_columns([*columns.values()]).cast_column(image_column, features["image"])

    def examples():
        # Parts of few large files, which may be sorted by class, are shards too; many files are mixed well enough.
        shards = encoded.reshard() if encoded.num_shards < SHARDS_AT_ONCE else encoded
        shuffled = shards.shuffle(seed=seed, buffer_size=SHUFFLED_AT_ONCE, max_buffer_input_shards=SHARDS_AT_ONCE)
        for example in islice(shuffled, count):
            image = example[image_column]
            if image is not None and image["bytes"] is None:
                check_paths([image["path"]], name_or_path, stream.info.builder_name, "stream")
                with xopen(image["path"], "rb", download_config=DownloadConfig(token=token)) as file:
                    image = {**image, "bytes": file.read()}
            yield {**{name: example[column] for name, column in columns.items()}, "image": image}

    return Dataset.from_generator(
        examples, features=features, cache_dir=str(cache), fingerprint=fingerprint, split=NamedSplit(split)
    )


def warn_of_absent_classes(train: Dataset) -> None:
    """Warns when the images drawn to train on are not of all classes."""
    names = train.features["label"].names
    absent = len(names) - len(set(train["label"]))
    if absent:
        logger.warning(
            "%d of %d classes are not among the %d images drawn to train on: draw more, or load all without streaming",
            absent,
            len(names),
            len(train),
        )
