"""What an audit is given: models, encoders and settings that are refused before any work."""

import re
import runpy
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from audits import PATCH, RECIPE, arguments, flags, images, model
from conftest import CLASSES, SIDE, TINY_VIT
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from genaf_hf import UniversalPerturbation
from genaf_hf.attacks import ATTACKS, register_attack
from genaf_hf.audit import audit
from genaf_hf.errors import UserError
from genaf_hf.pipelines.attack_arguments import DEFAULT_ATTACKS, attacks_by_name, named_attacks
from genaf_hf.pipelines.audit_case import base_model, load_model, public_encoder
from genaf_hf.sharing.record import TrainingRecord

__all__ = ["arguments", "images", "model"]  # fixtures
pytestmark = [
    pytest.mark.slow(reason="loads models"),
    pytest.mark.usefixtures("home", "quick_checks"),
]


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("base_model: someone/encoder", "someone/encoder"),
        ("base_model:\n- someone/encoder", "someone/encoder"),
        ("base_model: someone/encoder\nmodel-index: broken", "someone/encoder"),
    ],
)
def test_the_base_model_is_read_from_the_card(tmp_path, card, name):
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n# Ünïcode\n", encoding="utf-8")
    assert base_model(str(tmp_path)) == name


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        (None, "names no base_model"),
        (b"# No front matter", "names no base_model"),
        (b"---\nlicense: mit\n---\n", "names no base_model"),
        (b"---\nbase_model: [a/b, c/d]\n---\n", "names a/b, c/d"),
        (b"---\nbase_model: [1, 2]\n---\n", "names 1, 2"),
        (b"---\nbase_model: [a\n---\n", "cannot be read (its metadata is no YAML: while parsing a flow sequence"),
        (b"---\n- a\n---\n", "cannot be read (its metadata is a list, expected names and values"),
        (b"\xff\xfe\xfd", "cannot be read ('utf-8' codec can't decode"),
    ],
)
def test_a_card_that_does_not_name_one_base_model_is_refused(tmp_path, card, sentence):
    if card is not None:
        (tmp_path / "README.md").write_bytes(card)
    with pytest.raises(ValueError, match="with --encoder") as refusal:
        base_model(str(tmp_path))
    assert str(refusal.value).startswith(f'The card of "{tmp_path}" {sentence}')
    assert "\n" not in str(refusal.value)


def test_an_encoder_that_was_a_local_folder_is_told_by_its_name(tmp_path):
    (tmp_path / "README.md").write_text("# A model\n")
    TrainingRecord({"name": "mobilenet"}, {}).save(tmp_path / "training.json")
    with pytest.raises(
        UserError, match=r'no base_model \(it was made from a folder called "mobilenet"\): name the pub'
    ):
        base_model(str(tmp_path))


def test_an_encoder_that_a_card_names_and_that_the_model_does_not_come_from_is_told(tmp_path, caplog):
    def published(name: str, seed: int, moved: float = 0.0) -> Path:
        torch.manual_seed(seed)
        model = ViTForImageClassification(ViTConfig(**TINY_VIT, id2label=dict(enumerate(CLASSES)))).eval()
        torch.manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += moved * parameter.std(correction=0) * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / name)
        ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path / name)
        return tmp_path / name

    model = load_model(str(published("mine", 0, moved=1.0)))  # as far from the encoder as its weights are large
    for number, seed in enumerate((0, 7)):
        (tmp_path / "mine/README.md").write_text(f"---\nbase_model: {published('encoder', seed)}\n---\n")
        public_encoder(None, model, str(tmp_path / "mine"))
        assert caplog.text.count("are no more alike than chance (cosine ") == number
    public_encoder(str(tmp_path / "encoder"), model, str(tmp_path / "mine"))  # which the auditor named
    assert caplog.text.count("no more alike") == 1


def test_an_attack_whose_reach_a_report_cannot_tell_is_refused():
    @register_attack("model", "images", "labels")
    def turned(model, images, labels, *, steps: int | None = None, seeds=None):
        return images.flip(-1)

    try:
        with pytest.raises(UserError, match="The attack turned has no setting eps, by which a report tells how far"):
            named_attacks("turned", None)
    finally:
        del ATTACKS["turned"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attack_settings": {"pgd": {"steps": 0}}}, "steps is 0, expected a whole number"),
        ({"attacks": "l4a,pdg"}, 'There is no attack "pdg" \\(did you mean "pgd"\\?\\); there are .*l4a, l4a-fuse'),
        ({"attacks": " , "}, 'attacks are " , ", expected different names, separated by commas, of'),
        ({"attacks": "pgd,pgd"}, 'attacks are "pgd,pgd", expected different names,'),
        ({"dae_eps": 10}, r"eps is 10, expected a value in \(0, 1\]"),
        ({"eps": 0}, r"eps is 0, expected a value in \(0, 1\]"),
        *(
            ({"sweep": sweep}, rf"sweep is {re.escape(str(sweep))}, expected positive numbers other than 1, such as")
            for sweep in ([2.0, 1.0], [-2.0], [float("inf")], ["a"], 2.0, None)
        ),
        ({"limit": 0}, "limit is 0, expected at least 1 image"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1 image"),
        ({"attack_settings": "{"}, "attack_settings are {, expected JSON such as"),
        ({"attack_settings": "[1]"}, r"attack_settings are \[1\], expected settings by name"),
        ({"attack_settings": {"l4a": 3}}, r"attack_settings are \{'l4a': 3\}, expected settings by name"),
        ({"attack_settings": {"layr": 1}}, 'attack_settings have "layr", a setting of none of the attacks l4a, adv'),
        ({"attack_settings": {"std": {}}}, 'attack_settings are for "std", which is not among the attacks l4a, adv'),
        ({"attack_settings": {"l4a": {"layr": 1}}}, 'l4a has no setting "layr"; it has eps, norm, steps,'),
        ({"attack_settings": {"l4a": {"steps": 0}}}, "steps is 0, expected a whole number"),
        ({"attack_settings": {"l4a": {"steps": "9"}}}, 'steps is "9", expected a whole number'),
        ({"attack_settings": {"l4a": {"layer": [1]}}}, r"layer is \[1\], expected a whole number or a text"),
        ({"attack_settings": {"l4a": {"layer": 9}}}, "layer is 9, expected 0 to 2"),
        ({"attack_settings": {"l4a": {"data": "mine"}}}, "give the data of l4a, which is told by itself"),
        ({"attack_settings": {"pgd": {"seeds": [1]}}}, 'pgd has no setting "seeds"'),
        ({"attack_settings": {"pgd": {"loss": "mse"}}}, 'loss is "mse", expected one of cross-entropy, dlr'),
        ({"dae_eps": None, "attack_settings": {"norm": "l2"}}, "attack_settings give l4a the norm l2 without an eps"),
        ({"attack_settings": {"pgd": {"norm": "l3"}}}, 'norm is "l3", expected one of linf, l2'),
        ({"attack_settings": {"pgd": {"step_size": -1}}}, "step_size is -1, expected a positive length"),
        ({"attack_settings": {"pgd": {"restarts": 0}}}, "restarts is 0, expected 1 to 100"),
        ({"attack_settings": {"max_images": 0}}, "max_images is 0, expected at least 1, or None for all"),
        ({"under": "clean"}, 'under is "clean" without fail_under, so that nothing is asked of it: give an accuracy'),
        ({"perturbations": "nobody/nothing"}, 'There is no collection of perturbations "nobody/nothing"'),
        ({"attack_settings": {"square": {"share": "half"}}}, 'share is "half", expected a number'),
        ({"attack_settings": {"square": {"share": 2}}}, "share is 2, expected a share of the pixels"),
        ({"attack_settings": {"advencoder-pat": {**PATCH, "area": 1.1}}}, "area is 1.1, a patch of 0 pixels a side"),
        (
            {"model_name_or_path": "nobody/nothing"},
            'The model "nobody/nothing" is neither a local folder nor in the cache',
        ),
        ({"dataset_name": "nobody/nothing"}, 'The dataset "nobody/nothing" is neither a local folder nor in the cache'),
        ({"encoder": "nobody/nothing"}, 'The model "nobody/nothing" is neither a local folder nor in the cache'),
        ({"encoder": "nobody/nothing,"}, 'The model "nobody/nothing" is neither a local folder nor in the cache'),
    ],
)
def test_bad_input_is_refused_in_one_sentence_and_leaves_nothing(arguments, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        audit(arguments(tmp_path / "out", **changes))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def odd_models(tmp_path, model, encoders) -> dict[str, str]:
    """Folders by what is odd about what is there."""
    folders = {name: str(tmp_path / name) for name in ("other labels", "no card", "teacher")}
    shutil.copytree(model, folders["no card"], ignore=shutil.ignore_patterns("README.md"))
    others = ViTConfig(**TINY_VIT, id2label=dict(enumerate(["red", "green", "violet"])))
    ViTForImageClassification(others).save_pretrained(folders["other labels"])
    DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY_VIT, num_labels=3)).save_pretrained(folders["teacher"])
    for name in ("other labels", "teacher"):
        ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folders[name])
    return {**folders, "no head": encoders["dino"]}


@pytest.mark.parametrize(
    ("changed", "name", "sentence"),
    [
        (
            "model_name_or_path",
            "other labels",
            'not exactly one class for "blue" of the dataset; it has "red", "green", "v',
        ),
        ("model_name_or_path", "no card", 'no card" names no base_model: name the public encoder with --encoder'),
        ("model_name_or_path", "no head", "lacks 2 weights of a ViTForImageClassification"),
        (
            "model_name_or_path",
            "teacher",
            'ForImageClassificationWithTeacher, expected one with a head by the name "cl',
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(arguments, odd_models, changed, name, sentence, tmp_path):
    encoder = {} if name == "no card" else {"encoder": odd_models["no head"]}
    with pytest.raises(ValueError, match=sentence):
        audit(arguments(tmp_path / "out", **{**encoder, changed: odd_models[name]}))
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_no_attack_is_crafted_on_is_said_not_to_be_read(arguments, tmp_path, caplog):
    audit(arguments(tmp_path / "out", "fgsm", encoder="nosuch/encoder", sweep=[]))
    assert "The encoder is not read: none of these attacks is crafted on one." in caplog.text


def test_an_encoder_of_larger_images_is_brought_to_the_size_of_the_model(arguments, tmp_path):
    large = tmp_path / "large"
    ViTModel(ViTConfig(**{**TINY_VIT, "image_size": 16})).save_pretrained(large)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(large)
    report = audit(arguments(tmp_path / "out", "l4a", encoder=str(large), sweep=[]))
    assert report.measurement("model", "l4a").settings["encoder"] == "large"
    perturbation = UniversalPerturbation.from_pretrained(tmp_path / "out/perturbations/l4a")
    assert perturbation.delta.shape == (3, SIDE, SIDE)


def test_an_audit_at_its_defaults_has_autoattack_where_it_is_installed(monkeypatch):
    expected = ["l4a", "ssp", "uapgd", "advencoder-per", "advencoder-pat", "upgd", "pgd", "square"]
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    assert [*named_attacks(None)] == [*attacks_by_name(None)] == expected == DEFAULT_ATTACKS.split(",")
    installed = ModuleType("pyautoattack")
    installed.__spec__ = ModuleSpec("pyautoattack", None)
    monkeypatch.setitem(sys.modules, "pyautoattack", installed)
    assert [*named_attacks(None)] == [*attacks_by_name(None)] == [*expected, "autoattack"]
    for names, own, most in ((None, {}, 32), (None, {"max_images": None}, None), (["autoattack"], {}, None)):
        found = named_attacks(names, {"autoattack": own})["autoattack"]
        assert found.settings["max_images"] == most


def test_without_its_package_autoattack_is_refused_before_any_work(arguments, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(UserError, match="AutoAttack is not installed: pip install"):
        audit(arguments(tmp_path / "out", "l4a,autoattack"))
    assert not (tmp_path / "out").exists()


def test_the_recipe_refuses_in_one_sentence(arguments, tmp_path, monkeypatch):
    odd = arguments(tmp_path / "out", attack_settings='{"pgd": {"step": 1}}')
    monkeypatch.setattr("sys.argv", [str(RECIPE), *flags(odd)])
    with pytest.raises(SystemExit, match=r'^\spgd has no setting "step"; it has eps, steps,'):
        runpy.run_path(str(RECIPE), run_name="__main__")
    assert not (tmp_path / "out").exists()
