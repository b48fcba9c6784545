"""Which files are images, and whose they may be."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import colored_images
from datasets import ClassLabel, Dataset, Features, Image, load_dataset
from PIL import Image as PILImage
from stored_images import KINDS, assert_one_sentence, own_cache, picture_folder, saved, whole_images
from transformers import ViTImageProcessor

from genaf_hf import load_images, with_pixel_values
from genaf_hf.data import load_unlabelled_images, to_rgb

__all__ = ["own_cache", "saved"]  # fixtures


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


def test_a_class_of_broken_images_alone_is_refused(tmp_path):
    broken_folder(tmp_path, 1)
    kind = next(folder for folder in sorted(tmp_path.iterdir()) if folder.is_dir())
    for file in kind.glob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=f'No image of the class "{kind.name}" in the split "train".* can be read'):
        load_images(str(tmp_path), skip_broken_images=True)


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


def encoded(picture: PILImage.Image, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def test_a_photograph_whose_exif_cannot_be_written_anew_is_upright():
    turned = (0x0112, 3, 1, 6)  # tag, type, count, value: the right side is up
    width = (0x0100, 2, 4, 0)  # as a text, where Pillow writes a number
    entries = b"".join(struct.pack("<HHLL", *entry) for entry in (width, turned))
    exif = b"Exif\0\0II*\0" + struct.pack("<LH", 8, 2) + entries + bytes(4)
    red_above_blue = PILImage.new("RGB", (32, 16), "blue")
    red_above_blue.paste("red", (0, 0, 32, 8))
    upright = to_rgb({"bytes": encoded(red_above_blue, "JPEG", exif=exif), "path": None})
    assert upright.size == (16, 32)
    assert upright.getpixel((3, 16)) == pytest.approx((0, 0, 255), abs=9)
    assert upright.getpixel((12, 16)) == pytest.approx((255, 0, 0), abs=9)
    assert to_rgb(upright).tobytes() == upright.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0", b"x"])
def test_a_photograph_whose_exif_is_broken_is_a_photograph(kind, exif):
    assert to_rgb({"bytes": encoded(PILImage.new("RGB", (4, 2), "red"), kind, exif=exif), "path": None}).size == (4, 2)


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
