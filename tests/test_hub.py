"""Against a local Hub, with the real clients, each in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import pytest
from conftest import CLASSES
from local_hub import LocalHub

from genaf_hf import GenAFConfig
from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.hardening import HardeningArguments, harden, settings_of_run
from genaf_hf.provenance import public_name
from genaf_hf.report import RobustnessReport
from genaf_hf.unfinished_run import begin_or_resume

ROOT = Path(__file__).parents[1]
TOKEN = "hf_plantedSoThatItCanBeSearchedFor"
USER = "planted-user-of-this-machine"
PUBLISHED = {
    *("README.md", "config.json", "model.safetensors", "overview.png", "preprocessor_config.json", "report.json"),
    *("layer_robustness.json", "perturbation/perturbation.safetensors"),
}
NOT_OURS = (".env", "holiday.png", "notes.md", "optimizer.pt", "secrets.json", "training_args.bin")
QUICK = {
    "max_steps": 2,
    "adapt_max_steps": 1,
    "steps": 1,
    "assessment_samples": 8,
    "per_device_train_batch_size": 8,
    "save_steps": 1,
    "report_to": "none",
    "use_cpu": True,
}
QUICK_ATTACKS = {"dae_steps": 5, "pgd_steps": 2}

PUSH_PUBLIC_THINGS = """
import sys
from datasets import load_from_disk
from huggingface_hub import HfApi

images, encoder = sys.argv[1:]
load_from_disk(images).push_to_hub("someone/colours")
HfApi().create_repo("someone/encoder")
HfApi().upload_folder(repo_id="someone/encoder", folder_path=encoder)
"""

STRANGER = """
import json, sys
import torch
from datasets import load_dataset
from huggingface_hub import ModelCard, list_models
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

repo_id, folder = sys.argv[1:]
images = load_dataset("someone/colours", split="test")["image"][:6]

def logits(source):
    inputs = AutoImageProcessor.from_pretrained(source)(images, return_tensors="pt")
    return AutoModelForImageClassification.from_pretrained(source)(**inputs).logits

classify = pipeline("image-classification", model=repo_id)
print(json.dumps({
    "same": torch.equal(logits(repo_id), logits(folder)),
    "expected": logits(folder).softmax(1).tolist(),
    "answers": [{each["label"]: each["score"] for each in answer} for answer in classify(images)],
    "found": [each.id for each in list_models(author="someone", filter="genaf")],
    "card": ModelCard.load(repo_id).data.to_dict(),
    "ours": [name for name in sys.modules if name.split(".")[0] == "genaf_hf"],
}))
"""

# Names, and what is asked for under them, both as an encoder and as images.
REFUSED = {
    "unknown": {"repo_id": "someone/nothing"},
    "unknown, logged out": {"repo_id": "someone/nothing", "token": False},
    "unknown revision": {"repo_id": "other/public", "revision": "nowhere"},
    "private": {"repo_id": "other/private"},
    "private, logged out": {"repo_id": "other/private", "token": False},
    "gated": {"repo_id": "other/gated"},
    "gated, logged out": {"repo_id": "other/gated", "token": False},
    "wrong token": {"repo_id": "other/public", "token": "hf_wrong"},
}

BY_HAND = """
import json, sys
from genaf_hf import load_encoder, load_images
from genaf_hf.hub import open_repository, publish

encoder, refused = sys.argv[1], json.loads(sys.argv[2])

def refusal(function, *arguments, **settings):
    try:
        return f"{function(*arguments, **settings)} was loaded"
    except ValueError as error:
        return str(error)

messages = {"push": refusal(open_repository, encoder, token="hf_wrong")}
for name, settings in refused.items():
    repo_id = settings.pop("repo_id")
    messages[f"encoder, {name}"] = refusal(load_encoder, repo_id, ["a", "b"], **settings)
    messages[f"images, {name}"] = refusal(load_images, repo_id, **settings)
address = publish(encoder, "by-hand", private=True, revision="next", message="First")
print(json.dumps({"messages": messages, "address": address}))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Where the processes run, with their homes and outputs below."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def client(place, hub):
    """A function that runs Python as a user of the local Hub, from an empty cache, and returns what it prints."""

    def run(*command, token: str | None = TOKEN) -> str:
        home = Path(tempfile.mkdtemp(prefix="home-", dir=place))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "MPLCONFIGDIR": matplotlib.get_cachedir(),
            "HOME": str(home),
            **dict.fromkeys(("USER", "LOGNAME"), USER),
            **({"HF_TOKEN": token} if token else {}),
        }
        done = subprocess.run([sys.executable, *command], env=environment, cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def hub():
    with LocalHub({TOKEN: "someone"}) as hub:
        for kind in ("models", "datasets"):
            for access in ("public", "private", "gated"):
                hub.add(kind, f"other/{access}", access)
        yield hub


@pytest.fixture(scope="module")
def public_things(hub, client, place, dataset, encoders) -> None:
    """someone/encoder and someone/colours, on the Hub; the uploads so far are forgotten."""
    dataset.save_to_disk(place / "images")
    client("-c", PUSH_PUBLIC_THINGS, str(place / "images"), encoders["mae"])
    hub.uploads.clear()


@pytest.fixture(scope="module")
def hardened(hub, client, place, public_things) -> Path:
    """The folder of a model that the recipe hardened and pushed, beside files that are none of its business."""
    folder = place / "hardened"
    folder.mkdir()
    for name in NOT_OURS:
        (folder / name).write_text(f'"{TOKEN}"')
    settings = {"model_name_or_path": "someone/encoder", "dataset_name": "someone/colours", "output_dir": "hardened"}
    settings |= {"push_to_hub": True, **QUICK, **QUICK_ATTACKS}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    client(ROOT / "recipes/genaf_vit.py", *flags)
    return folder


# ---- what is published ----


def test_exactly_the_result_is_published(hub, hardened):
    files = hub.repositories["models", "someone/hardened"].files()
    assert set(files) == PUBLISHED
    assert all(content == (hardened / path).read_bytes() for path, content in files.items())
    assert files["overview.png"].startswith(b"\x89PNG")


def test_what_was_published_names_its_public_sources(hub, hardened):
    report = RobustnessReport.load(hardened / "report.json")
    encoder, images = (
        hub.repositories[kind] for kind in (("models", "someone/encoder"), ("datasets", "someone/colours"))
    )
    assert (report.dataset["name"], report.dataset["revision"]) == (images.id, images.commit())
    for model in report.models.values():
        assert (model["source"], model["revision"]) == (encoder.id, encoder.commit())
    perturbation = UniversalPerturbation.from_pretrained(hardened / "perturbation")
    assert (perturbation.encoder, perturbation.encoder_revision) == (encoder.id, encoder.commit())
    assert "someone/colours" in perturbation.data


def test_nothing_uploaded_tells_the_token_or_the_machine(hub, hardened, place):
    assert "models/someone/hardened/README.md" in hub.uploads_with("someone/colours")
    for secret in (TOKEN, USER, str(place), str(ROOT)):
        assert hub.uploads_with(secret) == []


def test_the_card_loads_the_published_model(hub, hardened):
    card = (hardened / "README.md").read_text()
    assert 'pipeline("image-classification", model="someone/hardened")' in card


def test_a_stranger_loads_what_was_published(client, hardened):
    found = json.loads(client("-c", STRANGER, "someone/hardened", str(hardened), token=None))
    assert found["ours"] == []
    assert found["same"]
    assert found["found"] == ["someone/hardened"]
    assert found["card"]["pipeline_tag"] == "image-classification"
    for answer, expected in zip(found["answers"], found["expected"], strict=True):
        assert answer == pytest.approx(dict(zip(CLASSES, expected, strict=True)), abs=1e-6)


def test_a_published_model_is_audited_with_the_encoder_that_its_card_names(client, hub, hardened, place):
    flags = {"model_name_or_path": "someone/hardened", "dataset_name": "someone/colours", "output_dir": "audit"}
    flags |= {"attacks": "l4a,fgsm", "attack_settings": '{"l4a": {"steps": 2}}', "sweep": "2"}
    client(ROOT / "recipes/audit.py", *(word for name, value in flags.items() for word in (f"--{name}", value)))
    report = RobustnessReport.load(place / "audit/report.json")
    model, encoder = (hub.repositories["models", f"someone/{name}"] for name in ("hardened", "encoder"))
    assert report.models["someone/hardened"]["revision"] == model.commit()
    crafted = report.measurement("someone/hardened", "l4a").settings
    assert (crafted["encoder"], crafted["encoder_revision"]) == ("someone/encoder", encoder.commit())


def test_a_run_on_local_folders_tells_their_names_only(dataset, encoders, tmp_path):
    dataset.save_to_disk(tmp_path / "colours")
    config = GenAFConfig(output_dir=str(tmp_path / "run"), hub_token=TOKEN, disable_tqdm=True, **QUICK)
    arguments = HardeningArguments(encoders["mae"], str(tmp_path / "colours"), **QUICK_ATTACKS)
    assert not begin_or_resume(config.output_dir, settings_of_run(arguments, config))
    assert TOKEN not in (tmp_path / "run/unfinished_run/settings.json").read_text()

    report = harden(arguments, config)
    assert report.dataset["name"] == "colours"
    assert {model["source"] for model in report.models.values()} == {"mae"}
    for path in (each for each in (tmp_path / "run").rglob("*") if each.is_file()):
        for secret in (TOKEN, str(tmp_path), encoders["mae"]):
            assert secret.encode() not in path.read_bytes(), f"{path} tells {secret}"


def test_public_names(tmp_path):
    (tmp_path / "encoder").mkdir()
    assert public_name(str(tmp_path / "encoder")) == "encoder"
    assert public_name(f"{tmp_path}/encoder/") == "encoder"
    assert public_name("someone/encoder") == "someone/encoder"
    assert public_name("digits") == "digits"
    assert public_name("/gone/since/encoder") == "encoder"


@pytest.fixture(scope="module")
def by_hand(client, encoders) -> dict:
    return json.loads(client("-c", BY_HAND, encoders["dino"], json.dumps(REFUSED)))


def test_publishing_by_hand(hub, by_hand, encoders):
    repository = hub.repositories["models", "someone/by-hand"]
    assert repository.access == "private"
    assert repository.files("main") == {}
    expected = {path.name: path.read_bytes() for path in Path(encoders["dino"]).iterdir()}
    assert repository.files("next") == expected
    assert by_hand["address"] == f"{hub.endpoint}/someone/by-hand/commit/{repository.commit('next')}"


# ---- what the Hub refuses ----


@pytest.mark.parametrize("kind", ["encoder", "images"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_the_hub_refuses_is_refused_in_one_sentence(by_hand, kind, name):
    message = by_hand["messages"][f"{kind}, {name}"]
    assert REFUSED[name]["repo_id"] in message
    assert REFUSED[name].get("revision", "") in message
    assert ("401" in message) == (name == "wrong token")
    assert "\n" not in message
    assert "was loaded" not in message
    assert TOKEN not in message


def test_a_push_without_a_valid_token_is_refused(by_hand):
    assert by_hand["messages"]["push"].startswith('The Hub does not let you write to "dino"; see `hf auth login` (')
