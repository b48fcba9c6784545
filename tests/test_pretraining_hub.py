"""Encoders that were pre-trained here, on a local Hub."""

import json
from pathlib import Path

import pytest
from conftest import CLASSES, TINY_VIT
from hub_user import TOKEN, USER, run_as_user
from local_hub import LocalHub

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain.py"
FLAGS = {
    "method": "simclr",
    "dataset_name": "images",
    "model_settings": json.dumps({name: value for name, value in TINY_VIT.items() if name != "image_size"}),
    "method_settings": '{"hidden_size": 16, "output_size": 8}',
    "image_size": TINY_VIT["image_size"],
    "max_steps": 2,
    "output_dir": "tiny-simclr",
    "report_to": "none",
}
STRANGER = """
import json, sys
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from genaf_hf import load_encoder

model, processor = load_encoder("someone/tiny-simclr", json.loads(sys.argv[1]))
trained = load_file(sys.argv[2])
weights = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier.")}
shapes = sorted(tuple(value.shape) for value in weights.values())
print(json.dumps({
    "class": type(model).__name__,
    "same": shapes == sorted(tuple(value.shape) for value in trained.values())
    and all(any(value.equal(other) for other in trained.values()) for value in weights.values()),
    "size": processor.size["height"],
    "tags": ModelCard.load("someone/tiny-simclr").data.tags,
}))
"""


@pytest.fixture(scope="module")
def hub(place, dataset):
    """A Hub with the encoder that the recipe trained on the images that lie there, and pushed."""
    dataset.save_to_disk(place / "images")
    with LocalHub({TOKEN: "someone"}) as hub:
        flags = [word for name, value in FLAGS.items() for word in (f"--{name}", str(value))]
        done = run_as_user(hub, place, RECIPE, *flags, "--use_cpu", "--push_to_hub", "--hub_private_repo", "true")
        assert done.returncode == 0, done.stderr
        assert f"Pushed to {hub.endpoint}/someone/tiny-simclr/commit/" in done.stderr
        yield hub


def test_exactly_the_encoder_is_published(hub, place):
    repository = hub.repositories["models", "someone/tiny-simclr"]
    assert repository.access == "private"
    expected = {path.name: path.read_bytes() for path in (place / "tiny-simclr").iterdir()}
    assert expected.keys() == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert repository.files() == expected
    for secret in (TOKEN, USER, str(place)):
        assert hub.uploads_with(secret) == []


def test_what_was_published_is_loaded_to_be_hardened(hub, place):
    command = ["-c", STRANGER, json.dumps(CLASSES), str(place / "tiny-simclr" / "model.safetensors")]
    done = run_as_user(hub, place, *command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "class": "ViTForImageClassification",
        "same": True,
        "size": TINY_VIT["image_size"],
        "tags": ["self-supervised", "simclr"],
    }
