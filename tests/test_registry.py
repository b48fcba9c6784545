import json
from functools import partial
from typing import Literal, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

from genaf_hf.attacks import (
    ATTACKS,
    Attack,
    feature_pgd,
    fff,
    fgsm,
    l4a,
    l4a_fuse,
    mi_fgsm,
    n_fgsm,
    pgd,
    register_attack,
    square,
)
from genaf_hf.attacks.registry import attack_name, configured
from genaf_hf.errors import UserError
from genaf_hf.pipelines.attack_arguments import attacks_by_name

ENCODER, MODEL = ("encoder", "images", "labels"), ("model", "images", "labels")
PUBLISHED = {
    **dict.fromkeys(("advencoder-per", "advencoder-pat", "l4a", "l4a-fuse", "l4a-ugs", "std", "ssp"), ENCODER[:2]),
    "activation-attack": ENCODER[:2],
    **dict.fromkeys(("uap", "uapgd"), ENCODER),
    "fff": ENCODER[:1],
    **dict.fromkeys(("fgsm", "n-fgsm", "mi-fgsm", "pgd", "square", "autoattack"), MODEL),
    "feature-pgd": MODEL[:2],
    **dict.fromkeys(("upgd", "adversarial-patch"), MODEL),
}


def test_the_attacks_by_their_names():
    assert {name: ATTACKS[name].needs for name in PUBLISHED} == PUBLISHED
    assert ATTACKS["l4a-fuse"].function is l4a_fuse
    assert {name for name, attack in ATTACKS.items() if attack.universal} >= {
        name for name, needs in PUBLISHED.items() if needs[0] == "encoder" or name in ("upgd", "adversarial-patch")
    }


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match='There is no attack "l4b" \\(did you mean "l4a"\\?\\); there are ') as refusal:
        ATTACKS["l4b"]
    assert all(name in str(refusal.value) for name in ATTACKS)
    assert "l4b" not in ATTACKS


def test_defaults_can_be_changed_and_no_others_given():
    attack = ATTACKS["pgd"].configure(steps=3)
    assert attack.function is pgd
    assert attack.settings == {
        "eps": 8 / 255,
        "steps": 3,
        "step_size": 2.5 * 8 / 255 / 3,
        "norm": "linf",
        "random_start": True,
        "restarts": 1,
        "keep_best": True,
        "loss": "cross-entropy",
    }
    assert ATTACKS["pgd"].configure() == ATTACKS["pgd"]
    assert attack.configure(eps=0.3, norm="l2").settings["step_size"] == 2.5 * 0.3 / 3
    assert attack.configure(step_size=0.01, eps=0.3).settings["step_size"] == 0.01
    with pytest.raises(ValueError, match='pgd has no setting "step"; it has eps, steps, step_size'):
        ATTACKS["pgd"].configure(step=3)
    with pytest.raises(UserError, match='steps is "3", expected a whole number'):
        ATTACKS["pgd"].configure(steps="3")


def test_one_that_is_not_configured_is_at_its_defaults(linear):
    given = ATTACKS["pgd"](linear, IMAGES, LABELS, seeds=range(4))
    assert torch.equal(given, ATTACKS["pgd"].configure()(linear, IMAGES, LABELS, seeds=range(4)))
    assert torch.equal(given, pgd(linear, IMAGES, LABELS, **ATTACKS["pgd"].settings, seeds=range(4)))


@pytest.mark.usefixtures("own_registries")
def test_a_decorator_adds_one():
    @register_attack("model", "images", eps=0.1)
    def my_own(model, images, *, eps, seeds=None):
        return images

    added = ATTACKS["my-own"]
    assert added == Attack("my-own", my_own, ("model", "images"), {"eps": 0.1})
    assert (added.knowledge, added.norms, added.citation) == ("model", ("linf",), None)
    with pytest.raises(ValueError, match='attack "my-own" is known already'):
        register_attack("model")(my_own)


def test_what_an_attacker_must_know_is_said_in_words():
    by_knowledge = {name: attack.knowledge for name, attack in ATTACKS.items() if not attack.on_encoder}
    assert by_knowledge.pop("square") == "model's answers"
    assert {*by_knowledge.values()} == {"model"}
    assert {attack.knowledge for attack in ATTACKS.values() if attack.on_encoder} == {"public encoder"}


@pytest.mark.parametrize("name", ATTACKS)
def test_its_settings_are_all_that_it_takes_to_configure_it_again(name):
    attack = ATTACKS[name]
    settings = json.loads(json.dumps(attack.configure().settings))
    assert settings.keys() == {*attack.setting_names}
    assert attack.configure(**settings).settings == settings
    assert attack.norms == get_args(get_type_hints(attack.function).get("norm", Literal["linf"]))


def test_a_step_size_that_is_not_given_is_the_one_that_the_settings_name(linear):
    for attack, settings in ((pgd, {"norm": "l2"}), (mi_fgsm, {})):
        known = ATTACKS[attack.__name__.replace("_", "-")].configure(eps=0.1, steps=4, **settings).settings
        derived = attack(linear, IMAGES, LABELS, **known | {"step_size": None})
        assert torch.equal(derived, attack(linear, IMAGES, LABELS, **known))
        assert not torch.equal(derived, attack(linear, IMAGES, LABELS, **known | {"step_size": 0.01}))


def test_a_partial_is_an_attack_at_the_defaults_of_its_function():
    attack = configured(partial(n_fgsm, eps=np.float32(0.5)))
    assert attack.settings == {"eps": 0.5, "noise": 2.0, "step": 1.0, "within_eps": False, "loss": "cross-entropy"}
    assert configured(attack) == attack
    own = configured(partial(lambda model, images, labels, *, eps: images, eps=0.1))
    assert (own.name, own.needs, own.settings) == ("<lambda>", MODEL, {"eps": 0.1})
    with pytest.raises(UserError, match="pgd has no default for steps"):
        configured(partial(pgd, eps=0.1))


@pytest.mark.parametrize("needs", [(), ("images",), ("model", "gradients")])
def test_unknown_needs_are_refused(needs):
    with pytest.raises(ValueError, match="An attack cannot need"):
        register_attack(*needs)


# ---- attacks of users ----


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3))


IMAGES, LABELS = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(1)), [0, 1, 2, 0]


def test_arguments_are_checked_whatever_they_are_called(own_registries, linear):
    @register_attack("model", "images", "labels")
    def own(net, x, y, *, eps: float):
        return x.dtype, y.dtype, x.requires_grad

    assert own(linear, IMAGES.half().requires_grad_(), np.array(LABELS, "uint8"), eps=0.1) == (
        *(torch.float32, torch.int64),
        False,
    )
    with pytest.raises(UserError, match=r"images span \[0, 9\]"):
        own(linear, IMAGES.clamp(0, 0).index_fill(0, torch.tensor(0), 9), LABELS, eps=0.1)


def test_a_universal_attack_may_call_its_encoder_otherwise(own_registries, linear):
    @register_attack("encoder", "images")
    def own(net, x):
        return torch.is_autocast_enabled("cpu")

    with torch.autocast("cpu"):
        assert own(linear, IMAGES) is False


def test_settings_of_any_name_are_taken(own_registries, linear):
    @register_attack("model", "images", eps=0.1)
    def own(model, images, **settings: float):
        return settings

    assert ATTACKS["own"].configure(width=2.0)(linear, IMAGES) == {"eps": 0.1, "width": 2.0}


def test_annotations_that_cannot_be_evaluated_are_done_without(own_registries, linear):
    @register_attack("model", "images")
    def own(model: "OnlyForTypeCheckers", images, *, eps: "float"):  # noqa: F821
        return eps

    assert own(linear, IMAGES, eps=np.float32(0.5)) == 0.5


class Whitened:
    """An attack that is an object."""

    def __call__(self, model, images, *, eps):
        return images * (1 - eps) + eps


@pytest.mark.parametrize(
    ("function", "name"),
    [(Whitened(), "Whitened"), (partial(lambda model, images, *, eps: images * (1 - eps) + eps), "<lambda>")],
)
def test_objects_and_partials_are_attacks_too(own_registries, linear, function, name):
    register_attack("model", "images", eps=0.5)(function)
    attack = ATTACKS[name]
    assert attack_name(attack.function) == name
    assert attack.configure()(linear, IMAGES).equal(IMAGES * 0.5 + 0.5)


def test_one_that_lacks_a_setting_is_refused_before_it_is_called(own_registries):
    @register_attack("model", "images")
    def own(model, images, *, eps): ...

    for given in (configured, lambda attack: attacks_by_name([attack])):
        with pytest.raises(UserError, match="own has no default for eps: give it a value"):
            given(ATTACKS["own"])


def test_a_function_that_lacks_an_argument_is_refused():
    with pytest.raises(UserError, match='"own" has fewer positional arguments than it needs: model, images, labels'):

        @register_attack("model", "images", "labels")
        def own(model, images): ...


@pytest.mark.parametrize(
    ("given", "settings", "sentence"),
    [
        ((), {}, "pgd: missing a required argument: 'eps'; it is called with model, images, labels and, by name, eps,"),
        ((8 / 255,), {}, "pgd: too many positional arguments"),
        ((), {"alpha": 0.1}, "pgd: missing|pgd: got an unexpected keyword argument 'alpha'"),
        ((), {"eps": 0.1, "steps": 2, "seeds": 5}, "seeds is 5, expected 4 whole numbers"),
        ((), {"eps": 0.1, "steps": 2, "norm": 2}, 'norm is "2", expected one of linf, l2'),
        ((), {"eps": 0.1, "steps": 2, "loss": nn.CrossEntropyLoss(reduction="none")}, "The loss is no single number"),
    ],
)
def test_a_call_that_cannot_be_is_refused_in_one_sentence(linear, given, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        pgd(linear, IMAGES, LABELS, *given, **settings)


class Rounding(nn.Module):
    """A model without a gradient by its images."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(48, 3)

    def forward(self, images):
        return self.linear((images * 255).to(torch.uint8).float().flatten(1))


@pytest.mark.parametrize("attack", [partial(pgd, steps=2), partial(mi_fgsm, steps=2), fgsm, n_fgsm])
def test_a_model_that_an_attack_cannot_be_run_on_is_refused_in_one_sentence(linear, attack):
    for model, labels, sentence in (
        (lambda images: images, LABELS, "The model is a function, expected a torch.nn.Module"),
        (nn.Identity(), LABELS, r"The model gives shape \(4, 3, 4, 4\), expected logits \(n, classes\)"),
        (linear, [0, 1, 2, 3], "labels reach up to 3, but the model has 3 classes"),
        (Rounding(), LABELS, "The model has no gradient by its images"),
    ):
        with pytest.raises(UserError, match=sentence):
            attack(model, IMAGES, labels, eps=0.1)
    assert square(Rounding(), IMAGES, LABELS, eps=0.1, steps=2).shape == IMAGES.shape


@pytest.mark.parametrize("attack", [l4a, fff, feature_pgd])
def test_attacks_on_features_ask_for_a_pixel_model(linear, attack):
    with pytest.raises(UserError, match="The model is a Sequential, which tells no features: expected PixelModel"):
        attack(linear, *([] if attack is fff else [IMAGES]), eps=0.1, steps=1)
