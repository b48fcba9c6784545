"""The whole circle against a local Hub: harden, push, load, audit, update the card, leaderboard, browser.

By the real clients, each in a process of its own.
"""

import hashlib
import json
from pathlib import Path

import pytest
from browser import browser
from conftest import CLASSES
from hub_user import TOKEN, USER, run_as_user
from huggingface_hub import ModelCard
from local_hub import LocalHub

from genaf_hf import GenAFConfig
from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.pipelines.harden import HardeningArguments, harden
from genaf_hf.pipelines.hardening import hardening_run
from genaf_hf.sharing.card_update import BEGIN, HEADLINE, TOP
from genaf_hf.sharing.existing_card import card_metadata
from genaf_hf.values.provenance import public_name

__all__ = ["browser"]  # a fixture
pytestmark = pytest.mark.usefixtures("quick_checks")
ROOT = Path(__file__).parents[1]
PUBLISHED = {
    *("README.md", "config.json", "model.safetensors", "preprocessor_config.json", "report.json", "report.csv"),
    *("overview.png", "accuracy_by_eps.png", "gallery.png"),
    *("samples.png", "layer_robustness.png", "training_curves.png"),
    *("training.json", "layer_robustness.json", "example.png", "perturbation/perturbation.safetensors"),
}
AUDIT = {"attacks": "l4a,fgsm", "attack_settings": '{"l4a": {"steps": 2}}', "sweep": "2", "update_card": True}
OTHER = "hf_ofSomebodyElse"
PEOPLE = "\n# Mine\n\nWhat people wrote, *byte for byte*.  \n"
NOT_OURS = (".env", "holiday.png", "notes.md", "optimizer.pt", "secrets.json", "training_args.bin")
QUICK = {
    "defence": "gen-af",
    "max_steps": 2,
    "adapt_max_steps": 1,
    "steps": 1,
    "assessment_samples": 8,
    "per_device_train_batch_size": 8,
    "save_steps": 1,
    "report_to": "none",
    "use_cpu": True,
}
QUICK_ATTACKS = {"attacks": "l4a,pgd", "attack_settings": '{"steps": 5, "pgd": {"steps": 2}}'}

PUSH_PUBLIC_THINGS = """
import sys
from datasets import load_from_disk
from huggingface_hub import HfApi

images, encoder = sys.argv[1:]
load_from_disk(images).push_to_hub("someone/colours")
HfApi().create_repo("someone/encoder")
HfApi().upload_folder(repo_id="someone/encoder", folder_path=encoder)
card = b"---\\nlicense: cc-by-4.0\\n---\\n# An encoder\\n"
HfApi().upload_file(repo_id="someone/encoder", path_in_repo="README.md", path_or_fileobj=card)
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

BY_HAND = """
import sys
from genaf_hf.sharing.publishing import publish

print(publish(sys.argv[1], "by-hand", private=True, revision="next", message="First"))
"""


def flags(settings: dict) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def client(place, hub):
    """A function that runs Python as a user of the local Hub, from an empty cache, and returns what it prints."""

    def run(*command, token: str | None = TOKEN) -> str:
        done = run_as_user(hub, place, *command, token=token)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def hub():
    with LocalHub({TOKEN: "someone", OTHER: "other"}) as hub:
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
    settings |= {"push_to_hub": True, "push_anyway": True, **QUICK, **QUICK_ATTACKS}
    client(ROOT / "recipes/genaf_vit.py", *flags(settings))
    return folder


# ---- what is published ----


def test_exactly_the_result_is_published(hub, hardened):
    files = hub.repositories["models", "someone/hardened"].files()
    assert set(files) == PUBLISHED
    assert all(content == (hardened / path).read_bytes() for path, content in files.items())
    assert all(content.startswith(b"\x89PNG") for path, content in files.items() if path.endswith(".png"))


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


def test_the_card_tells_what_was_published(hub, hardened):
    card, report = ModelCard.load(hardened / "README.md"), RobustnessReport.load(hardened / "report.json")
    encoder, images = (
        hub.repositories[kind] for kind in (("models", "someone/encoder"), ("datasets", "someone/colours"))
    )
    assert 'pipeline("image-classification", model="someone/hardened")' in card.text
    assert f"Base model: someone/encoder, commit {encoder.commit()}, license: cc-by-4.0." in card.text
    assert f"Images: someone/colours, commit {images.commit()}; train 48, validation 12, test 18." in card.text
    assert (card.data.base_model, card.data.datasets, card.data.license) == (
        *("someone/encoder", ["someone/colours"], "cc-by-4.0"),
    )
    assert all(f"({path})" in card.text for path in PUBLISHED if path.endswith(".png"))
    assert [each.metric_value for each in card.data.eval_results] == [
        pytest.approx(each.accuracy.value, abs=1e-6)
        for each in (*report.measurements, report.worst_case("hardened"))
        if each.model == "hardened"
    ]
    assert {each.metric_args["report_sha256"] for each in card.data.eval_results} == {
        hashlib.sha256((hardened / "report.json").read_bytes()).hexdigest()
    }


def test_a_stranger_loads_what_was_published(client, hardened):
    found = json.loads(client("-c", STRANGER, "someone/hardened", str(hardened), token=None))
    assert found["ours"] == []
    assert found["same"]
    assert found["found"] == ["someone/hardened"]
    assert found["card"]["pipeline_tag"] == "image-classification"
    assert len(found["card"]["model-index"][0]["results"][0]["metrics"]) == 5
    for answer, expected in zip(found["answers"], found["expected"], strict=True):
        assert answer == pytest.approx(dict(zip(CLASSES, expected, strict=True)), abs=1e-6)


@pytest.fixture(scope="module")
def audited(client, hub, hardened, place) -> str:
    """The commit of the published model, after people wrote into its card, that was audited into it."""
    model = hub.repositories["models", "someone/hardened"]
    files = model.files()
    card = files["README.md"].replace(b"\n---\n", b"\n# a comment\nauthor: someone\n---\n", 1) + PEOPLE.encode()
    commit = model.add_commit("main", {**files, "README.md": card})
    hub.uploads.clear()
    names = {"model_name_or_path": "someone/hardened", "dataset_name": "someone/colours", "output_dir": "audit"}
    client(ROOT / "recipes/audit.py", *flags({**names, **AUDIT}))
    return commit


def test_a_published_model_is_audited_with_the_encoder_that_its_card_names(hub, audited, place):
    report = RobustnessReport.load(place / "audit/report.json")
    encoder = hub.repositories["models", "someone/encoder"]
    assert report.models["someone/hardened"]["revision"] == audited
    crafted = report.measurement("someone/hardened", "l4a").settings
    assert (crafted["encoder"], crafted["encoder_revision"]) == ("someone/encoder", encoder.commit())


def test_an_audit_adds_to_the_card_on_the_hub_and_to_nothing_else(hub, audited, place):
    model = hub.repositories["models", "someone/hardened"]
    before, after = model.files(audited), model.files()
    added = {f"audit/{name}" for name in ("report.json", "accuracy_by_eps.png", "gallery.png")}
    assert set(after) == set(before) | added
    assert {path: after[path] for path in added} == {path: (place / path).read_bytes() for path in added}
    assert {path for path in before if after[path] != before[path]} == {"README.md"}
    old, new = (files["README.md"].decode() for files in (before, after))
    top, index = old.split("model-index:")[0], old.index("\n# a comment")
    assert new.startswith(top)
    assert TOP in new  # two steps of training make a model of one answer, whose audit is not to be trusted
    assert old[index:] + f"\n{BEGIN}" in HEADLINE.sub("", new)
    report = RobustnessReport.load(place / "audit/report.json")
    assert all(str(each.accuracy) in new for each in report.measurements)
    known = {
        metric["args"]["attack"]: (metric["args"]["correct"], metric["args"]["count"])
        for result in card_metadata(new)["model-index"][0]["results"]
        for metric in result["metrics"]
        if metric["args"]["report"] == "audit/report.json"
    }
    every = report.worst_case("someone/hardened")
    assert known == {each.attack: (each.correct, each.count) for each in (*report.measurements, every)}
    for secret in (TOKEN, USER, str(place), str(ROOT)):
        assert hub.uploads_with(secret) == []


def test_an_audit_by_somebody_else_is_a_pull_request(hub, audited, place):
    model = hub.repositories["models", "someone/hardened"]
    main, settings = model.commit(), {**AUDIT, "attacks": "fgsm", "attack_settings": "{}"}
    names = {"model_name_or_path": "someone/hardened", "dataset_name": "someone/colours", "output_dir": "other"}
    command = [ROOT / "recipes/audit.py", *flags({**names, **settings, "limit": 6})]
    refused = run_as_user(hub, place, *command, token=OTHER)
    assert refused.returncode == 1
    assert '"someone/hardened" cannot be changed: the Hub denies this to your token' in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (place / "other").exists()
    done = run_as_user(hub, place, *command, "--create_pr", token=OTHER)
    assert done.returncode == 0, done.stderr
    assert f"{hub.endpoint}/someone/hardened/discussions/1" in done.stderr
    assert model.commit() == main
    proposed = model.files("refs/pr/1")
    assert PEOPLE in proposed["README.md"].decode()
    assert RobustnessReport.from_json(proposed["audit/report.json"].decode()).attacks == ["clean", "fgsm"]


def test_the_numbers_of_both_reports_are_on_the_leaderboard(client, hardened, audited, place, browser):
    client(ROOT / "recipes/leaderboard.py", "--output_dir", "leaderboard", token=None)
    page = browser.new_page()
    page.goto((place / "leaderboard/index.html").as_uri())
    page.get_by_role("button", name="Show all").click()
    table = page.locator("table").inner_text()
    found = [
        (report.measurement(model, attack), attack)
        for folder, model in (("hardened", "hardened"), ("audit", "someone/hardened"))
        for report in [RobustnessReport.load(place / folder / "report.json")]
        for attack in report.attacks
        if attack != "clean"
    ]
    assert [attack for _, attack in found] == ["l4a", "l4a-adaptive", "pgd", "l4a", "l4a-adaptive", "fgsm"]
    for measurement, attack in found:
        assert attack in table
        assert f"{measurement.correct}/{measurement.count}" in table
        assert f"{measurement.accuracy.value:.1%}" in table
    assert "someone/hardened" in table
    page.close()


@pytest.mark.slow(reason="hardens")
def test_a_run_on_local_folders_tells_their_names_only(dataset, encoders, tmp_path):
    dataset.save_to_disk(tmp_path / "colours")
    config = GenAFConfig(output_dir=str(tmp_path / "run"), hub_token=TOKEN, disable_tqdm=True, **QUICK)
    arguments = HardeningArguments(encoders["mae"], str(tmp_path / "colours"), **QUICK_ATTACKS)
    begun = hardening_run(arguments, config)
    begun.folder = tmp_path / "begun"
    with pytest.raises(KeyboardInterrupt), begun.working():
        raise KeyboardInterrupt
    told = (tmp_path / "begun/unfinished_run/settings.json").read_text()
    assert not [secret for secret in (TOKEN, str(tmp_path), encoders["mae"]) if secret in told]

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
    for text in ("", '{"pgd": {"steps": 20}}' * 20):
        assert public_name(text) == text


def test_publishing_by_hand(hub, client, encoders):
    address = client("-c", BY_HAND, encoders["dino"])
    repository = hub.repositories["models", "someone/by-hand"]
    assert repository.access == "private"
    assert repository.files("main") == {}
    expected = {path.name: path.read_bytes() for path in Path(encoders["dino"]).iterdir()}
    assert repository.files("next") == expected
    assert address.strip() == f"{hub.endpoint}/someone/by-hand/commit/{repository.commit('next')}"
