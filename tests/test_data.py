"""Where images and labels are found."""

import json
import shutil
from collections import Counter
from pathlib import Path

import datasets
import pandas as pd
import pytest
from conftest import CLASSES, colored_images
from datasets import ClassLabel, DatasetDict, Image, Value
from PIL import Image as PILImage
from stored_images import assert_one_sentence, contents, own_cache, picture_folder, saved, with_labels

from genaf_hf import load_images
from genaf_hf.data import check_enough_to_train, digits, to_rgb
from genaf_hf.errors import UserError
from genaf_hf.values.names import some_of

__all__ = ["own_cache", "saved"]  # fixtures


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


def test_tables_of_other_classes_are_refused_where_datasets_would_read_them_by_the_first_one_s(tmp_path, dataset):
    names = dataset["train"].features["label"].names
    for split, order in (("train", names), ("test", names[::-1])):
        ids = [order.index(names[label]) for label in dataset[split]["label"]]
        part = dataset[split].remove_columns("label").add_column("label", ids, feature=ClassLabel(names=order))
        part.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=f"test.parquet of .* has the classes {some_of(names[::-1])}.*, and train.parq"):
        load_images(tmp_path)


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
    with pytest.raises(ValueError, match=r'The dataset "cifar10" is neither .* or check the spelling\.$'):
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


def test_a_folder_whose_name_is_a_pattern_is_refused_where_datasets_would_search_by_it(tmp_path):
    photos = picture_folder(tmp_path / "[2024] photos?")
    assert sum(map(len, load_images(photos).values())) == 20
    (photos / "metadata.csv").write_text("file_name,label\ncat/00.png,cat\ndog/01.png,dog\n")
    with pytest.raises(UserError, match=r'photos\?" has one of \*, \? and \[ in its path, .* rename it'):
        load_images(photos)


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


def described(folder: Path, *names: str) -> str:
    """A folder of images of these names, and a metadata.csv that says the labels a and b of them."""
    rows = ["file_name,label"]
    for i, (name, picture) in enumerate(zip(names, colored_images(len(names), 4)["image"][:], strict=True)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
        rows.append(f"{name},{'ab'[i % 2]}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return str(folder)


def test_a_metadata_table_that_is_separated_otherwise_is_refused_in_words(tmp_path):
    folder = described(tmp_path, *(f"{i}.png" for i in range(6)))
    table = tmp_path / "metadata.csv"
    table.write_text(table.read_text().replace(",", ";"))
    said = "its metadata has no column file_name, .* separate the columns of a metadata.csv by commas"
    with pytest.raises(UserError, match=said):
        load_images(folder)


@pytest.mark.parametrize("odd", ["blood test 1.png", "train-1.png", "more/validation.png"])
def test_words_in_names_say_nothing_where_metadata_does(tmp_path, odd):
    splits = load_images(described(tmp_path, odd, *(f"{i}.png" for i in range(1, 40))))
    assert sum(map(len, splits.values())) == 40
    assert splits["train"].features["label"].names == ["a", "b"]


def test_metadata_beside_folders_of_splits_is_refused(tmp_path):
    folder = described(
        tmp_path, *(f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in "xy" for i in "123")
    )
    with pytest.raises(UserError, match=r'has metadata\.csv beside the folders "test", "train", of splits'):
        load_images(folder)


def test_a_column_that_says_splits_is_told_of(saved, dataset, caplog):
    train = dataset["train"].add_column("Split", ["train"] * 40 + ["test"] * 8)
    load_images(saved(train=train))
    assert "The column Split of" in caplog.text


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


def test_a_column_of_the_usual_name_is_not_passed_over_for_another_that_has_the_type(saved, dataset, tmp_path):
    train = dataset["train"]
    words = train.cast_column("label", datasets.Value("string"))
    sex = train.select_columns("label").rename_column("label", "sex")
    with pytest.raises(ValueError, match=r"2 columns could be the label: found sex, label .* --label_column"):
        load_images(saved(train=datasets.concatenate_datasets([words, sex], axis=1)))
    masks = train.select_columns("image").rename_column("image", "mask")
    encoded = train.cast_column("image", datasets.Image(decode=False))
    rows = {"image": [each["bytes"] for each in encoded["image"]], "label": train["label"][:]}
    plain = datasets.Dataset.from_dict(rows).cast_column("label", train.features["label"])
    with pytest.raises(ValueError, match=r"2 columns could be the image: found mask, image .* --image_column"):
        load_images(saved(train=datasets.concatenate_datasets([plain, masks], axis=1)))


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


def test_a_number_below_zero_among_plain_labels_is_no_class(saved):
    with pytest.raises(ValueError, match="The label column has -1, as is written where there is no label"):
        load_images(saved(train=with_labels([0, 1] * 10 + [-1])))


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
