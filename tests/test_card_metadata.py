"""What the Hub reads of a card."""

import pytest
from cards import ENCODER, IMAGES, card_of, make_record, make_report
from huggingface_hub import EvalResult, ModelCard
from local_hub import card_errors

from genaf_hf.evaluation.measurement import Check, Measurement
from genaf_hf.sharing.model_card import model_card
from genaf_hf.values.markup import plain

FAILED = Check("hardened", "gradients are not zero", False, {"images without a gradient": 10})


def test_metadata_survives_the_hubs_own_reader(tmp_path):
    report = make_report(checks=[FAILED])
    model_card(report, make_record(), model_name="someone/hardened").save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.base_model == "someone/encoder"
    assert data.datasets == ["someone/colours"]
    assert data.license == "mit"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-classification")
    assert data.tags == ["genaf", "adversarial-robustness"]
    assert data.model_name == "someone/hardened"
    found = {each.metric_name: each for each in data.eval_results}
    assert list(found) == [
        "clean accuracy",
        *(f"robust accuracy under {attack}" for attack in ("l4a", "l4a-adaptive", "pgd")),
    ]
    assert [each.metric_value for each in data.eval_results] == [0.8, 0.7, 0.6, 0.5]
    assert all(type(each.metric_value) is float for each in data.eval_results)
    common = {"model_class": "ViTForImageClassification", "report": "report.json", "report_sha256": report.sha256}
    assert found["robust accuracy under l4a"] == EvalResult(
        task_type="image-classification",
        dataset_type="someone/colours",
        dataset_name="someone/colours",
        dataset_split="test",
        dataset_revision=IMAGES,
        metric_type="robust_accuracy",
        metric_name="robust accuracy under l4a",
        metric_value=0.7,
        metric_args={
            "attack": "l4a",
            "knowledge": "public encoder",
            "norm": "linf",
            "eps": 10 / 255,
            "steps": 50,
            "seed": 7,
            "surrogate": "someone/encoder",
            "surrogate_revision": ENCODER,
            "correct": 7,
            "count": 10,
            "interval": [0.396778, 0.892209],
            "reliable": False,
            "worst": True,
            **common,
        },
    )
    assert found["clean accuracy"].metric_type == "accuracy"
    assert found["clean accuracy"].metric_args["reliable"] is True
    assert found["robust accuracy under pgd"].metric_args["seed"] == 3


def test_metadata_names_only_what_is_on_the_hub_and_only_a_known_license():
    local = {"name": "encoder", "revision": None, "license": None}
    images = {**make_report().dataset, "name": "colours", "revision": None}
    data = card_of(record=make_record(base_model=local), dataset=images).data.to_dict()
    assert not {"base_model", "datasets", "license"} & data.keys()
    assert not {"base_model", "license"} & card_of().data.to_dict().keys()
    assert card_of().data.tags == ["adversarial-robustness"]
    unnamed = card_of(dataset={"count": 10})
    assert {each.dataset_name for each in unnamed.data.eval_results} == {"images without a name"}
    assert "--dataset_name photos " in unnamed.text
    assert "photos stands for a folder of them" in unnamed.text
    nothing = [Measurement("hardened", "clean", "nothing", {}, 0, 0, 0)]
    assert card_of("hardened", measurements=nothing).data.eval_results == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("images without a name", "images-without-a-name"),
        ("my photos (2024)", "my-photos-2024"),
        ("uoft-cs/cifar10", "uoft-cs/cifar10"),
        ("somewhere/below/photos", "somewhere-below-photos"),
        ("\N{CJK UNIFIED IDEOGRAPH-5199}", "images"),
        ("1e-4", "1e-4"),
        ("0o17", "0o17"),
        ("one\x85two\u2028three", "one-two-three"),
    ],
)
def test_the_hub_takes_the_metadata_whatever_things_are_called(name, kind):
    report = make_report(dataset={"name": name, "config": name, "split": name, "revision": None, "count": 10})
    card = model_card(report, make_record(), model_name=name)
    assert card_errors(str(card), "models") == []
    found = {(each.dataset_type, each.dataset_name, each.dataset_split) for each in card.data.eval_results}
    assert found == {(kind, name, name)}


@pytest.mark.parametrize(
    ("given", "known"), [("MIT", "mit"), ("cc-by-4.0", "cc-by-4.0"), ("Apache 2.0", None), ("banana", None)]
)
def test_a_license_that_the_hub_has_no_identifier_for_stands_in_the_text_alone(given, known):
    card = card_of(record=make_record(base_model={"name": "someone/encoder", "revision": ENCODER, "license": given}))
    assert card.data.license == known
    assert f"license: {plain(given)}." in card.text
    assert card_errors(str(card), "models") == []


def test_a_folder_is_no_base_model_though_its_cache_names_a_commit():
    card = card_of(record=make_record(base_model={"name": "my encoder", "revision": ENCODER, "license": None}))
    assert card.data.base_model is None
