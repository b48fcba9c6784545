import io
import json
import logging
import shutil
import zlib
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import CLASSES, colored_images
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset
from PIL import Image as PILImage
from transformers import ViTImageProcessor

from genaf_hf import load_images, with_pixel_values
from genaf_hf.data import check_enough_to_train, digits, load_unlabelled_images, stratified_subset, to_rgb
from genaf_hf.errors import UserError

KINDS = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What is read goes with the test; `datasets` waits five seconds after each stream of Parquet files it leaves."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def saved(tmp_path):
    """A function that saves splits by `save_to_disk` and returns the folder."""

    def save(**splits: Dataset) -> str:
        DatasetDict(splits).save_to_disk(tmp_path / "saved")
        return str(tmp_path / "saved")

    return save


def with_labels(labels: list, feature=None) -> Dataset:
    pictures = colored_images(len(labels), 3).remove_columns("label")
    return pictures.add_column("label", labels, feature=feature)


def picture_folder(folder: Path, classes=("cat", "dog"), count: int = 20, suffix: str = ".png") -> Path:
    for index, picture in enumerate(colored_images(count, 4)["image"][:]):
        place = folder / classes[index % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{index:02}{suffix}")
    return folder


def contents(dataset: Dataset) -> list[bytes]:
    return [example["image"]["bytes"] for example in dataset]


def assert_one_sentence(refusal) -> None:
    assert "\n" not in str(refusal.value)


# ---- the default ----


@pytest.fixture(scope="module")
def default() -> DatasetDict:
    return load_images("digits")


def test_digits_have_the_documented_shape(default):
    assert {split: len(part) for split, part in default.items()} == {"train": 1167, "validation": 130, "test": 500}
    for part in default.values():
        assert sorted(part.column_names) == ["image", "label"]
        assert part.features["label"].names == [str(digit) for digit in range(10)]
        assert len(set(part["label"])) == 10
    first = to_rgb(default["train"][0]["image"])
    assert (first.size, first.mode) == ((8, 8), "RGB")
    assert max(high for _, high in to_rgb(default["train"][0]["image"]).getextrema()) > 200


def test_digits_are_1297_and_500_before_anything_is_held_out():
    splits = digits()
    assert {split: len(part) for split, part in splits.items()} == {"train": 1297, "test": 500}
    for part in splits.values():
        assert all(count > 0.09 * len(part) for count in Counter(part["label"]).values())


def test_digits_are_the_same_every_time(default):
    again = load_images("digits")
    for split in default:
        assert contents(default[split]) == contents(again[split])
        assert default[split]["label"][:] == again[split]["label"][:]


def test_a_folder_named_digits_is_not_mistaken_for_the_default(tmp_path, monkeypatch):
    picture_folder(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert load_images("digits")["train"].features["label"].names == ["cat", "dog"]


# ---- folders ----


def test_a_folder_of_parquet_files(tmp_path, dataset):
    for split, part in dataset.items():
        part.to_parquet(tmp_path / f"{split}.parquet")
    loaded = load_images(str(tmp_path))
    assert {split: len(part) for split, part in loaded.items()} == {"train": 48, "validation": 12, "test": 18}
    for split, part in dataset.items():
        assert loaded[split].features["label"].names == CLASSES
        assert loaded[split]["label"][:] == part["label"][:]
        assert [to_rgb(each).tobytes() for each in loaded[split]["image"]] == [each.tobytes() for each in part["image"]]


def test_pictures_beside_tables_are_illustrations(tmp_path, dataset):
    dataset["train"].to_parquet(tmp_path / "train.parquet")
    for name in ("logo", "figure"):
        PILImage.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    assert sum(map(len, load_images(str(tmp_path)).values())) == 48


def test_images_in_class_folders(tmp_path):
    for split, count in (("train", 24), ("test", 6)):
        picture_folder(tmp_path / split, count=count)
    loaded = load_images(str(tmp_path))
    assert {split: len(part) for split, part in loaded.items()} == {"train": 22, "validation": 2, "test": 6}
    assert loaded["train"].features["label"].names == ["cat", "dog"]
    for example in loaded["test"]:
        assert Path(example["image"]["path"]).parent.name == ["cat", "dog"][example["label"]]


def test_a_saved_dataset_dict(saved, dataset):
    loaded = load_images(saved(**dataset))
    assert {split: len(part) for split, part in loaded.items()} == {"train": 48, "validation": 12, "test": 18}


@pytest.mark.parametrize(("kind", "columns"), [("torch", None), ("numpy", ["label"])])
def test_a_saved_dataset_is_read_whatever_format_it_had(saved, dataset, kind, columns):
    folder = saved(train=dataset["train"].with_format(kind, columns))
    again = load_images(folder)["train"]
    assert again.column_names == ["image", "label"]
    assert {type(label) for label in again["label"]} == {int}


@pytest.mark.slow(reason="imports pandas")
def test_encoded_images_as_pandas_writes_them_are_found(tmp_path, dataset):
    (tmp_path / "bytes").mkdir()
    (tmp_path / "structs").mkdir()
    encoded = [example["image"] for example in dataset["train"].cast_column("image", Image(decode=False))]
    labels = [CLASSES[label] for label in dataset["train"]["label"]]
    pd.DataFrame({"picture": encoded, "label": labels}).to_parquet(tmp_path / "structs" / "train.parquet")
    only_bytes = [each["bytes"] for each in encoded]
    pd.DataFrame({"picture": only_bytes, "label": labels}).to_parquet(tmp_path / "bytes" / "train.parquet")
    limits = {"max_train_samples": 20, "max_eval_samples": 9}
    for folder in ("bytes", "structs"):
        for streaming in (False, True):
            images = load_images(str(tmp_path / folder), streaming=streaming, **limits)["train"]
            assert len(images) == 20
            assert {*contents(images)} <= {*only_bytes}


def test_class_folders_in_an_archive_are_refused(tmp_path):
    shutil.make_archive(str(tmp_path / "photos"), "zip", picture_folder(tmp_path / "source"))
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(UserError, match=r'class folders within "photos.zip", which are not read there: unpack it'):
        load_images(str(tmp_path))


def test_a_saved_dataset_without_splits_is_all_train(tmp_path, dataset):
    dataset["train"].save_to_disk(tmp_path / "saved")
    loaded = load_images(str(tmp_path / "saved"))
    assert sum(len(part) for part in loaded.values()) == 48


@pytest.mark.parametrize("name", ["nobody/nothing", "/no/such/folder", "no such name"])
def test_an_unknown_dataset_is_refused(name):
    with pytest.raises(ValueError, match=f'"{name}"') as refusal:
        load_images(name)
    assert_one_sentence(refusal)


@pytest.mark.parametrize("name", ["phtos", "photo", "data/phtos", "./phtos"])
def test_a_misspelt_folder_is_refused_before_the_hub_is_asked(tmp_path, monkeypatch, name):
    for folder in ("photos", "data/photos"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    nearest = "data/photos" if "data" in name else "photos"
    with pytest.raises(ValueError, match=f'There is no folder "{name}": did you mean "{nearest}", or name a'):
        load_images(name)


def test_a_known_dataset_is_no_misspelt_folder(tmp_path, monkeypatch):
    (tmp_path / "cifar").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='The dataset "cifar10" cannot be loaded'):
        load_images("cifar10")


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_no_dataset(tmp_path, monkeypatch, name):
    picture_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f'The dataset is "{name}", expected a folder'):
        load_images(name)


def test_a_home_that_no_shell_filled_in_is_told(tmp_path, monkeypatch):
    picture_folder(tmp_path / "photos")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=f'no folder "~/photos": did you mean "{tmp_path}/photos"'):
        load_images("~/photos")


def test_a_file_is_no_dataset(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"zip")
    with pytest.raises(ValueError, match=r'photos.zip" is a file, expected a folder'):
        load_images(str(tmp_path / "photos.zip"))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f'"{tmp_path}" cannot be loaded') as refusal:
        load_images(str(tmp_path))
    assert_one_sentence(refusal)


@pytest.mark.parametrize("where", [slice(0, None), slice(100, 400), slice(-20, None)])
def test_a_broken_parquet_file_is_refused(tmp_path, dataset, where):
    dataset["train"].to_parquet(tmp_path / "train.parquet")
    content = bytearray((tmp_path / "train.parquet").read_bytes())
    content[where] = bytes(len(content[where]))
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=f'"{tmp_path}" cannot be loaded: ') as refusal:
        load_images(str(tmp_path))
    assert_one_sentence(refusal)


def test_files_that_datasets_finds_no_split_for_are_told(tmp_path, dataset, caplog):
    for name in ("train", "more"):
        dataset["train"].to_parquet(tmp_path / f"{name}.parquet")
    assert sum(map(len, load_images(str(tmp_path)).values())) == 48
    assert '1 of 2 files are left out, "more.parquet"' in caplog.text


def test_images_that_the_metadata_does_not_name_are_told(tmp_path, caplog):
    rows = []
    for i, picture in enumerate(colored_images(60, 4)["image"][:]):
        picture.save(tmp_path / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "label": "ab"[i % 2]}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows[:40]))
    assert sum(map(len, load_images(str(tmp_path)).values())) == 40
    assert "20 of 60 images are left out, which its metadata does not name" in caplog.text


def test_an_unknown_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'coarse' not found") as refusal:
        load_images(str(picture_folder(tmp_path)), config_name="coarse")
    assert_one_sentence(refusal)


# ---- columns ----


def test_columns_of_any_name_are_found_by_their_kind(saved, dataset):
    renamed = {split: part.rename_columns({"image": "img", "label": "fine"}) for split, part in dataset.items()}
    renamed = {split: part.add_column("id", list(range(len(part)))) for split, part in renamed.items()}
    loaded = load_images(saved(**renamed))
    assert sorted(loaded["train"].column_names) == ["image", "label"]
    assert loaded["train"]["label"][:] == dataset["train"]["label"][:]


def test_named_columns_win(saved, dataset):
    train = dataset["train"]
    other = train.rename_columns({"image": "mask", "label": "coarse"}).select(range(47, -1, -1))
    train = datasets.concatenate_datasets([train, other], axis=1)
    loaded = load_images(saved(train=train, validation=train, test=train), image_column="mask", label_column="coarse")
    assert loaded["train"]["label"][:] == dataset["train"]["label"][::-1]
    assert to_rgb(loaded["train"][0]["image"]).tobytes() == dataset["train"][47]["image"].tobytes()


def test_ambiguous_columns_are_refused_by_their_names(saved, dataset):
    train = dataset["train"]
    masks, coarse = (train.select_columns(name).rename_column(name, f"second_{name}") for name in ("image", "label"))
    two_images = datasets.concatenate_datasets([train, masks], axis=1)
    two_labels = datasets.concatenate_datasets([train, coarse], axis=1)
    with pytest.raises(ValueError, match=r"2 columns could be the image: found image, second_image .* --image_column"):
        load_images(saved(train=two_images))
    with pytest.raises(ValueError, match=r"2 columns could be the label: found label, second_label .* --label_column"):
        load_images(saved(train=two_labels))


@pytest.mark.parametrize(("missing", "rest"), [("image", "label"), ("label", "image")])
def test_missing_columns_are_refused_by_the_names_that_are_there(saved, dataset, missing, rest):
    with pytest.raises(ValueError, match=f"0 columns could be the {missing}: found none among {rest}"):
        load_images(saved(train=dataset["train"].remove_columns(missing)))


@pytest.mark.parametrize("column", ["image_column", "label_column"])
def test_a_named_column_that_is_not_there_is_refused(saved, dataset, column):
    with pytest.raises(ValueError, match='no column "thing"; the dataset has image, label'):
        load_images(saved(**dataset), **{column: "thing"})


def test_a_column_that_is_missing_in_one_split_is_refused(saved, dataset):
    with pytest.raises(ValueError, match=r'split "test" .* has no column "label", only image'):
        load_images(saved(train=dataset["train"], test=dataset["test"].remove_columns("label")))


def test_one_column_for_both_is_refused(saved, dataset):
    with pytest.raises(UserError, match='"label" is named for images and for labels'):
        load_images(saved(**dataset), image_column="label")
    with pytest.raises(UserError, match=r'"label" holds ClassLabel.*, expected images'):
        load_images(saved(**dataset), image_column="label", label_column="image")


@pytest.mark.parametrize("feature", [Value("null"), {"file": Value("string")}])
def test_columns_of_nothing_and_of_other_things_are_no_images(saved, dataset, feature):
    train = dataset["train"].add_column("odd", [None] * 48, feature=feature)
    with pytest.raises(UserError, match=r'"odd" holds .*, expected images'):
        load_images(saved(train=train), image_column="odd")


def test_a_column_without_images_is_refused(saved, dataset):
    train = dataset["train"].add_column("id", list(range(48)))
    with pytest.raises(ValueError, match=r"\"id\" holds Value\('int64'\), expected images"):
        load_images(saved(train=train), image_column="id")


def test_a_column_of_lists_is_no_label(saved):
    with pytest.raises(ValueError, match=r"List\(Value\('int64'\)\), expected one class per image"):
        load_images(saved(train=with_labels([[0], [1, 2]] * 10)))


# ---- labels ----


@pytest.mark.parametrize(
    ("labels", "names"),
    [(["zebra", "ant"], ["ant", "zebra"]), ([10, 9], ["9", "10"]), ([True, False], ["False", "True"])],
)
def test_plain_labels_become_class_labels(saved, labels, names):
    train, test = with_labels(labels * 20), with_labels(labels[::-1] * 5)
    loaded = load_images(saved(train=train, test=test))
    for part in loaded.values():
        assert part.features["label"] == ClassLabel(names=names)
    ids = [names.index(str(label)) for label in labels]
    assert loaded["test"]["label"][:] == ids[::-1] * 5


@pytest.mark.parametrize("missing", [-1, None])
def test_a_split_without_any_label_is_left_out_and_told(saved, missing, caplog):
    feature = ClassLabel(names=["a", "b"])
    splits = {"train": with_labels([0, 1] * 20, feature), "test": with_labels([missing] * 6, feature)}
    images = load_images(saved(**splits))
    assert 'No image of the split "test" has a label: it is left out' in caplog.text
    assert {split: len(part) for split, part in images.items()} == {"train": 32, "validation": 4, "test": 4}
    assert str(images["test"].split) == "test[10% held out of train by seed 0]"
    with pytest.raises(UserError, match=r'split "test" .* has labels'):
        load_images(saved(**splits), test_split="test")


def test_a_subset_of_one_class_is_told_as_a_subset(saved, dataset):
    with pytest.raises(UserError, match=r"subset of 1 \(max_eval_samples, limit in an audit\) .* has the one class"):
        load_images(saved(**dataset), max_eval_samples=1)


def test_names_of_classes_may_be_bytes(saved):
    assert load_images(saved(train=with_labels([b"cat", b"dog"] * 20)))["train"].features["label"].names == [
        "cat",
        "dog",
    ]


def test_a_class_that_only_one_split_has_keeps_the_ids_equal(saved):
    loaded = load_images(saved(train=with_labels(["b", "c"] * 20), test=with_labels(["a", "c"] * 5)))
    assert loaded["train"].features["label"].names == loaded["test"].features["label"].names == ["a", "b", "c"]
    assert set(loaded["train"]["label"]) == {1, 2}
    assert set(loaded["test"]["label"]) == {0, 2}


@pytest.mark.parametrize("label", [-1, None])
def test_a_label_outside_the_classes_is_refused(saved, label):
    train = with_labels([0, 1] * 10 + [label], ClassLabel(names=["a", "b"]))
    with pytest.raises(ValueError, match=f'split "train" .* has labels {label}, expected 0 to 1'):
        load_images(saved(train=train))


@pytest.mark.parametrize("missing", [None, "", " ", "nan", "NaN", "<NA>", "NaT"])
def test_missing_plain_labels_are_refused(saved, missing):
    with pytest.raises(ValueError, match=r"no label \(1 of them\)"):
        load_images(saved(train=with_labels(["a", "b"] * 10 + [missing])))


@pytest.mark.parametrize("count", [1, 2])
def test_labels_that_are_no_number_are_missing(saved, count):
    train = with_labels([0.0, 1.0] * 10 + [float("nan")] * count, Value("float64"))
    with pytest.raises(ValueError, match=rf"no label \({count} of them\)"):
        load_images(saved(train=train, test=with_labels([0.0, 1.0], Value("float64"))))


def test_a_class_that_stands_for_no_label_is_refused_where_it_has_images(saved):
    names = ClassLabel(names=["a", "b", "nan"])
    with pytest.raises(ValueError, match='2 images of the class "nan", as if they had no label'):
        load_images(saved(train=with_labels([0, 1] * 20 + [2] * 2, names)))
    assert len(load_images(saved(train=with_labels([0, 1] * 20, names)))["train"]) > 0


@pytest.mark.parametrize(
    "alike",
    [
        ("cafe\u0301", "caf\u00e9"),
        ("cat", "cat "),
        ("cat", "cat\u200b"),
        ("big cat", "big\u00a0cat"),
        ("cat", "\u0441\u0430t"),
    ],
)
def test_classes_that_look_the_same_are_refused(saved, alike):
    with pytest.raises(ValueError, match="look the same") as refusal:
        load_images(saved(train=with_labels([*alike, "dog"] * 10)))
    assert all(ascii(name) in str(refusal.value) for name in alike)


@pytest.mark.parametrize("alike", [("cat", "Cat"), ("big cat", "big_cat"), ("file", "\ufb01le")])
def test_classes_that_differ_by_little_are_told(saved, alike, caplog):
    assert len(load_images(saved(train=with_labels([*alike, "dog"] * 20)))["train"].features["label"].names) == 3
    assert "differ by little: if they are one, give it one name" in caplog.text


def test_a_class_that_is_only_tested_is_told(saved, dataset, caplog):
    two = dataset["train"].filter(lambda example: example["label"] != 1)
    load_images(saved(train=two, validation=two, test=dataset["test"]))
    assert 'The classes "green" of test have no image to train on' in caplog.text


def test_fewer_images_to_train_on_than_classes_are_refused(saved, dataset):
    parts = {"validation": dataset["validation"], "test": dataset["test"]}
    few = load_images(saved(train=dataset["train"], **parts), max_train_samples=2)
    with pytest.raises(ValueError, match="2 images to train on but 3 classes, expected at least one image of each"):
        check_enough_to_train(few)
    check_enough_to_train(dataset)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_with_one_class_is_refused(saved, dataset, split):
    one = dataset[split].filter(lambda example: example["label"] == 1)
    with pytest.raises(ValueError, match=f'split "{split}" .* has the one class "green", expected at least two'):
        load_images(saved(**{**dataset, split: one}))


@pytest.mark.parametrize("feature", [ClassLabel(names=["b", "a"]), Value("int64")])
def test_splits_whose_labels_mean_different_things_are_refused(saved, feature):
    train, test = with_labels([0, 1] * 10, ClassLabel(names=["a", "b"])), with_labels([0, 1] * 10, feature)
    with pytest.raises(ValueError, match=r'split "test" .* has other labels than the one to train on') as refusal:
        load_images(saved(train=train, test=test))
    assert str(feature) in str(refusal.value)


# ---- splits ----


def test_all_three_splits_stay_as_they_are(saved, dataset):
    loaded = load_images(saved(**dataset))
    for split, part in dataset.items():
        assert loaded[split]["label"][:] == part["label"][:]


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_the_usual_names_of_a_validation_split_are_known(saved, dataset, name):
    parts = {"train": dataset["train"], name: dataset["validation"], "test": dataset["test"]}
    assert {split: len(part) for split, part in load_images(saved(**parts)).items()} == {
        "train": 48,
        "validation": 12,
        "test": 18,
    }


def test_without_a_test_split_validation_is_reported_and_never_chosen_by(saved, dataset):
    loaded = load_images(saved(train=dataset["train"], validation=dataset["validation"]))
    assert [to_rgb(each).tobytes() for each in loaded["test"]["image"]] == [
        each.tobytes() for each in dataset["validation"]["image"]
    ]
    assert (len(loaded["train"]), len(loaded["validation"])) == (43, 5)


def test_only_train_is_split_in_three_disjoint_parts_with_the_same_shares(saved, caplog):
    labels = [0] * 60 + [1] * 30 + [2] * 30
    folder = saved(train=with_labels(labels, ClassLabel(names=CLASSES)))
    with caplog.at_level(logging.INFO, "genaf_hf.data"):
        loaded = load_images(folder, held_out_share=0.2)
    assert {split: len(part) for split, part in loaded.items()} == {"train": 77, "validation": 19, "test": 24}
    every = [content for part in loaded.values() for content in contents(part)]
    assert len(set(every)) == len(every) == 120
    for part in loaded.values():
        assert Counter(part["label"])[0] / len(part) == pytest.approx(0.5, abs=0.03)
    assert "No test split: 24 images held out of train by seed 0" in caplog.text
    assert "No validation split: 19 images held out of train by seed 0" in caplog.text
    assert {role: str(split.split or role) for role, split in loaded.items()} == {
        "train": "train",
        "validation": "validation[20% held out of train by seed 0]",
        "test": "test[20% held out of train by seed 0]",
    }


def test_what_is_held_out_depends_on_the_seed_alone(saved, dataset):
    folder = saved(train=dataset["train"])
    first, again, other = (contents(load_images(folder, seed=seed)["test"]) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_named_splits_win(saved, dataset):
    parts = {
        "train": dataset["train"],
        "extra": dataset["validation"],
        "test": dataset["test"],
        "final": dataset["test"],
    }
    loaded = load_images(saved(**parts), train_split="test", validation_split="extra", test_split="final")
    assert {split: len(part) for split, part in loaded.items()} == {"train": 18, "validation": 12, "test": 18}


@pytest.mark.parametrize("role", ["train_split", "validation_split", "test_split"])
def test_a_named_split_that_is_not_there_is_refused(saved, dataset, role):
    with pytest.raises(ValueError, match='no split "gold"; the dataset has train, validation, test'):
        load_images(saved(**dataset), **{role: "gold"})


def test_nothing_to_train_on_is_refused(saved, dataset):
    with pytest.raises(ValueError, match="no split to train on among test; name one with --train_split"):
        load_images(saved(test=dataset["test"]))


def test_an_empty_split_is_refused(tmp_path, dataset):
    dataset["train"].to_parquet(tmp_path / "train.parquet")
    dataset["test"].select([]).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match='"test"') as refusal:
        load_images(str(tmp_path))
    assert_one_sentence(refusal)


def test_too_few_images_to_hold_any_out_are_refused(saved, dataset):
    with pytest.raises(ValueError, match="9 images of 3 classes are too few to hold a test split out of"):
        load_images(saved(train=dataset["train"].select(range(9))))


def test_a_class_of_one_image_that_cannot_be_held_out_is_named(saved):
    train = with_labels([0, 1] * 20 + [2], ClassLabel(names=CLASSES))
    with pytest.raises(ValueError, match='too few images of the class "blue" to hold a test split out of train'):
        load_images(saved(train=train))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_a_held_out_share_that_is_no_share_is_refused(saved, dataset, share):
    with pytest.raises(ValueError, match=f"held_out_share is {share}, expected"):
        load_images(saved(train=dataset["train"]), held_out_share=share)


# ---- without labels ----


def test_images_in_a_folder_without_classes_are_all_trained_on(tmp_path):
    for index, picture in enumerate(colored_images(5, 4)["image"][:]):
        picture.save(tmp_path / f"{index}.png")
    with pytest.raises(ValueError, match="has images but no class folders: expected a folder for each class"):
        load_images(str(tmp_path))
    found = load_unlabelled_images(str(tmp_path))
    assert found.column_names == ["image"]
    assert sorted(Path(image["path"]).name for image in found["image"]) == [f"{index}.png" for index in range(5)]
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    assert {name: value.shape for name, value in with_pixel_values(found, processor)[:].items()} == {
        "pixel_values": (5, 3, 8, 8)
    }


def test_labels_that_no_classifier_can_be_trained_on_are_passed_over(saved, dataset):
    train = dataset["train"].filter(lambda example: example["label"] == 1).rename_column("image", "img")
    found = load_unlabelled_images(saved(train=train, test=dataset["test"]))
    assert found.column_names == ["image"]
    assert [to_rgb(image).tobytes() for image in found["image"]] == [image.tobytes() for image in train["img"]]


def test_nothing_is_held_out_where_no_labels_are_read(saved, dataset):
    folder = saved(train=dataset["train"], extra=dataset["validation"])
    assert len(load_unlabelled_images(folder)) == 48
    assert len(load_unlabelled_images(folder, train_split="extra")) == 12
    assert len(load_unlabelled_images("digits")) == 1297


def test_some_images_are_drawn_by_the_seed(saved, dataset):
    folder = saved(train=dataset["train"])
    first, again, other = (contents(load_unlabelled_images(folder, max_samples=9, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert len(set(first)) == 9
    assert set(first) != set(other)
    assert len(load_unlabelled_images(folder, max_samples=100)) == 48


def test_what_is_wrong_with_unlabelled_images_is_said(saved, tmp_path, dataset):
    train = dataset["train"].add_column("id", list(range(48)))
    folder = saved(train=train)
    for name in ("broken", "empty"):
        (tmp_path / name).mkdir()
    train.select([]).to_parquet(tmp_path / "empty" / "train.parquet")
    (tmp_path / "broken" / "one.png").write_bytes(b"no picture")
    refused = {
        'empty" cannot be loaded': (str(tmp_path / "empty"), {}),
        'There is no split "gold"': (folder, {"train_split": "gold"}),
        'The column "id" holds .*, expected images': (folder, {"image_column": "id"}),
        "max_train_samples is 0, expected at least 1 image": (folder, {"max_samples": 0}),
        r'Image .*one.png in the split "train" .* cannot be read': (str(tmp_path / "broken"), {}),
        'The dataset "nobody/nothing" cannot be loaded': ("nobody/nothing", {}),
    }
    for sentence, (name, settings) in refused.items():
        with pytest.raises(ValueError, match=sentence) as refusal:
            load_unlabelled_images(name, **settings)
        assert_one_sentence(refusal)


# ---- images ----


def broken_folder(folder: Path, count: int) -> list[Path]:
    """A folder of 40 images of which as many are broken, and those."""
    files = sorted(picture_folder(folder, count=40).rglob("*.png"))[::5][:count]
    for file in files:
        file.write_bytes(file.read_bytes()[:60])
    return files


@pytest.mark.parametrize("count", [2, 5, 7])
def test_broken_images_of_all_splits_are_named_at_once(tmp_path, count):
    files = broken_folder(tmp_path, count)
    for load in (load_images, load_unlabelled_images):
        with pytest.raises(ValueError, match="leave it out with --skip_broken_images") as refusal:
            load(str(tmp_path))
        assert_one_sentence(refusal)
        assert sum(str(file) in str(refusal.value) for file in files) == min(count, 5)
        assert ("nor can 2 others" in str(refusal.value)) == (count == 7)


def test_broken_images_are_left_out_where_that_is_asked_for(tmp_path, caplog):
    files = broken_folder(tmp_path, 7)
    splits = load_images(str(tmp_path), skip_broken_images=True)
    kept = [image["path"] for part in splits.values() for image in part["image"]]
    assert len(kept) == 33
    assert not {str(file) for file in files} & set(kept)
    assert "7 images are left out, for they cannot be read: Image " in caplog.text
    assert len(load_unlabelled_images(str(tmp_path), skip_broken_images=True)) == 33


def test_a_broken_image_of_an_endless_name_is_refused_in_few_words(saved):
    images = [*whole_images(40), {"bytes": b"broken", "path": "a\n" * 2**19}]
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=["a", "b"])})
    train = Dataset.from_dict({"image": images, "label": [i % 2 for i in range(41)]}, features=features)
    with pytest.raises(ValueError, match="cannot be read") as refusal:
        load_images(saved(train=train, test=train))
    assert_one_sentence(refusal)
    assert len(str(refusal.value)) < 5000


def test_nothing_left_but_broken_images_is_refused(tmp_path):
    broken_folder(tmp_path, 8)
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        load_images(str(tmp_path), skip_broken_images=True)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "PA", "CMYK", "1", "LA", "YCbCr"])
@pytest.mark.parametrize("gray", [0, 255])
def test_eight_bit_modes_become_rgb(mode, gray):
    shown = PILImage.new("L", (5, 4), gray).convert("RGB").convert(mode if mode != "PA" else "P").convert(mode)
    converted = to_rgb(shown)
    assert (converted.mode, converted.size) == ("RGB", (5, 4))
    assert converted.getpixel((2, 2)) == pytest.approx((gray,) * 3, abs=1)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("P", ".gif"), ("RGBA", ".png"), ("CMYK", ".jpg"), ("L", ".jpg"), ("1", ".png")]
)
def test_files_of_eight_bit_modes_are_read(tmp_path, mode, suffix):
    picture_folder(tmp_path)
    for index in range(4):
        PILImage.new(mode, (6, 8), index % 2).save(tmp_path / ("cat", "dog")[index % 2] / f"other{index}{suffix}")
    loaded = load_images(str(tmp_path))
    assert sum(len(part) for part in loaded.values()) == 24
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    for part in loaded.values():
        assert with_pixel_values(part, processor)[:]["pixel_values"].shape == (len(part), 3, 8, 8)


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", ".png"), ("I", ".tiff"), ("F", ".tiff")])
def test_other_depths_are_refused_by_file_and_mode(tmp_path, mode, suffix):
    deep = picture_folder(tmp_path) / "cat" / f"deep{suffix}"
    PILImage.new(mode, (8, 8)).save(deep)
    with pytest.raises(
        ValueError, match=f"Image {deep} in the split .*{mode}.*, expected 8 bits per channel"
    ) as refusal:
        load_images(str(tmp_path))
    assert_one_sentence(refusal)


@pytest.mark.parametrize("kept", [0, 30, 0.5])
def test_a_truncated_jpeg_is_refused_by_its_name(tmp_path, kept):
    picture_folder(tmp_path, suffix=".jpg")
    broken = tmp_path / "dog" / "03.jpg"
    content = broken.read_bytes()
    broken.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match=f"Image {broken} in the split .* cannot be read") as refusal:
        load_images(str(tmp_path))
    assert_one_sentence(refusal)


def test_a_picture_of_absurd_size_is_refused_by_its_name(tmp_path):
    huge = picture_folder(tmp_path) / "cat" / "huge.png"
    header = io.BytesIO()
    PILImage.new("1", (1, 1)).save(header, "png")
    content = bytearray(header.getvalue())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    huge.write_bytes(content)
    with pytest.raises(ValueError, match=f"Image {huge} in the split .*3600000000 pixels"):
        load_images(str(tmp_path))


def test_a_missing_image_is_refused_by_its_number(saved):
    pictures = [*colored_images(32, 3)["image"][:], None]
    train = Dataset.from_dict({"image": pictures, "label": [0, 1, 2] * 11}, features=KINDS)
    with pytest.raises(ValueError, match="Image number 32 in the split"):
        load_images(saved(train=train))


def test_a_turned_photograph_is_upright_as_datasets_shows_it(tmp_path):
    picture_folder(tmp_path)
    turned, exif = PILImage.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 4, 3)), PILImage.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "cat" / "turned.png", exif=exif)
    shown = load_dataset("imagefolder", data_dir=str(tmp_path), split="train")
    encoded = shown.cast_column("image", Image(decode=False))
    assert (8, 4) in {picture.size for picture in shown["image"]}
    for picture, file in zip(shown["image"], encoded["image"], strict=True):
        assert to_rgb(file).tobytes() == picture.tobytes()


def encoded(picture: PILImage.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_usual_formats_are_decoded(kind):
    given = {"bytes": encoded(PILImage.new("RGB", (6, 8), (200, 200, 200)), kind), "path": None}
    assert to_rgb(given).getpixel((3, 3)) == pytest.approx((200,) * 3, abs=3)


@pytest.mark.parametrize("kind", ["EPS", "PCX", "PPM", "TGA", "ICO"])
def test_no_other_format_is_tried(kind):
    content = encoded(PILImage.new("RGB", (16, 16)), kind)
    with pytest.raises(ValueError, match="none of JPEG, PNG, WEBP, GIF, BMP, TIFF"):
        to_rgb({"bytes": content, "path": None})


@pytest.mark.parametrize(("size", "words"), [((10000, 9000), "90000000 pixels"), ((1, 201), "1 x 201 pixels")])
def test_sizes_out_of_bounds_are_refused_before_anything_is_decoded(size, words):
    with pytest.raises(ValueError, match=words):
        to_rgb({"bytes": encoded(PILImage.new("1", size), "PNG"), "path": None})


def test_an_image_without_bytes_and_path_is_missing():
    with pytest.raises(ValueError, match="it is missing"):
        to_rgb({"bytes": None, "path": None})


# ---- what strangers made ----


@pytest.fixture
def private(tmp_path) -> Path:
    """A picture of the reader's that lies in none of the datasets."""
    (tmp_path / "private").mkdir()
    PILImage.new("RGB", (8, 8), (200, 200, 200)).save(tmp_path / "private" / "secret.png")
    return tmp_path / "private" / "secret.png"


def naming(file: Path) -> Dataset:
    """Images of which every fourth is the path of a file."""
    images = [{"bytes": None, "path": str(file)} if i % 4 == 0 else each for i, each in enumerate(whole_images(40))]
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"image": images, "label": [i % 2 for i in range(40)]}, features=features)


def whole_images(count: int) -> list[dict]:
    return colored_images(count, 4).cast_column("image", Image(decode=False))["image"][:]


@pytest.mark.slow(reason="streams")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_cannot_name_files_of_its_reader(tmp_path, private, streaming):
    (tmp_path / "data").mkdir()
    pq.write_table(naming(private).data.table, tmp_path / "data" / "train.parquet")
    limits = {"max_train_samples": 20, "max_eval_samples": 5} if streaming else {}
    with pytest.raises(ValueError, match=f"names the file {private}, which is not its own") as refusal:
        load_images(str(tmp_path / "data"), streaming=streaming, **limits)
    assert_one_sentence(refusal)
    with pytest.raises(ValueError, match=f"names the file {private}, which is not its own"):
        load_unlabelled_images(str(tmp_path / "data"))


def test_a_description_cannot_take_data_from_elsewhere(tmp_path, private):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: {private.parent}/*.png\n---\n"
    )
    with pytest.raises(ValueError, match=f"names the file {private}, which is not its own"):
        load_images(str(tmp_path / "data"))


def test_what_was_saved_cannot_name_files_elsewhere(tmp_path, dataset):
    for name in ("private", "data"):
        dataset["train"].save_to_disk(tmp_path / name)
    state = json.loads((tmp_path / "data" / "state.json").read_text())
    [file] = state["_data_files"]
    file["filename"] = f"../private/{file['filename']}"
    (tmp_path / "data" / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"private/data.*arrow, which is not its own") as refusal:
        load_images(str(tmp_path / "data"))
    assert_one_sentence(refusal)


def test_a_loading_script_is_refused_and_not_run(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text("raise SystemExit\n")
    with pytest.raises(ValueError, match='data" cannot be loaded: ') as refusal:
        load_images(str(tmp_path / "data"))
    assert_one_sentence(refusal)


# ---- subsets and pixel values ----


def test_a_subset_keeps_the_shares_of_the_classes():
    whole = with_labels([0] * 50 + [1] * 30 + [2] * 20, ClassLabel(names=CLASSES))
    subset = stratified_subset(whole, 10, seed=0)
    assert Counter(subset["label"]) == {0: 5, 1: 3, 2: 2}


@pytest.mark.parametrize("count", [1, 2, 5, 19, 20])
def test_a_subset_of_any_size_is_had_also_with_a_class_of_one_image(count):
    whole = with_labels([0] * 20 + [1], ClassLabel(names=["a", "b"]))
    subset = stratified_subset(whole, count, seed=0)
    assert len(subset) == count
    assert len({image.tobytes() for image in subset["image"]}) == count


def test_a_subset_depends_on_its_seed_alone(dataset):
    first, again, other = (
        [image.tobytes() for image in stratified_subset(dataset["train"], 9, seed)["image"]] for seed in (1, 1, 2)
    )
    assert first == again
    assert set(first) != set(other)


@pytest.mark.parametrize("count", [None, 48, 1000])
def test_no_limit_keeps_all(dataset, count):
    assert stratified_subset(dataset["train"], count, seed=0) is dataset["train"]


@pytest.mark.parametrize("count", [0, -3])
def test_an_empty_subset_is_refused(dataset, count):
    with pytest.raises(ValueError, match=f"{count} images"):
        stratified_subset(dataset["train"], count, seed=0)


@pytest.mark.parametrize("limit", [0, 2**31], ids=["decoded when read", "kept in memory"])
def test_pixel_values_are_what_the_processor_makes_of_each_image(dataset, monkeypatch, limit):
    monkeypatch.setattr("genaf_hf.data.pixel_values.IN_MEMORY_BYTES", limit)
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    processor = ViTImageProcessor(size={"height": 12, "width": 12}, **statistics)
    pixels = with_pixel_values(dataset["test"], processor)
    assert len(pixels) == 18
    for index, example in enumerate(dataset["test"]):
        expected = processor(example["image"], return_tensors="pt")["pixel_values"][0]
        assert torch.equal(pixels[index]["pixel_values"], expected)
        assert pixels[index]["labels"] == example["label"]
    together = pixels[3:9]
    assert torch.equal(together["pixel_values"][2], pixels[5]["pixel_values"])
    assert together["labels"].tolist() == dataset["test"][3:9]["label"]


def test_pixel_values_of_encoded_and_of_decoded_images_are_equal(saved, dataset):
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    encoded = with_pixel_values(load_images(saved(**dataset))["test"], processor)[:]["pixel_values"]
    assert torch.equal(encoded, with_pixel_values(dataset["test"], processor)[:]["pixel_values"])
