import pytest
from conftest import CLASSES
from PIL import Image
from transformers import pipeline

from genaf_hf import PixelModel
from genaf_hf.sharing.example import LONGEST_SIDE, leave_example


def test_whoever_loads_the_model_gets_the_answer_that_is_told(vit, dataset, tmp_path):
    model, processor = vit
    told = leave_example(PixelModel(model, processor), dataset["test"], tmp_path)
    for part in vit:
        part.save_pretrained(tmp_path)
    best, *_ = pipeline("image-classification", model=str(tmp_path))(str(tmp_path / "example.png"))
    assert told["label"] == CLASSES[dataset["test"][0]["label"]]
    assert told["answer"] == best["label"]
    assert told["probability"] == pytest.approx(best["score"], abs=1e-6)
    assert Image.open(tmp_path / "example.png").size == dataset["test"][0]["image"].size


def test_a_photo_is_reduced_before_it_is_shown_to_the_model(vit, dataset, tmp_path):
    photo = dataset["test"][0]["image"].resize((4 * LONGEST_SIDE, LONGEST_SIDE))
    large = dataset["test"].select([0]).map(lambda _: {"image": photo})
    told = leave_example(PixelModel(*vit), large, tmp_path)
    example = Image.open(tmp_path / "example.png")
    assert example.size == (LONGEST_SIDE, LONGEST_SIDE // 4)
    assert leave_example(PixelModel(*vit), large.map(lambda _: {"image": example}), tmp_path) == told
