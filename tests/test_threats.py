from dataclasses import replace
from functools import partial

import pytest
import torch
from small_attacks import Brightness

from genaf_hf import PixelModel, evaluate_robustness, with_pixel_values
from genaf_hf.attacks import ATTACKS, UniversalPatch, UniversalPerturbation
from genaf_hf.data import stratified_subset
from genaf_hf.errors import UserError
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.comparison import compare
from genaf_hf.evaluation.evaluate import craft_and_evaluate, evaluate_threats, try_out
from genaf_hf.evaluation.given_attacks import threats_from
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.evaluation.threats import UniversalThreat, at_hand, attacks_of, noise, swept, threats_of

pytestmark = pytest.mark.usefixtures("quick_checks")


@pytest.fixture
def attacker(encoder, dataset):
    return Attacker.of(dataset["train"], "someone/colours", encoder, encoder)


def test_an_attack_on_the_encoder_is_two_threats_and_another_one():
    attacks = {name: ATTACKS[name].configure(eps=0.1) for name in ("l4a", "upgd", "pgd", "square")}
    assert [(each.name, each.knowledge) for each in threats_of(attacks)] == [
        ("l4a", "public encoder"),
        ("l4a-adaptive", "model"),
        ("upgd", "model"),
        ("pgd", "model"),
        ("square", "model's answers"),
    ]


def test_the_attacker_has_some_images_that_are_named(attacker, encoder, dataset, monkeypatch):
    monkeypatch.setattr("genaf_hf.evaluation.attacker.ATTACKER_IMAGES", 7)
    few = Attacker.of(dataset["train"], "someone/colours", encoder, None)
    expected = with_pixel_values(stratified_subset(dataset["train"], 7, seed=0), encoder.processor)[:]
    torch.testing.assert_close(few.images, encoder.to_images(expected["pixel_values"]))
    assert torch.equal(few.labels, expected["labels"])
    assert few.words == "7 images of someone/colours, split train"
    assert attacker.said(ATTACKS["uapgd"].configure()).endswith("split train, with labels")
    assert len(attacker.images) == len(dataset["train"])


def test_what_is_crafted_is_crafted_once_on_the_encoder_and_once_on_each_model(attacker, encoder, resnet, caplog):
    caplog.set_level("INFO", "genaf_hf.evaluation.perturbation_cache")
    models = {"one": encoder, "other": PixelModel(*resnet).eval()}
    attacks = {"mine": ATTACKS["l4a"].configure(eps=0.1, steps=2, layer=0)}
    public, adaptive = (each.crafted(attacker, models) for each in threats_of(attacks))
    assert caplog.messages == ["Crafting l4a", "l4a was crafted before", "Crafting l4a"]
    expected = {name: attacks["mine"](model, attacker.images).delta for name, model in models.items()}
    for name in models:
        assert torch.equal(public.perturbations[name].delta, expected["one"])
        assert torch.equal(adaptive.perturbations[name].delta, expected[name])
        assert adaptive.settings(name)["encoder"] == name
    words = "48 images of someone/colours, split train, without labels"
    assert public.settings("one")["data"] == adaptive.settings("other")["data"] == words


def test_names_that_a_report_cannot_tell_apart_are_refused():
    with pytest.raises(UserError, match='Two attacks are called "l4a-adaptive" in the report, where "-adaptive" is'):
        threats_of({"l4a": ATTACKS["l4a"], "l4a-adaptive": ATTACKS["pgd"]})


def test_a_report_tells_all_settings_so_that_its_attacks_can_be_run_again(attacker, encoder, pixels):
    quick = {"steps": 2, "seed": 3, "width": 8, "batch_size": 4, "area": 0.1, "momentum": 0.5, "random_start": False}
    attacks = {}
    for name in ("l4a-fuse", "uapgd", "upgd", "advencoder-per", "advencoder-pat", "pgd", "square", "fgsm"):
        known = {setting: value for setting, value in quick.items() if setting in ATTACKS[name].setting_names}
        attacks[f"my-{name}"] = ATTACKS[name].configure(**known)
    measure = partial(craft_and_evaluate, {"m": encoder}, pixels["validation"], attacker=attacker)
    report, _ = measure(attacks=attacks)
    told = RobustnessReport.from_json(report.to_json())
    assert told == report
    for name, attack in attacks.items():
        assert set(attack.settings) <= set(report.measurement("m", name).settings)
    again, _ = measure(attacks=attacks_of(told))
    assert again.measurements == report.measurements


def test_a_perturbation_in_l2_is_measured_and_held_against_noise_in_l2(attacker, encoder, pixels):
    attacks = {"long": ATTACKS["l4a"].configure(eps=1.0, norm="l2", steps=20)}
    report, [public, _] = craft_and_evaluate({"m": encoder}, pixels["test"], attacks, attacker)
    found = report.measurement("m", "long")
    assert (found.settings["norm"], found.settings["eps"]) == ("l2", 1.0)
    size, random = public.noise("m")
    assert size == {"norm": "l2", "eps": 1.0}
    images = torch.full((2, 3, 8, 8), 0.5)
    moved = random(None, images, None, seeds=[0, 1]) - images
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.ones(2))
    [check] = [each for each in report.checks if each.name == "long stays in its ball and in [0, 1]"]
    assert check.passed
    assert 0.5 < check.numbers["farthest"] <= 1 + 1e-5


def test_several_encoders_are_attacked_at_once(attacker, encoder, resnet, pixels):
    other = PixelModel(*resnet).eval()
    [public, _] = threats_of({"l4a": ATTACKS["l4a"].configure(eps=0.1, steps=3)})
    found = public.crafted(replace(attacker, encoder=[encoder, other]), {"m": other})
    assert found.settings("m")["encoder"] == "dino, resnet"
    expected = ATTACKS["l4a"].configure(eps=0.1, steps=3)([encoder, other], attacker.images)
    assert torch.equal(found.perturbations["m"].delta, expected.delta)


def test_a_report_that_does_not_tell_all_settings_cannot_be_run_again(encoder, pixels):
    ready = UniversalPerturbation(torch.full((3, 8, 8), 0.1), attack="l4a", eps=0.1, steps=2, seed=0)
    report = evaluate_robustness({"m": encoder}, pixels["validation"], {"ready": ready})
    with pytest.raises(UserError, match=r'The report does not tell the \w+ of "ready"'):
        attacks_of(report)


def test_a_perturbation_at_hand_is_told_by_its_content(encoder, pixels):
    """Two files of one name and one provenance: what a model keeps under the one says nothing of the other."""
    deltas = [0.1 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed)).sign() for seed in (0, 0, 1)]
    ready = [{"found": UniversalPerturbation(delta, attack="published", eps=0.1)} for delta in deltas]
    models = {"m": encoder}
    reports = [evaluate_threats(models, pixels["test"], at_hand(each, models)) for each in ready]
    assert compare(*reports[:2]).changes[-1].attack == "found-at-hand"
    with pytest.raises(UserError, match="no attack in common that was run alike"):
        compare(*reports[1:])


def test_the_sweep_has_one_universal_attack_and_one_on_single_images():
    names = ("advencoder-pat", "l4a", "ssp", "autoattack", "pgd", "square")
    attacks = {name: ATTACKS[name].configure(**({} if name == "advencoder-pat" else {"eps": 0.4})) for name in names}
    for factor, eps in ((0.5, 0.2), (4.0, 1.0)):
        found = swept(attacks, factor)
        assert {name: attack.settings["eps"] for name, attack in found.items()} == dict.fromkeys(("l4a", "pgd"), eps)
        assert found["pgd"].settings["step_size"] == 2.5 * eps / 20


# ---- beside noise ----


def test_noise_lies_on_the_surface_of_the_ball_and_is_drawn_by_the_seeds():
    images = torch.full((3, 3, 4, 4), 0.5)
    found = noise(None, images, None, eps=0.1, seeds=[5, 6, 5])
    torch.testing.assert_close((found - images).abs(), torch.full_like(images, 0.1))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    longest = (noise(None, images, None, eps=0.1, norm="l2", seeds=[5, 6, 7]) - images).flatten(1).norm(dim=1)
    torch.testing.assert_close(longest, torch.full((3,), 0.1))


def test_a_patch_is_held_against_a_patch_of_noise_in_its_place():
    patch = UniversalPatch(torch.zeros(3, 2, 2), attack="advencoder-pat", eps=1.0, top=1, left=0)
    threat = UniversalThreat("patch", "public encoder", {"m": patch})
    size, random = threat.noise("m")
    images = torch.full((4, 3, 5, 5), 0.5)
    changed = (random(None, images, None, seeds=range(4)) != images).any(dim=1)
    square = {"shape": "square", "degrees": 0.0, "smallest": 1.0}
    assert size == {"patch": [3, 2, 2], "top": 1, "left": 0, **square}
    assert changed.sum() == 4 * 2 * 2
    assert changed[:, 1:3, :2].all()


def test_a_perturbation_is_held_against_itself_with_its_pixels_shuffled():
    delta = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    threat = UniversalThreat("one", "public encoder", {"m": UniversalPerturbation(delta, attack="l4a", eps=1.0)})
    found = threat.shuffled("m")(None, torch.zeros(1, 3, 5, 5), None, seeds=[0])[0]
    pixels, before = ({tuple(pixel.tolist()) for pixel in each.flatten(1).T} for each in (found, delta))
    assert pixels == before
    assert not torch.equal(found, delta)
    assert threats_of({"pgd": ATTACKS["pgd"].configure()})[0].shuffled("m") is None


class FirstPixel(PixelModel):
    """Tells images apart by the color of their first pixel."""

    def forward(self, images):
        return images[:, :, 0, 0] + 0 * self.model.classifier.bias.sum()


def test_what_fools_no_more_than_itself_shuffled_is_marked(vit):
    """A perturbation without a pattern beats noise of its size, which keeps the mean: it makes images brighter."""
    model = Brightness(*vit)
    rows = [{"pixel_values": row, "labels": 0} for row in model.to_pixel_values(torch.full((40, 3, 8, 8), 0.4))]
    brighter = UniversalPerturbation(torch.full((3, 8, 8), 0.2), attack="l4a", eps=0.2)
    [_, found] = evaluate_robustness({"m": model}, rows, {"brighter": brighter}).measurements
    assert (found.correct, found.noise_correct, found.shuffled_correct, found.beyond_noise) == (0, 40, 0, False)


def test_what_fools_no_more_than_noise_is_marked(vit):
    """One perturbation changes the pixel that the model looks at, the other all others."""
    model = FirstPixel(*vit)
    colors = (0.3 + 0.4 * torch.eye(3))[:, :, None, None].expand(3, 3, 8, 8)
    rows = [{"pixel_values": row, "labels": i} for i, row in enumerate(model.to_pixel_values(colors))] * 24
    telling, beside = torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.3)
    telling[:, 0, 0], beside[:, 0, 0] = torch.tensor([0.3, -0.3, -0.3]), 0
    attacks = {name: UniversalPerturbation(delta, attack="l4a", eps=0.3) for name, delta in
               (("beside", beside), ("telling", telling))}  # fmt: skip
    report = evaluate_robustness({"m": model}, rows, attacks)
    found = {each.attack: (each.correct, each.beyond_noise) for each in report.measurements}
    noisy = {each.noise_correct for each in report.measurements[1:]}
    assert found == {"clean": (72, None), "beside": (72, False), "telling": (24, True)}
    assert len(noisy) == 1
    assert 24 < noisy.pop() < 72
    marks = {line.split("|")[1].strip(): line.partition(") ")[2] for line in report.table().splitlines()[2:]}
    assert "*no more than noise*" in marks["beside"]
    assert "*worst*" in marks["telling"]
    assert "noise" not in marks["telling"]


# ---- what users give ----


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"target": 9}, "target is 9, expected one of the model's 3 classes"),
        ({"restarts": 0}, "restarts is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_what_is_crafted_on_the_model_alone_is_tried_out_by_one_step(attacker, encoder, caplog, settings, sentence):
    [threat] = threats_of({"upgd": ATTACKS["upgd"].configure(steps=10**9, **settings)})
    with pytest.raises(UserError, match=sentence):
        threat.try_out(attacker, encoder)


@pytest.mark.parametrize(
    ("second", "settings", "sentence"),
    [
        ("uapgd", {"target": 9}, "target is 9, expected a class of the attacker's images: 0, 1, 2"),
        ("ssp", {"image": 48}, "image is 48, expected one of the attacker's 48 images"),
        ("ssp", {"image": 5, "max_images": 5}, "image is 5, expected one of the attacker's 5 images"),
        ("upgd", {"target": 9}, "target is 9, expected one of the model's 3 classes"),
    ],
)
def test_a_target_that_is_not_there_is_refused_before_anything_is_crafted(
    attacker, encoder, second, settings, sentence
):
    attacks = {"l4a": ATTACKS["l4a"].configure(steps=10**9), second: ATTACKS[second].configure(**settings)}
    with pytest.raises(UserError, match=sentence):
        try_out(attacks, attacker, encoder)


def test_a_model_that_is_sure_of_an_image_can_be_tried_out(attacker, encoder):
    with torch.no_grad():
        encoder.model.classifier.bias[attacker.labels[0]] += 500  # no gradient at images of this class
    upgd, found = ATTACKS["upgd"], []

    def kept(*given, **settings):
        found.append(upgd.function(*given, **settings))
        return found[-1]

    [threat] = threats_of({"upgd": replace(upgd, function=kept).configure(eps=0.1)})
    threat.try_out(attacker, encoder)
    [perturbation] = found
    assert perturbation.steps == 1
    assert 0 < perturbation.delta.abs().max() <= torch.tensor(0.1)


def test_what_crafts_one_perturbation_for_all_images_is_asked_for_its_perturbation_at_once(encoder):
    for name in ("l4a", "upgd"):
        with pytest.raises(UserError, match=f'The attack "mine" is {name}, which crafts one perturbation for all'):
            threats_from({"mine": ATTACKS[name].configure()}, {"model": encoder})


def test_a_threat_comes_from_whatever_a_user_has(encoder):
    ready = UniversalPerturbation(torch.zeros(3, 8, 8), attack="uap", eps=0.1)
    asked = {"a": ready, "b": {"m": ready}, "c": partial(ATTACKS["pgd"].function, eps=0.1, steps=2)}
    found = threats_from(asked, {"m": encoder})
    assert [(each.name, each.knowledge, each.universal) for each in found] == [
        ("a", "public encoder", True),
        ("b", "model", True),
        ("c", "model", False),
    ]
    assert found[1].settings("m") == {"norm": "linf", **ready.provenance, "encoder": "m"}
    assert found[2].settings("m")["step_size"] == 2.5 * 0.1 / 2
