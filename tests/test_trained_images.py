import json
import re

import pytest
from conftest import CLASSES, colored_images
from datasets import Dataset, Features, Image, concatenate_datasets

from genaf_hf.data import image_digests, load_images
from genaf_hf.errors import UserError
from genaf_hf.pipelines.audit_case import matched_images
from genaf_hf.pipelines.trained_images import (
    REMEMBERED,
    check_not_trained_on,
    choices_of_training,
    images_of_record,
    read_record,
    recalled,
    remembered,
    warn_of_contradictions,
    warn_of_duplicates,
)
from genaf_hf.sharing.record import TrainingRecord

CHOICES = {"train_split": None, "validation_split": None, "test_split": None, "held_out_share": 0.05, "seed": 1}


@pytest.fixture(scope="module")
def digests() -> dict[str, list[str]]:
    """Of 20 images to train on and of 6 to test on."""
    return {"train": image_digests(colored_images(20, 0)), "test": image_digests(colored_images(6, 1))}


@pytest.fixture(scope="module")
def data(digests) -> dict:
    return {"name": "photos", "config": None, **images_of_record(digests, CHOICES)}


def test_digests_are_of_pixels_not_of_files(tmp_path, digests):
    images = colored_images(20, 0)
    paths = [str(tmp_path / f"{row}.{('png', 'bmp')[row % 2]}") for row in range(20)]
    for image, path in zip(images["image"], paths, strict=True):
        image.save(path)
    files = Dataset.from_dict({"image": paths}, features=Features({"image": Image(decode=False)}))
    assert image_digests(files) == digests["train"]
    assert len(set(digests["train"])) == 20
    assert {len(each) for each in digests["train"]} == {8}


def test_a_record_is_small_and_gives_back_what_it_was_made_of(digests, data):
    assert recalled(data["images"]["train"]) == sorted(digests["train"])
    assert len(data["images"]["train"]) == 8 * 20
    assert data["chosen_by"] == {name: value for name, value in CHOICES.items() if name != "seed"}
    many = [f"{number * 7919 % 10**8:08d}" for number in range(REMEMBERED + 5)]
    assert recalled(remembered(many)) == sorted(many)[:REMEMBERED]


def test_images_that_were_trained_on_are_counted_and_refused(digests, data):
    check_not_trained_on(data, digests["test"], "model", "photos")
    with pytest.raises(UserError, match=r'^2 of 4 test images are among those that "model" was trained on') as refusal:
        check_not_trained_on(data, digests["train"][:2] + digests["test"][:2], "model", "elsewhere")
    assert 'of "photos": give the dataset by that name' in str(refusal.value)
    with pytest.raises(UserError, match="these images or how they are split have changed since; name a --test_split"):
        check_not_trained_on(data, digests["train"][:2] + digests["test"][:2], "model", "photos")


def test_duplicates_within_the_dataset_are_said_and_not_refused_later(digests, caplog):
    doubled = {"train": digests["train"], "test": [*digests["test"], digests["train"][3]]}
    warn_of_duplicates(digests, "photos")
    assert not caplog.messages
    warn_of_duplicates(doubled, "photos")
    assert caplog.messages == ['1 of 7 test images of "photos" are among the images to train on too']
    caplog.clear()
    record = images_of_record(doubled, CHOICES)
    assert record["tested_and_trained_on"] == 1
    assert "tested_and_trained_on" not in images_of_record(digests, CHOICES)
    check_not_trained_on(record, doubled["test"], "model", "photos")
    assert caplog.messages == ['1 of 7 test images are among those that "model" was trained on, as in its own report']


def test_an_image_in_two_classes_is_said(caplog):
    images = colored_images(6, 0)
    warn_of_contradictions(images, image_digests(images), "photos")
    twice = concatenate_datasets([images, images.select([0, 1])])  # beside itself, which contradicts nothing
    warn_of_contradictions(twice, image_digests(twice), "photos")
    assert not caplog.messages
    row = images[0]
    row["label"] = (row["label"] + 1) % len(CLASSES)
    odd = concatenate_datasets([twice, Dataset.from_list([row], features=images.features)])
    warn_of_contradictions(odd, image_digests(odd), "photos")
    [said] = caplog.messages
    assert said.startswith('3 of 9 images to train on of "photos" stand in another class as well, pixel for pixel')
    assert all(f'"{images.features["label"].int2str(label)}"' in said for label in {images[0]["label"], row["label"]})


@pytest.mark.parametrize(
    ("name", "config_name", "known"),
    [("photos", None, True), ("/elsewhere/photos", None, True), ("pictures", None, False), ("photos", "b", False)],
)
def test_the_split_of_training_is_known_for_the_same_dataset(data, name, config_name, known):
    assert choices_of_training(data, name, config_name) == ({"held_out_share": 0.05} if known else {})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"base_model": {}, "data": []}',
        '{"base_model": {}, "data": {"images": 3, "chosen_by": [1]}}',
        "[" * 10**5,
    ],
)
def test_a_record_that_says_nothing_of_images_refuses_nothing(tmp_path, digests, content):
    assert read_record(str(tmp_path)) == {}
    (tmp_path / "training.json").write_text(content)
    found = read_record(str(tmp_path))
    check_not_trained_on(found, digests["train"], "model", "photos")
    assert choices_of_training(found, "photos", None) == {}


def test_odd_choices_in_a_record_are_passed_over(tmp_path):
    odd = {"name": "photos", "config": None, "chosen_by": {"held_out_share": "x", "test_split": 3, "train_split": "a"}}
    TrainingRecord({}, odd).save(tmp_path / "training.json")
    assert choices_of_training(read_record(str(tmp_path)), "photos", None) == {"train_split": "a"}


def test_without_the_record_a_larger_share_tests_on_images_that_were_trained_on(tmp_path):
    colored_images(60, 0).save_to_disk(tmp_path / "photos")
    trained, audited = (load_images(str(tmp_path / "photos"), held_out_share=share) for share in (0.05, 0.1))
    seen, tested = ({*image_digests(each[split])} for each, split in ((trained, "train"), (audited, "test")))
    record = images_of_record({split: image_digests(trained[split]) for split in ("train", "test")}, CHOICES)
    with pytest.raises(UserError, match=re.escape(f"{len(seen & tested)} of 6 test images")):
        check_not_trained_on(json.loads(json.dumps(record)), image_digests(audited["test"]), "model", "photos")


def test_what_is_drawn_of_a_stream_is_read_of_a_record_of_one_alone(data):
    drawn = {"max_train_samples": 9, "max_eval_samples": 3}
    for streaming in (True, False):
        found = choices_of_training({**data, "chosen_by": {"streaming": streaming, **drawn}}, "photos", None)
        assert found == ({"streaming": True, **drawn} if streaming else {})


def test_the_record_of_a_model_does_not_have_it_tested_on_a_split_to_train_on(dataset, tmp_path, caplog):
    dataset.save_to_disk(tmp_path / "photos")
    record = {"name": "photos", "config": None, "chosen_by": {"train_split": "test", "test_split": "train"}}
    place = str(tmp_path / "photos")
    with pytest.raises(UserError, match='own record calls for a test on the split "train", which is one to train on'):
        matched_images(place, CLASSES, record, None, {})
    images, _ = matched_images(place, CLASSES, record, None, {"test_split": "test"})
    assert image_digests(images["test"]) == image_digests(dataset["test"])
    caplog.clear()
    record["chosen_by"] = {"test_split": "validation", "validation_split": "test"}
    images, _ = matched_images(place, CLASSES, record, None, {})
    assert len(images["test"]) == len(dataset["validation"])
    assert "the model's own record calls for: validation_split test, test_split validation" in caplog.text
