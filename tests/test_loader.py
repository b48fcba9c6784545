"""What the workers of a DataLoader make of images that are decoded when they are read."""

import logging
import os
import pickle
import re
import signal
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image as PILImage
from torch.utils.data import DataLoader, default_collate
from transformers import Trainer, TrainingArguments, ViTImageProcessor

from genaf_hf import load_images, with_pixel_values
from genaf_hf.data import counted_classes, load_unlabelled_images, to_rgb
from genaf_hf.data.pixel_values import InMemoryDataset
from genaf_hf.errors import UserError
from genaf_hf.training.resumable_trainer import ResumableTrainer


class CountingProcessor(ViTImageProcessor):
    """Tells by how many images it is called with, in the corner of each."""

    def __call__(self, images, **kwargs):
        processed = super().__call__(images, **kwargs)
        for values in processed["pixel_values"]:
            values[:, 0, 0] = len(images)
        return processed


@pytest.fixture
def saved(dataset, tmp_path) -> Dataset:
    """Eighteen encoded images that are mapped from the disk."""
    dataset.save_to_disk(tmp_path / "saved")
    return load_images(str(tmp_path / "saved"))["test"]


@pytest.fixture
def read_by(saved, monkeypatch):
    """A function that makes what decodes when it is read, by a processor."""

    def make(processor) -> Dataset:
        monkeypatch.setattr("genaf_hf.data.pixel_values.IN_MEMORY_BYTES", 0)
        return with_pixel_values(saved, processor)

    return make


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_give_the_same_pixel_values_in_the_same_order(processes, saved, read_by, workers):
    processor = ViTImageProcessor(size={"height": 12, "width": 12})
    expected = with_pixel_values(saved, processor)
    assert isinstance(expected, InMemoryDataset)
    rows = read_by(processor)
    assert isinstance(rows, Dataset)
    batches = list(DataLoader(rows, batch_size=5, num_workers=workers))
    assert [len(batch["labels"]) for batch in batches] == [5, 5, 5, 3]
    for name, values in expected[:].items():
        assert torch.equal(torch.cat([batch[name] for batch in batches]), values)


def test_workers_that_inherit_nothing_get_it_all_with_the_dataset(vit, read_by):
    rows = read_by(vit[1])
    received = pickle.loads(pickle.dumps(rows))
    assert len(pickle.dumps(rows)) < 100_000
    for name, values in rows[:].items():
        assert torch.equal(received[:][name], values)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_processor_gets_whole_batches(processes, read_by, workers):
    rows = read_by(CountingProcessor(size={"height": 8, "width": 8}))
    batches = list(DataLoader(rows, batch_size=6, num_workers=workers))
    assert [batch["pixel_values"][:, :, 0, 0].unique().tolist() for batch in batches] == [[6.0]] * 3


def test_the_processor_gets_few_images_at_once_where_they_are_large(read_by, saved, monkeypatch):
    width, height = to_rgb(saved.with_format(None)[0]["image"]).size
    monkeypatch.setattr("genaf_hf.data.pixel_values.PIXELS_AT_ONCE", 4 * width * height)
    rows = read_by(CountingProcessor(size={"height": 8, "width": 8}))
    found = rows[:]["pixel_values"][:, 0, 0, 0].tolist()
    assert found == [4.0] * 16 + [2.0] * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_trainer_reads_by_its_workers(processes, vit, read_by, tmp_path, workers):
    model, processor = vit
    rows = read_by(processor)
    args = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        dataloader_num_workers=workers,
        per_device_eval_batch_size=4,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
    )
    trainer = Trainer(model, args, eval_dataset=rows, data_collator=default_collate)
    predicted = trainer.predict(rows)
    with torch.no_grad():
        expected = model(rows[:]["pixel_values"]).logits
    assert predicted.label_ids.tolist() == rows[:]["labels"].tolist()
    assert torch.allclose(torch.as_tensor(predicted.predictions), expected, atol=1e-5)


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of four photos of two classes, which are read from the disk whenever they are needed."""
    for number in range(4):
        place = tmp_path / "photos" / ("red", "green")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (8, 8), ("red", "green")[number % 2]).save(place / f"{number}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_breaks_later_is_named_in_one_sentence_whoever_reads_it(
    processes, photos, vit, monkeypatch, workers
):
    monkeypatch.setattr("genaf_hf.data.pixel_values.IN_MEMORY_BYTES", 0)
    rows = with_pixel_values(load_unlabelled_images(str(photos)), vit[1])
    for path in photos.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError) as refused:
        list(DataLoader(rows, batch_size=2, num_workers=workers))
    assert re.fullmatch(r"Image \S+/photos/\w+/\d.png cannot be read: [^\n]*; mend or delete it\.", str(refused.value))


class Deadly(torch.utils.data.Dataset):
    """Ends the process that reads its last row."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        if index == 7 and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return {"pixel_values": torch.zeros(3, 8, 8), "labels": index % 3}


class Wrong(Deadly):
    """Has a fault in its last row."""

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": torch.zeros(3, 8, 8) + torch.zeros(index if index == 7 else 8), "labels": 0}


@pytest.mark.parametrize(
    ("images", "kind", "words"),
    [
        (Deadly(), UserError, r"memory runs out: DataLoader worker [^\n]*; lower dataloader_num_workers"),
        (Wrong(), RuntimeError, r"(?s)Caught RuntimeError.*must match the size of tensor"),  # and not one of memory
    ],
)
def test_what_ends_a_worker_is_told(processes, tmp_path, vit, images, kind, words):
    args = {"dataloader_num_workers": 1, "max_steps": 9, "save_strategy": "no", "report_to": "none", "use_cpu": True}
    settings = TrainingArguments(str(tmp_path), remove_unused_columns=False, disable_tqdm=True, **args)
    trainer = ResumableTrainer(vit[0], settings, train_dataset=images, processing_class=vit[1])
    with pytest.raises(kind, match=words):
        trainer.train_or_load(None)


def test_what_is_decoded_while_it_is_read_is_told_with_the_flag_that_helps(vit, saved, read_by, caplog):
    with caplog.at_level(logging.INFO, "genaf_hf"):
        with_pixel_values(saved, vit[1])
        assert caplog.text == ""
        read_by(vit[1])
    [record] = caplog.records
    assert "18 images do not fit into memory" in record.message
    assert "--dataloader_num_workers" in record.message


def test_a_picture_that_is_given_stays_as_it_is():
    turned, exif = PILImage.new("RGB", (4, 8)), PILImage.Exif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    assert to_rgb(turned).size == (8, 4)
    assert turned.size == (4, 8)


def test_every_class_of_every_split_is_counted_in_the_order_of_the_ids(dataset):
    without_green = dataset["test"].filter(lambda example: example["label"] != 1)
    assert counted_classes({**dataset, "test": without_green}) == {
        "class_names": ["red", "green", "blue"],
        "class_counts": {"train": [16, 16, 16], "validation": [4, 4, 4], "test": [6, 0, 6]},
    }
