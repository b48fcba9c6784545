"""Which images are trained on, chosen by and reported, and how some are drawn of many."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, colored_images
from datasets import ClassLabel
from stored_images import assert_one_sentence, contents, own_cache, saved, with_labels
from transformers import ViTImageProcessor

from genaf_hf import load_images, with_pixel_values
from genaf_hf.data import load_unlabelled_images, stratified_subset, to_rgb
from genaf_hf.data.splits import choose_splits, stratified_rows
from genaf_hf.errors import UserError

__all__ = ["own_cache", "saved"]  # fixtures


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


def test_a_split_of_another_name_is_told_where_a_test_split_is_held_out(saved, dataset, caplog):
    folder = saved(train=dataset["train"], Test=dataset["test"])
    assert str(load_images(folder)["test"].split).startswith("test[10% held out of train")
    assert f'The split "Test" of "{folder}" is not used: if it is to be reported, name it with --test' in caplog.text
    caplog.clear()
    assert len(load_images(folder, test_split="Test")["test"]) == 18
    assert "is not used" not in caplog.text


@pytest.mark.parametrize(
    ("splits", "named", "known", "chosen"),
    [
        (["train", "val", "test"], {}, {}, {"train": "train", "validation": "val", "test": "test"}),
        # A validation split that is reported, as ImageNet's, is not chosen by.
        (["train", "validation", "test"], {}, {"test": "validation"}, {"train": "train", "test": "validation"}),
        (["train", "extra"], {"validation": "extra"}, {}, {"train": "train", "validation": "extra"}),
        (["train", "validation"], {}, {}, {"train": "train", "test": "validation"}),
    ],
)
def test_what_each_split_is_for(splits, named, known, chosen):
    given = {"train": None, "validation": None, "test": None, **named}
    assert choose_splits(dict.fromkeys(splits), given, known) == chosen


def test_a_split_of_two_roles_is_refused(saved, dataset):
    with pytest.raises(UserError, match="One split has several roles: "):
        load_images(saved(**dataset), validation_split="test", test_split="test")


@pytest.mark.parametrize("role", ["train_split", "validation_split", "test_split"])
def test_a_named_split_that_is_not_there_is_refused(saved, dataset, role):
    with pytest.raises(ValueError, match='no split "gold"; the dataset has train, validation, test'):
        load_images(saved(**dataset), **{role: "gold"})


def test_nothing_to_train_on_is_refused(saved, dataset):
    with pytest.raises(
        ValueError, match="no split to train on, or in an audit for attacks to be crafted on, among test; name"
    ):
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


@pytest.mark.parametrize(
    ("share", "advice"), [(0.01, "raise --held_out_share from 0.01"), (0.99, "lower --held_out_share")]
)
def test_a_share_that_leaves_too_few_on_either_side_is_told_which_way_to_go(saved, dataset, share, advice):
    with pytest.raises(UserError, match=advice):
        load_images(saved(train=dataset["train"]), held_out_share=share)


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
        'The dataset "nobody/nothing" is neither a local folder': ("nobody/nothing", {}),
    }
    for sentence, (name, settings) in refused.items():
        with pytest.raises(ValueError, match=sentence) as refusal:
            load_unlabelled_images(name, **settings)
        assert_one_sentence(refusal)


# ---- subsets and pixel values ----


def test_a_subset_keeps_the_shares_of_the_classes():
    whole = with_labels([0] * 50 + [1] * 30 + [2] * 20, ClassLabel(names=CLASSES))
    subset = stratified_subset(whole, 10, seed=0)
    assert Counter(subset["label"]) == {0: 5, 1: 3, 2: 2}


@pytest.mark.parametrize(("count", "rare"), [(9, 0), (12, 1)])
def test_a_rare_class_has_its_share_of_a_subset_and_not_more(count, rare):
    labels = np.array([0] * 95 + [1] * 5)
    assert labels[stratified_rows(labels, count, seed=0)].sum() == rare


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


def test_what_no_pixel_values_can_be_made_of_is_refused(dataset):
    test = dataset["test"]
    sentences = {
        "is a DatasetDict, expected one split": dataset,
        "is a IterableDataset, expected one split": test.to_iterable_dataset(),
        'has no column "image", only img, label: load it by load_images': test.rename_column("image", "img"),
        "labels are list, expected the class id": test.remove_columns("label").add_column("label", ["red"] * 18),
    }
    for sentence, given in sentences.items():
        with pytest.raises(UserError, match=sentence):
            with_pixel_values(given, ViTImageProcessor(size={"height": 8, "width": 8}))


def test_pixel_values_of_encoded_and_of_decoded_images_are_equal(saved, dataset):
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    encoded = with_pixel_values(load_images(saved(**dataset))["test"], processor)[:]["pixel_values"]
    assert torch.equal(encoded, with_pixel_values(dataset["test"], processor)[:]["pixel_values"])
