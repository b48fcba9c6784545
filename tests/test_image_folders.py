"""Local folders of images, of which every image is taken, or it is said which are not."""

import io
import json
import logging
import os
from collections import Counter
from pathlib import Path

import pytest
from hub_user import run_as_user
from PIL import Image

from genaf_hf import load_images
from genaf_hf.data import load_unlabelled_images
from genaf_hf.errors import UserError


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def fill(folder: Path, count: int = 20, name: str = "photo_{}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (4, 4), (9 * i, 10, 20)).save(folder / name.format(i))


def places(images) -> Counter:
    """How many images lie in which folder, by the class that they are given."""
    names = images.features["label"].names
    return Counter((Path(each["image"]["path"]).parent.name, names[each["label"]]) for each in images)


def everywhere(splits) -> Counter:
    return sum((places(images) for images in splits.values()), Counter())


def assert_refused(root: Path, *words: str, **settings) -> None:
    with pytest.raises(UserError) as refusal:
        load_images(str(root), **settings)
    assert "\n" not in str(refusal.value)
    for word in words:
        assert word in str(refusal.value)


# ---- what is taken ----


def test_words_in_the_names_of_files_say_nothing(root):
    for name in ("station", "harbour"):
        fill(root / name, 10, "train_{}.png")
        fill(root / name, 10, "test-{}.png")
        fill(root / name, 10)
    assert everywhere(load_images(str(root))) == {("station", "station"): 30, ("harbour", "harbour"): 30}
    assert len(load_unlabelled_images(str(root))) == 60


@pytest.mark.parametrize("names", [("bus", "car", "train"), ("control", "test"), ("val", "valley")])
def test_folders_named_like_splits_are_classes_beside_other_classes(root, names, caplog):
    for name in names:
        fill(root / name)
    splits = load_images(str(root))
    assert splits["train"].features["label"].names == sorted(names)
    assert everywhere(splits) == {(name, name): 20 for name in names}
    assert "is taken as a class, because not all folders beside it are splits" in caplog.text


@pytest.mark.parametrize("folder", ["val", "validation", "Valid", "dev"])
def test_folders_of_splits_hold_class_folders(root, folder):
    for split, count in (("train", 20), (folder, 4), ("testing", 5)):
        for name in ("cat", "train"):
            fill(root / split / name, count)
    splits = load_images(str(root))
    assert {split: len(images) for split, images in splits.items()} == {"train": 40, "validation": 8, "test": 10}
    assert [images.split for images in splits.values()] == ["train", "validation", "test"]
    assert places(splits["test"]) == {("cat", "cat"): 5, ("train", "train"): 5}
    fill(root, 1)  # one that lies beside them is no reason to train on those to test on
    assert len(load_unlabelled_images(str(root))) == 40


def test_a_split_of_any_name_is_one_where_it_is_named(root):
    for split in ("train", "gold", "silver"):
        for name in ("cat", "dog"):
            fill(root / split / name, 10)
    splits = load_images(str(root), test_split="gold", validation_split="silver")
    assert [str(images.split) for images in splits.values()] == ["train", "silver", "gold"]
    assert len(load_unlabelled_images(str(root), train_split="gold")) == 20


def test_classes_are_those_of_the_split_to_train_on_whatever_its_name(root):
    for place in ("train set/cat", "train set/dog", "test/cat", "test/dogg"):
        fill(root / place, 10)
    with pytest.raises(ValueError, match=r'has the class "dogg" in test but not in train set, did you mean "dog"'):
        load_images(str(root), train_split="train set")
    (root / "test/dogg").rename(root / "test/dog")
    splits = load_images(str(root), train_split="train set")
    assert str(splits["train"].split).startswith("train_set")


def test_folders_around_and_below_the_class_folders_say_nothing(root):
    fill(root / "archive" / "images" / "cat")
    fill(root / "archive" / "images" / "dog", 10)
    fill(root / "archive" / "images" / "dog" / "at night", 10)
    found = everywhere(load_images(str(root)))
    assert found == {("cat", "cat"): 20, ("dog", "dog"): 10, ("at night", "dog"): 10}


def test_the_order_is_that_of_the_names(root):
    for name in ("dog", "cat"):
        fill(root / name)
    first, again = (load_images(str(root))["train"][:] for _ in range(2))
    assert first == again
    unlabelled = [image["path"] for image in load_unlabelled_images(str(root))["image"]]
    assert unlabelled == sorted(unlabelled)


def test_images_are_referred_to_and_not_read_into_memory(root, monkeypatch):
    for name in ("cat", "dog"):
        fill(root / name)
    monkeypatch.chdir(root.parent)
    images = load_images("photos")["train"]
    assert all(image["bytes"] is None and Path(image["path"]).is_absolute() for image in images["image"])


def test_classes_may_begin_with_underscores(root):
    for name in ("__background__", "cat", "__MACOSX"):
        fill(root / name)
    assert everywhere(load_images(str(root))) == {("__background__", "__background__"): 20, ("cat", "cat"): 20}


def test_what_servers_and_systems_leave_is_no_image_and_no_class(root):
    for name in ("cat", "dog", "cat/@eaDir/photo_1.png", "#recycle"):
        fill(root / name)
    (root / "$RECYCLE.BIN").mkdir()
    assert everywhere(load_images(root)) == {("cat", "cat"): 20, ("dog", "dog"): 20}
    assert len(load_unlabelled_images(root)) == 40


def test_a_table_that_lies_beside_changes_nothing(root):
    for name in ("cat", "dog"):
        fill(root / name)
    (root / "notes.csv").write_text("a,b\n1,2\n")
    assert sum(everywhere(load_images(str(root))).values()) == 40


def test_what_tells_of_single_images_beside_them_is_no_table(root):
    for name in ("cat", "dog"):
        fill(root / name)
        (root / name / "metadata.json").write_text("{}")
        for image in [*(root / name).glob("*.png")]:
            image.with_name(f"{image.name}.supplemental-metadata.json").write_text("{}")
    assert everywhere(load_images(root)) == {("cat", "cat"): 20, ("dog", "dog"): 20}
    assert len(load_unlabelled_images(root)) == 40


# ---- what is left ----


def test_what_was_taken_and_left_is_told(root, caplog):
    for name in ("cat", "dog"):
        fill(root / name)
    fill(root, 1, "overview.png")
    (root / "cat" / "late.heic").write_bytes(b"heic")
    (root / "notes.txt").write_text("of the photos")
    with caplog.at_level(logging.INFO, "genaf_hf.data"):
        load_images(str(root))
    [record] = [each for each in caplog.records if each.name.endswith("image_folders")]
    assert record.levelname == "WARNING"
    assert '43 files, 40 taken (train 40), 3 left (1 .heic, 1 .txt, 1 .png: "cat/late.heic", ' in record.message


def test_what_is_surely_no_image_is_told_more_quietly(root, caplog):
    for name in ("cat", "dog"):
        fill(root / name)
    (root / "LICENSE").write_text("free")
    (root / ".hidden").mkdir()
    with caplog.at_level(logging.INFO, "genaf_hf.data"):
        load_images(str(root))
    [record] = [each for each in caplog.records if each.name.endswith("image_folders")]
    assert record.levelname == "INFO"
    assert "41 files, 40 taken (train 40), 1 left (1 without extension" in record.message


@pytest.mark.parametrize("suffix", [None, ".heic", ".txt"])
def test_a_class_without_an_image_that_can_be_read_is_refused(root, suffix):
    for name in ("cat", "dog"):
        fill(root / name)
    (root / "fox").mkdir()
    if suffix is not None:
        (root / "fox" / f"1{suffix}").write_bytes(b"other")
    assert_refused(root, 'class folder "fox" without an image', f"1 {suffix}" if suffix else "holds nothing")


@pytest.mark.parametrize("empty", ["validation", "test/dog"])
def test_a_split_or_a_class_of_it_without_an_image_is_refused(root, empty):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            fill(root / split / name)
    (root / empty).mkdir(exist_ok=True)
    for file in (root / empty).glob("*"):
        file.unlink()
    assert_refused(root, f'folder "{empty}" without an image')


def test_only_files_of_other_formats_are_refused_by_their_extensions(root):
    for name in ("cat", "dog"):
        (root / name).mkdir()
        (root / name / "1.HEIC").write_bytes(b"heic")
    for load in (load_images, load_unlabelled_images):
        with pytest.raises(ValueError, match=r"holds no image that can be read, only 2 \.heic"):
            load(str(root))


@pytest.mark.parametrize(
    ("misspelt", "words"),
    [("tset", "did you mean test?"), ("extra", "Rename it"), ("vaildation", "did you mean validation?")],
)
def test_a_misspelt_split_is_refused(root, misspelt, words):
    for split in ("train", misspelt):
        for name in ("cat", "dog"):
            fill(root / split / name)
    assert_refused(root, f'has images in "{misspelt}" beside the folders of splits', words)


def test_splits_that_are_all_misspelt_are_refused(root):
    for split in ("trian", "tets"):
        for name in ("cat", "dog"):
            fill(root / split / name)
    assert_refused(root, 'folders within "tets", "trian", of which none is a split', '"trian" like "train"')


def test_a_class_that_train_has_not_is_refused(root):
    for place in ("train/cat", "train/dog", "test/cat", "test/Dog"):
        fill(root / place)
    assert_refused(root, 'the class "Dog" in test but not in train, did you mean "dog"')


def test_a_class_that_two_systems_spell_in_two_ways_is_refused(root):
    for place in ("train/caf\u00e9", "train/dog", "test/cafe\u0301", "test/dog"):
        fill(root / place)
    assert_refused(root, r"'cafe\u0301' and 'caf\xe9' look the same")


@pytest.mark.parametrize("name", [b"caf\xe9", b"cat/caf\xe9.png"])
def test_names_that_are_no_text_are_refused(root, name):
    for label in ("cat", "dog"):
        fill(root / label)
    odd = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
    if odd.suffix:
        (root / "cat" / "photo_0.png").rename(odd)
    else:
        (root / "cat").rename(odd)
    assert_refused(root, r"caf\udce9", "is not in UTF-8: rename it")


def test_a_flat_folder_is_told_of_tables_too(root):
    fill(root)
    assert_refused(root, "no class folders", "or a metadata.csv beside the images with the columns file_name and label")


def test_two_folders_for_one_split_are_refused(root):
    for split in ("train", "val", "dev"):
        for name in ("cat", "dog"):
            fill(root / split / name)
    assert_refused(root, 'two folders for the split "validation"')


@pytest.mark.parametrize("split", ["train", "test"])
def test_splits_without_class_folders_are_refused_where_labels_are_wanted(root, split):
    for name in ("train", "test"):
        fill(root / name)
    assert_refused(root, 'has images in "test", "train" but no class folders in there')
    assert len(load_unlabelled_images(str(root), train_split=split)) == 20


def test_one_split_without_class_folders_is_refused(root):
    for name in ("cat", "dog"):
        fill(root / "train" / name)
    fill(root / "test")
    assert_refused(root, 'has images in "test" but no class folders in there')
    assert len(load_unlabelled_images(str(root))) == 40


def test_one_class_folder_is_refused(root):
    fill(root / "cat")
    assert_refused(root, 'has the one class "cat", expected at least two')


# ---- links ----


def test_links_that_lead_out_of_the_folder_are_refused(root):
    for name in ("cat", "dog"):
        fill(root / name)
    fill(root.parent / "private", 1)
    os.symlink(root.parent / "private" / "photo_0.png", root / "cat" / "linked.png")
    for load in (load_images, load_unlabelled_images):
        with pytest.raises(ValueError, match=r"linked.png\" is a link to .*private/photo_0.png, which is not followed"):
            load(str(root))


def test_linked_folders_are_refused(root):
    for name in ("cat", "dog"):
        fill(root / name)
    os.symlink(root, root / "fox")
    assert_refused(root, f'fox" is a link to {root}, which is not followed')


def test_links_within_the_folder_are_followed(root):
    for name in ("cat", "dog"):
        fill(root / name)
    os.symlink("photo_0.png", root / "cat" / "again.png")
    assert everywhere(load_images(str(root)))["cat", "cat"] == 21


def test_the_links_of_the_hub_s_cache_are_followed(root):
    version = root / "snapshots" / ("f" * 40)
    for name in ("cat", "dog"):
        fill(root / "blobs" / name)
        (version / name).mkdir(parents=True)
        for file in (root / "blobs" / name).iterdir():
            os.symlink(os.path.relpath(file, version / name), version / name / file.name)
    assert sum(everywhere(load_images(str(version))).values()) == 40


def test_a_link_to_nothing_is_a_broken_image(root):
    for name in ("cat", "dog"):
        fill(root / name)
    os.symlink("nothing.png", root / "cat" / "dangling.png")
    assert_refused(root, "dangling.png", "cannot be read")


def test_a_pipe_is_no_image(root):
    for name in ("cat", "dog"):
        fill(root / name)
    os.mkfifo(root / "cat" / "endless.png")
    assert sum(everywhere(load_images(str(root))).values()) == 40


# ---- on the Hub ----

LOAD = """
import json, logging
logging.basicConfig(level=logging.WARNING)
from genaf_hf import load_images
from genaf_hf.data import to_rgb

found = {}
for name, settings in {
    "whole": {}, "drawn": {"streaming": True, "max_train_samples": 8, "max_eval_samples": 4},
}.items():
    images = load_images("someone/photos", **settings)
    found[name] = [len(images["train"]), to_rgb(images["test"][0]["image"]).size]
print(json.dumps(found))
"""


def test_images_on_the_hub_are_read_and_those_without_a_split_are_told(hub, tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (4, 5)).save(content, "PNG")
    names = ["train_{}", "photo_{}"]
    files = {f"{label}/{name.format(i)}.png": content.getvalue() for label in "ab" for name in names for i in range(20)}
    hub.add("datasets", "someone/photos").add_commit("main", files)
    done = run_as_user(hub, tmp_path, "-c", LOAD)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"whole": [32, [4, 5]], "drawn": [8, [4, 5]]}
    assert '"someone/photos": 40 of 80 files are left out, "photo_' in done.stderr
