"""What a trainer writes and shares after training, the latter against a local Hub."""

import json
from pathlib import Path

import pytest
from cards import make_report
from hub_user import TOKEN, USER, run_as_user
from huggingface_hub import ModelCard
from local_hub import LocalHub
from test_hub import PUSH_PUBLIC_THINGS
from train_tiny import PROCESSOR

from genaf_hf import GenAFTrainer, load_images, with_pixel_values
from genaf_hf.errors import UserError
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.sharing.record import TrainingRecord
from genaf_hf.training.sharing_trainer import dataset_source

pytestmark = [pytest.mark.slow(reason="trains"), pytest.mark.usefixtures("quick_checks")]

ROOT = Path(__file__).parents[1]
WRITTEN = {"README.md", "report.json", "report.csv", "training.json", "layer_robustness.json"}
PICTURES = {"layer_robustness.png", "training_curves.png"}
MODEL = {"config.json", "model.safetensors", "preprocessor_config.json"}

TRAIN_AND_PUSH = """
import json, sys
from functools import partial
from datasets import load_dataset
from genaf_hf import GenAFConfig, GenAFTrainer, load_encoder
from genaf_hf.data import to_pixel_values

data = load_dataset("someone/colours")
model, processor = load_encoder("someone/encoder", data["train"].features["label"].names)
pixels = data.with_transform(partial(to_pixel_values, processor=processor))
config = GenAFConfig(
    output_dir="trained", push_to_hub=True, hub_strategy="every_save", hub_token=sys.argv[1],
    save_strategy="steps", save_steps=1, max_steps=2, adapt_max_steps=1, steps=1, assessment_samples=8,
    per_device_train_batch_size=8,
    report_to="none", use_cpu=True, disable_tqdm=True,
)
parts = {"train_dataset": pixels["train"], "eval_dataset": pixels["validation"], "processing_class": processor}
trainer = GenAFTrainer(model, config, **parts)
trainer.train()
print(trainer.push_to_hub(commit_message="Hardened here", push_anyway=True))
"""

TRAIN_AND_PUSH_AN_ADAPTER = """
import json, sys
from functools import partial
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from genaf_hf import GenAFConfig, GenAFTrainer, load_encoder
from genaf_hf.data import to_pixel_values

encoder, output_dir = sys.argv[1:]
data = load_dataset("someone/colours")
model, processor = load_encoder(encoder, data["train"].features["label"].names)
model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"]))
pixels = data.with_transform(partial(to_pixel_values, processor=processor))
config = GenAFConfig(
    output_dir=output_dir, max_steps=2, adapt_epochs=0, steps=1, per_device_train_batch_size=8, learning_rate=0.1,
    save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
)
parts = {"train_dataset": pixels["train"], "eval_dataset": pixels["validation"], "processing_class": processor}
trainer = GenAFTrainer(model, config, **parts)
trainer.train()
trainer.push_to_hub(push_anyway=True)
images = torch.stack([pixels["test"][i]["pixel_values"] for i in range(4)])
with torch.no_grad():
    print(json.dumps(trainer.model.eval()(pixel_values=images).logits.tolist()))
"""

LOAD_THE_ADAPTER = r"""
import json, re, sys
import torch
from datasets import load_dataset
from huggingface_hub import ModelCard
from transformers import AutoImageProcessor

[code] = re.findall(r"```python\n(.*?)```", ModelCard.load("someone/adapter").text, re.DOTALL)
exec(code)
images = load_dataset("someone/colours", split="test")["image"][:4]
inputs = AutoImageProcessor.from_pretrained("someone/adapter")(images, return_tensors="pt")
with torch.no_grad():
    print(json.dumps(model.eval()(**inputs).logits.tolist()))
assert "genaf_hf" not in sys.modules
"""


@pytest.fixture
def trainer(vit, pixels, config) -> GenAFTrainer:
    model, processor = vit
    data = {"train_dataset": pixels["train"], "eval_dataset": pixels["validation"]}
    return GenAFTrainer(model, config(eps=0.1), processing_class=processor, **data)


def files_in(folder: str | Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


# ---- what it writes ----


def test_images_keep_their_name_where_they_are_decoded(dataset, tmp_path):
    for row, image in enumerate(dataset["train"]["image"]):
        (tmp_path / f"photos/{row % 2}").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / f"photos/{row % 2}/{row}.png")
    images = load_images(str(tmp_path / "photos"))["train"]
    assert dataset_source(with_pixel_values(images, PROCESSOR), "train") == dataset_source(images, "train")
    assert dataset_source(images, "train")["name"] == "photos"


def test_a_card_tells_what_the_trainer_measures_itself(trainer):
    trainer.train()
    trainer.evaluate()
    trainer.create_model_card()
    folder = Path(trainer.args.output_dir)
    assert files_in(folder) == WRITTEN | PICTURES
    report, record = RobustnessReport.load(folder / "report.json"), TrainingRecord.load(folder / "training.json")
    card = ModelCard.load(folder / "README.md")
    assert report.attacks == ["clean", "pgd"]
    assert {each.count for each in report.measurements} == {12}
    assert [each.metric_value for each in card.data.eval_results] == [
        pytest.approx(each.accuracy.value, abs=1e-6) for each in report.measurements
    ]
    assert report.table() in card.text
    assert card.data.model_name == "run"
    assert {name: stage["steps"] for name, stage in record.stages.items()} == {"adversarial_finetune": 6, "adapt": 4}
    assert record.data == {
        "name": "images without a name",
        "config": None,
        "revision": None,
        "splits": {"train": 48, "validation": 12},
        "class_names": ["red", "green", "blue"],
    }
    assert record.hyperparameters["eps"] == 0.1
    assert (
        record.layers["redundant_layers"]
        == json.loads((folder / "layer_robustness.json").read_text())["redundant_layers"]
    )
    for path in folder.rglob("*.*"):
        assert str(folder.parent).encode() not in path.read_bytes(), path


def test_a_card_of_a_report_that_is_there_and_of_a_model_without_defense(trainer):
    trainer.standard_finetune()
    trainer.create_model_card("someone/undefended", make_report("hardened"))
    folder = Path(trainer.args.output_dir)
    assert RobustnessReport.load(folder / "report.json") == make_report("hardened")
    card = ModelCard.load(folder / "README.md")
    assert (card.data.model_name, card.data.tags) == ("someone/undefended", ["adversarial-robustness"])
    assert "fine-tuned on clean images, without any defence" in card.text
    assert files_in(folder) == WRITTEN - {"layer_robustness.json"} | {"training_curves.png"}


def test_layers_that_another_run_assessed_are_not_shown_as_those_of_this_one(trainer):
    trainer.assess_layers()
    [*_, other] = json.loads(Path(trainer.args.output_dir, "layer_robustness.json").read_text())["contributions"]
    trainer.adapt([other])
    assert trainer.training_record().layers is None


def test_what_cannot_be_measured_or_pushed_is_refused(trainer):
    with pytest.raises(ValueError, match="blocking is False, expected True"):
        trainer.push_to_hub(blocking=False)
    trainer.eval_dataset = None
    with pytest.raises(ValueError, match="There is no eval_dataset to measure robustness on"):
        trainer.create_model_card()


def test_what_the_hub_does_not_take_is_kept_with_its_card(trainer):
    with pytest.raises(UserError, match=r"was not pushed: .*HF_HUB_OFFLINE.*everything is kept in .*genaf-hf push"):
        trainer.push_to_hub(push_anyway=True)
    assert {"model.safetensors", "preprocessor_config.json", "README.md", "report.json"} <= files_in(
        trainer.args.output_dir
    )


# ---- what it shares ----


@pytest.fixture(scope="module")
def pushed(hub, place, dataset, encoders):
    """The Hub after a push, where it was pushed from, and what was printed."""
    dataset.save_to_disk(place / "images")
    for command in ((PUSH_PUBLIC_THINGS, place / "images", encoders["mae"]), (TRAIN_AND_PUSH, TOKEN)):
        hub.uploads.clear()
        done = run_as_user(hub, place, "-c", *command)
        assert done.returncode == 0, done.stderr
    return hub, place, done.stdout


def test_exactly_the_result_is_shared(pushed):
    hub, place, printed = pushed
    repository = hub.repositories["models", "someone/trained"]
    assert set(repository.files()) == WRITTEN | PICTURES | MODEL
    assert all(content == (place / "trained" / path).read_bytes() for path, content in repository.files().items())
    assert (place / "trained/training_args.bin").exists()
    commits = [set(files) for files in repository.commits.values()]
    assert all(files <= WRITTEN | PICTURES | MODEL for files in commits)
    assert f"{hub.endpoint}/someone/trained/commit/{repository.commit()}" in printed


def test_the_shared_card_names_its_public_sources(pushed):
    hub, place, _ = pushed
    card = ModelCard.load(place / "trained/README.md")
    assert (card.data.model_name, card.data.base_model) == ("someone/trained", "someone/encoder")
    assert (card.data.datasets, card.data.license) == (["someone/colours"], "cc-by-4.0")
    revision = hub.repositories["datasets", "someone/colours"].commit()
    assert {each.dataset_revision for each in card.data.eval_results} == {revision}
    assert {each.dataset_split for each in card.data.eval_results} == {"validation"}


def test_nothing_shared_tells_the_token_or_the_machine(pushed):
    hub, place, _ = pushed
    assert hub.uploads_with("someone/colours")
    for secret in (TOKEN, USER, str(place), str(ROOT)):
        assert hub.uploads_with(secret) == []


@pytest.fixture(scope="module")
def adapter_users(tmp_path_factory, dataset, encoders):
    """A Hub of their own with images and an encoder, and a function that runs Python as its user: what it prints."""
    place = tmp_path_factory.mktemp("adapters")
    dataset.save_to_disk(place / "images")

    def run(*command, token: str | None = TOKEN) -> str:
        done = run_as_user(hub, place, "-c", *command, token=token)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with LocalHub({TOKEN: "someone"}) as hub:
        run(PUSH_PUBLIC_THINGS, place / "images", encoders["dino"])
        yield hub, run


def test_a_stranger_loads_a_shared_adapter_as_its_card_says(adapter_users):
    _, run = adapter_users
    ours = json.loads(run(TRAIN_AND_PUSH_AN_ADAPTER, "someone/encoder", "adapter").splitlines()[-1])
    theirs = json.loads(run(LOAD_THE_ADAPTER, token=None).splitlines()[-1])
    assert theirs == [pytest.approx(row, abs=1e-6) for row in ours]


def test_a_shared_adapter_of_a_local_encoder_tells_its_name_only(adapter_users, encoders):
    hub, run = adapter_users
    hub.uploads.clear()
    run(TRAIN_AND_PUSH_AN_ADAPTER, encoders["dino"], "local-adapter")
    files = hub.repositories["models", "someone/local-adapter"].files()
    assert files.keys() >= {"adapter_config.json", "adapter_model.safetensors", "README.md", "report.json"}
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "dino"
    for secret in (TOKEN, USER, str(Path(encoders["dino"]).parent)):
        assert hub.uploads_with(secret) == []
