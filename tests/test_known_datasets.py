"""Datasets that are known by their Hub id: small ones of the same structure, under that id on a local Hub."""

import io
import json

import pytest
from conftest import colored_images
from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets
from hub_user import TOKEN, run_as_user
from local_hub import LocalHub

from genaf_hf.data.known_datasets import ANIMALS, KNOWN_DATASETS, NOTHING_KNOWN, TRAFFIC_SIGNS, known_dataset

NAMED = ["tench", "goldfish", "shark"]
DIGIT_NAMES = [str(digit) for digit in range(10)]
NUMBERS = {"max_train_samples": 12, "max_eval_samples": 6}
SVHN = """---
configs:
- config_name: cropped_digits
  data_files:
  - {split: train, path: cropped_digits/train-*}
  - {split: test, path: cropped_digits/test-*}
  - {split: extra, path: cropped_digits/extra-*}
- config_name: full_numbers
  data_files:
  - {split: train, path: full_numbers/train-*}
  - {split: test, path: full_numbers/test-*}
---
"""

# Which datasets are loaded, and with which settings.
ASKED = {
    **{repo_id: (repo_id, {}) for repo_id in KNOWN_DATASETS},
    "imagenet, drawn": ("ILSVRC/imagenet-1k", NUMBERS),
    "imagenet, whole": ("ILSVRC/imagenet-1k", {"streaming": False}),
    "imagenet, validation split": ("ILSVRC/imagenet-1k", {"streaming": False, "validation_split": "validation"}),
    "svhn, other configuration": ("ufldl-stanford/svhn", {"config_name": "full_numbers"}),
    "cifar, other splits": ("uoft-cs/cifar10", {"train_split": "test", "test_split": "train"}),
    "cifar, other column": ("uoft-cs/cifar10", {"image_column": "shadow"}),
    "animals, odd": ("Rapidata/Animals-10", {"revision": "odd"}),
    "animals, named": ("Rapidata/Animals-10", {"revision": "named"}),
}
LOAD = """
import json, sys
import datasets
from genaf_hf import load_images
from genaf_hf.data import ImageSet, commit, counted_classes

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
found = {}
for name, (repo_id, settings) in json.loads(sys.argv[1]).items():
    try:
        images = load_images(repo_id, **settings)
        source, counted = ImageSet(repo_id, images, settings.get("config_name")).source, counted_classes(images)
        balance = {split: dict(zip(counted["class_names"], each)) for split, each in counted["class_counts"].items()}
        found[name] = {"balance": balance, "source": source, "commit": commit(images["train"])}
    except ValueError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def images(count: int, classes: list[str] | int, *, image: str = "image") -> Dataset:
    """Images of the classes in turn: named ones, or as many plain integers."""
    named = isinstance(classes, list)
    feature, number = (ClassLabel(names=classes), len(classes)) if named else (Value("int64"), classes)
    pictures = Dataset.from_dict({image: colored_images(count, 0)["image"][:]}, features=Features({image: Image()}))
    return pictures.add_column("label", [i % number for i in range(count)], feature=feature)


def files(folder: str = "data", **splits: Dataset) -> dict[str, bytes]:
    """The Parquet files of a dataset on the Hub."""
    contents = {f"{folder}/{split}-00000-of-00001.parquet": io.BytesIO() for split in splits}
    for file, part in zip(contents.values(), splits.values(), strict=True):
        part.to_parquet(file)
    return {path: file.getvalue() for path, file in contents.items()}


def contents() -> dict[str, dict[str, bytes]]:
    """Columns, splits and kinds of labels as the pages of the datasets say."""
    named = images(40, NAMED)
    shadow = images(40, NAMED, image="shadow").remove_columns("label")
    cifar = concatenate_datasets([images(40, NAMED, image="img"), shadow], axis=1)
    unlabelled = (
        images(20, NAMED).remove_columns("label").add_column("label", [-1] * 20, feature=ClassLabel(names=NAMED))
    )
    digits, numbers = images(100, DIGIT_NAMES), images(30, ["one", "two"])
    return {
        "uoft-cs/cifar10": files(train=cifar, test=cifar.select(range(30))),
        "tanganke/stl10": files(train=named, test=named),
        "tanganke/gtsrb": files(train=images(430, 43), test=images(86, 43)),
        "ufldl-stanford/svhn": {
            "README.md": SVHN.encode(),
            **files("cropped_digits", train=digits, test=digits, extra=digits),
            **files("full_numbers", train=numbers, test=numbers),
        },
        "Rapidata/Animals-10": files(train=images(150, 10)),
        "clane9/imagenet-100": files(train=named, validation=named),
        "zh-plus/tiny-imagenet": files(train=named, valid=named),
        "ILSVRC/imagenet-1k": files(train=images(60, NAMED), validation=named, test=unlabelled),
    }


@pytest.fixture(scope="module")
def hub():
    with LocalHub({TOKEN: "someone"}) as hub:
        for repo_id, content in contents().items():
            hub.add("datasets", repo_id).add_commit("main", content)
        animals = hub.repositories["datasets", "Rapidata/Animals-10"]
        animals.add_commit("odd", files(train=images(165, 11)))
        animals.add_commit("named", files(train=images(150, [name.upper() for name in ANIMALS])))
        yield hub


@pytest.fixture(scope="module")
def loaded(hub, place) -> dict[str, dict | str]:
    """What was loaded, or the refusal, of each of ASKED, by one process."""
    done = run_as_user(hub, place, "-c", LOAD, json.dumps(ASKED))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("name", "sizes", "reported"),
    [
        ("uoft-cs/cifar10", (36, 4, 30), "test"),
        ("tanganke/stl10", (36, 4, 40), "test"),
        ("tanganke/gtsrb", (387, 43, 86), "test"),
        ("ufldl-stanford/svhn", (90, 10, 100), "test"),
        ("Rapidata/Animals-10", (121, 14, 15), "test[10% held out of train by seed 0]"),
        ("clane9/imagenet-100", (36, 4, 40), "validation"),
        ("zh-plus/tiny-imagenet", (36, 4, 40), "valid"),
        ("imagenet, drawn", (12, 6, 6), "validation"),
        ("imagenet, whole", (54, 6, 40), "validation"),
    ],
)
def test_the_id_of_a_known_dataset_is_all_that_has_to_be_given(hub, loaded, name, sizes, reported):
    found, repo_id = loaded[name], ASKED[name][0]
    balance = found["balance"]
    assert {split: sum(counts.values()) for split, counts in balance.items()} == dict(
        zip(("train", "validation", "test"), sizes, strict=True)
    )
    config_name = "cropped_digits" if "svhn" in name else None
    commit = hub.repositories["datasets", repo_id].commit()
    assert found["source"] == {"name": repo_id, "config": config_name, "revision": commit, "split": reported}
    assert found["commit"] == commit


@pytest.mark.parametrize(
    ("name", "names"), [("tanganke/gtsrb", TRAFFIC_SIGNS), ("Rapidata/Animals-10", ANIMALS), ("tanganke/stl10", NAMED)]
)
def test_plain_integers_get_the_names_that_are_known_and_named_classes_keep_theirs(loaded, name, names):
    assert list(loaded[name]["balance"]["train"]) == list(names)


def test_what_the_dataset_says_of_its_classes_comes_before_what_is_known(loaded):
    assert list(loaded["animals, named"]["balance"]["test"]) == [name.upper() for name in ANIMALS]


def test_another_number_of_classes_than_the_known_one_is_refused(loaded):
    expected = 'The split "train" of "Rapidata/Animals-10" has labels 10, expected 0 to 9.'
    assert loaded["animals, odd"] == expected


def test_what_the_user_says_comes_first(loaded):
    other = loaded["svhn, other configuration"]
    assert (other["source"]["config"], list(other["balance"]["test"])) == ("full_numbers", ["one", "two"])
    turned = loaded["cifar, other splits"]
    assert sum(turned["balance"]["test"].values()) == 40
    assert turned["source"]["split"] == "train"
    assert loaded["cifar, other column"]["balance"] == loaded["uoft-cs/cifar10"]["balance"]


def test_labels_that_imagenet_keeps_to_itself_are_not_reported_on(loaded):
    assert loaded["imagenet, validation split"] == (
        'The split "test" of "ILSVRC/imagenet-1k" has labels -1, expected 0 to 2.'
    )


def test_imagenet_is_not_downloaded_by_mistake(loaded):
    assert loaded["ILSVRC/imagenet-1k"] == (
        '"ILSVRC/imagenet-1k" is streamed but max_train_samples is None: say by max_train_samples and max_eval_samples '
        "(limit in an audit) how many images to draw, or set streaming to False to download all."
    )


def test_nothing_is_known_of_a_folder_of_that_name(tmp_path, monkeypatch):
    assert known_dataset("uoft-cs/cifar10").image_column == "img"
    (tmp_path / "uoft-cs" / "cifar10").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert known_dataset("uoft-cs/cifar10") == known_dataset("someone/colours") == NOTHING_KNOWN


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("imagenet-1k", "ILSVRC/imagenet-1k"),
        ("ilsvrc/ImageNet-1K", "ILSVRC/imagenet-1k"),
        ("cifar10", "uoft-cs/cifar10"),
        ("svhn", "ufldl-stanford/svhn"),
        ("Maysee/tiny-imagenet", "zh-plus/tiny-imagenet"),
    ],
)
def test_names_that_the_hub_redirects_are_known_too(name, known):
    assert known_dataset(name) == KNOWN_DATASETS[known]


def test_traffic_signs_are_the_43_of_the_benchmark():
    assert len(set(TRAFFIC_SIGNS)) == 43
    assert [TRAFFIC_SIGNS[i] for i in (0, 12, 14, 17, 40)] == [
        *("speed limit 20", "priority road", "stop", "no entry", "roundabout mandatory"),
    ]
