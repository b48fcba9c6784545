"""Images that are drawn from a stream instead of being downloaded with all others."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from conftest import CLASSES, colored_images
from datasets import Dataset, concatenate_datasets
from hub_user import run_as_user
from stored_images import own_cache, picture_folder

from genaf_hf import load_images
from genaf_hf.cli.command_line import parse_arguments
from genaf_hf.data import counted_classes
from genaf_hf.data.streaming import open_stream
from genaf_hf.errors import UserError
from genaf_hf.pipelines.experiment import load_data
from genaf_hf.pipelines.harden import HardeningArguments
from genaf_hf.training.sharing_trainer import HUB_CACHE

__all__ = ["own_cache"]  # a fixture
NUMBERS = {"streaming": True, "max_train_samples": 20, "max_eval_samples": 9}
SHARDS = 30
LOAD = """
import json
import datasets
from genaf_hf import load_images
from genaf_hf.data import commit
from genaf_hf.data import streaming

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
streaming.SHUFFLED_AT_ONCE, streaming.SHARDS_AT_ONCE = 8, 2
settings = {"streaming": True, "max_train_samples": 8, "max_eval_samples": 4}
images = load_images("someone/many", **settings)
broken = "nothing"
try:
    load_images("someone/nothing", **settings)
except ValueError as error:
    broken = str(error)
print(json.dumps({"commit": commit(images["test"]), "sizes": [len(each) for each in images.values()], "said": broken}))
"""


@pytest.fixture(scope="module")
def sorted_images() -> Dataset:
    """120 images, sorted by class."""
    return colored_images(120, 5).sort("label")


@pytest.fixture
def folder(tmp_path, sorted_images) -> str:
    """Train in one file of parts of five images, and test."""
    (tmp_path / "images").mkdir()
    sorted_images.to_parquet(tmp_path / "images" / "train.parquet", batch_size=5)
    colored_images(30, 6).to_parquet(tmp_path / "images" / "test.parquet")
    return str(tmp_path / "images")


def contents(images) -> list[bytes]:
    return [each["bytes"] for each in images["image"]]


def test_as_many_images_as_asked_for_are_drawn_and_what_is_held_out_on_top_of_them(folder, sorted_images):
    drawn = load_images(folder, **NUMBERS)
    assert {split: len(images) for split, images in drawn.items()} == {"train": 20, "validation": 9, "test": 9}
    every = [content for images in drawn.values() for content in contents(images)]
    assert len(set(every)) == len(every)
    labels = {
        image["bytes"]: label
        for image, label in zip(
            sorted_images.cast_column("image", datasets.Image(decode=False))["image"],
            sorted_images["label"],
            strict=True,
        )
    }
    for split in ("train", "validation"):
        assert drawn[split]["label"][:] == [labels[content] for content in contents(drawn[split])]
        assert drawn[split].features["label"].names == CLASSES
    assert drawn["test"].split == "test"


def test_the_seed_alone_decides_what_is_drawn(folder, tmp_path_factory, monkeypatch):
    drawn = []
    for seed in (0, 0, 1):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("other"))
        drawn.append({split: contents(images) for split, images in load_images(folder, seed=seed, **NUMBERS).items()})
    assert drawn[0] == drawn[1]
    assert all(set(drawn[0][split]) != set(drawn[2][split]) for split in drawn[0])


def test_what_was_drawn_is_read_from_the_cache(folder, monkeypatch):
    first = load_images(folder, **NUMBERS)
    again = load_images(folder, **NUMBERS)
    assert first["test"].cache_files == again["test"].cache_files
    assert first["train"].cache_files[0] == again["train"].cache_files[0]
    assert contents(first["train"]) == contents(again["train"])
    other = load_images(folder, **{**NUMBERS, "max_eval_samples": 8})
    assert other["test"].cache_files != first["test"].cache_files


def test_what_was_drawn_is_not_where_datasets_looks_for_the_whole_of_it_when_it_is_offline(folder, tmp_path):
    load_images(folder, **NUMBERS)
    pictures = picture_folder(tmp_path / "pictures")
    load_images(pictures, streaming=True, max_train_samples=8, max_eval_samples=4)
    folders = [path.name for path in Path(datasets.config.HF_DATASETS_CACHE).iterdir() if path.is_dir()]
    assert folders == ["genaf_hf_streamed"]


def test_what_is_drawn_of_a_dataset_of_the_hub_is_known_by_its_id(tmp_path):
    place = f"owner___name/default/0.0.0/{'a' * 40}"
    builder = SimpleNamespace(config=None, cache_dir=str(tmp_path / place), as_streaming_dataset=dict)
    _, cache = open_stream(builder)
    assert cache == tmp_path / "genaf_hf_streamed" / place
    assert HUB_CACHE.search((cache / "train.arrow").as_posix()).groups() == ("owner", "name")


def test_a_file_that_is_sorted_by_class_gives_images_from_all_over_it(folder, monkeypatch):
    monkeypatch.setattr("genaf_hf.data.streaming.SHUFFLED_AT_ONCE", 20)
    counts = counted_classes(load_images(folder, **NUMBERS))["class_counts"]["train"]
    assert len(counts) == len(CLASSES)
    assert all(counts)


def test_images_in_class_folders_are_drawn(tmp_path):
    for i, example in enumerate(colored_images(60, 7)):
        place = tmp_path / "train" / CLASSES[example["label"]]
        place.mkdir(parents=True, exist_ok=True)
        example["image"].save(place / f"{i}.png")
    drawn = load_images(str(tmp_path), **NUMBERS)
    assert [len(images) for images in drawn.values()] == [20, 9, 9]
    for image, label in zip(drawn["train"]["image"], drawn["train"]["label"], strict=True):
        assert Path(image["path"]).parent.name == drawn["train"].features["label"].names[label]


@pytest.mark.parametrize("places", [("train", "val", "test"), ("train", "test")])
def test_images_of_class_folders_are_those_of_their_split(tmp_path, places):
    """Also where as many are drawn of each, or were drawn of another one before."""
    for place in places:
        for i, example in enumerate(colored_images(24, 7)):
            file = tmp_path / place / CLASSES[example["label"]] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            example["image"].save(file)
    for train, others in ((8, 4), (6, 6), (12, 12)):
        data = load_images(str(tmp_path), streaming=True, max_train_samples=train, max_eval_samples=others)
        found = {role: {Path(each["path"]).parts[-3] for each in images["image"]} for role, images in data.items()}
        assert found == {"train": {"train"}, "validation": {places[-2]}, "test": {"test"}}
        assert str(data["test"].split) == "test"


def test_classes_that_were_not_drawn_are_told(folder, caplog):
    few = load_images(folder, streaming=True, max_train_samples=2, max_eval_samples=9)
    absent = len(CLASSES) - len(set(few["train"]["label"]))
    assert absent > 0
    assert f"{absent} of 3 classes are not among the 2 images drawn to train on" in caplog.text


@pytest.mark.parametrize("missing", ["max_train_samples", "max_eval_samples"])
def test_numbers_are_needed_before_anything_is_read(missing):
    with pytest.raises(ValueError, match=f'"someone/nothing" is streamed but {missing} is None: say by'):
        load_images("someone/nothing", **{**NUMBERS, missing: None})


@pytest.mark.parametrize("count", [0, -1])
def test_no_images_are_no_number_of_them(folder, count):
    with pytest.raises(ValueError, match=f"max_eval_samples is {count}, expected at least 1 image"):
        load_images(folder, max_eval_samples=count)


def test_more_images_than_there_are_leave_none_to_train_on(tmp_path):
    colored_images(9, 0).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="9 images are too few to hold a test split of 9 out of") as refusal:
        load_images(str(tmp_path), **NUMBERS)
    assert "\n" not in str(refusal.value)


def test_a_column_without_images_is_refused(tmp_path):
    numbered = colored_images(30, 0).add_column("id", list(range(30)))
    numbered.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"\"id\" holds Value\('int64'\), expected images"):
        load_images(str(tmp_path), image_column="id", **NUMBERS)


def test_labels_outside_the_classes_are_refused(tmp_path, sorted_images):
    unknown = sorted_images.remove_columns("label").add_column(
        "label", [-1] * 120, feature=sorted_images.features["label"]
    )
    sorted_images.to_parquet(tmp_path / "train.parquet")
    unknown.to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=r'split "test" .* has labels -1, expected 0 to 2'):
        load_images(str(tmp_path), **NUMBERS)


def test_a_broken_image_is_refused(tmp_path):
    whole = colored_images(30, 0).cast_column("image", datasets.Image(decode=False))
    broken = [{"bytes": image["bytes"][:60], "path": None} for image in whole["image"]]
    part = Dataset.from_dict({"image": broken, "label": whole["label"][:]}, features=whole.features)
    concatenate_datasets([part, whole]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r'Image number \d+ in the split "train" .* cannot be read') as refusal:
        load_images(str(tmp_path), **NUMBERS)
    assert "\n" not in str(refusal.value)


def test_the_digits_are_here_already():
    drawn = load_images("digits", **NUMBERS)
    assert {split: len(images) for split, images in drawn.items()} == {"train": 20, "validation": 9, "test": 9}


@pytest.mark.parametrize(
    ("given", "expected"), [([], None), (["--streaming", "true"], True), (["--streaming", "false"], False)]
)
def test_the_flag(folder, given, expected):
    flags = ["--model_name_or_path", "encoder", "--dataset_name", folder, "--max_train_samples", "20"]
    [arguments] = parse_arguments((HardeningArguments,), None, [*flags, "--max_eval_samples", "9", *given])
    assert arguments.streaming is expected
    images = load_data(arguments, None)
    assert [len(each) for each in images.values()] == [20, 9, 9]


def test_only_some_files_of_the_hub_are_fetched(hub, tmp_path):
    repository_files = {"test": 1, "train": SHARDS}
    files = {}
    for split, count in repository_files.items():
        for i in range(count):
            file = io.BytesIO()
            colored_images(12, 100 + i).to_parquet(file)
            files[f"data/{split}-{i:05}-of-{count:05}.parquet"] = file.getvalue()
    repository = hub.add("datasets", "someone/many")
    repository.add_commit("main", files)
    done = run_as_user(hub, tmp_path, "-c", LOAD)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["commit"] == repository.commit()
    assert found["sizes"] == [8, 4, 4]
    assert found["said"].startswith('There is no dataset "someone/nothing", neither as a local folder nor on the')
    fetched = {where.split("/")[-1] for where, _ in hub.uploads if where.startswith("GET") and "train-" in where}
    assert 1 < len(fetched) < SHARDS / 2


def test_tables_of_text_are_not_streamed(tmp_path):
    (tmp_path / "train.csv").write_text("image,label\n1.png,cat\n2.png,dog\n")
    with pytest.raises(UserError, match="does not tell its columns before it is read: set streaming to False"):
        load_images(str(tmp_path), **NUMBERS)
