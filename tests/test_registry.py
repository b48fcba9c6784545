import pytest

from genaf_hf.attacks import ATTACKS, Attack, fgsm, l4a_fuse, pgd, register_attack, registry


def test_the_attacks_by_their_names():
    assert {*ATTACKS} == {
        *("advencoder-per", "advencoder-pat", "l4a", "l4a-fuse", "l4a-ugs", "std", "ssp", "fff", "uap", "uapgd"),
        *("fgsm", "n-fgsm", "mi-fgsm", "pgd", "feature-pgd", "square", "autoattack"),
    }
    assert ATTACKS["l4a-fuse"].function is l4a_fuse
    assert {name for name, attack in ATTACKS.items() if "labels" not in attack.needs} == {
        *("advencoder-per", "advencoder-pat", "l4a", "l4a-fuse", "l4a-ugs", "std", "ssp", "fff", "feature-pgd")
    }
    assert {name for name, attack in ATTACKS.items() if not attack.universal} == {
        *("fgsm", "n-fgsm", "mi-fgsm", "pgd", "feature-pgd", "square", "autoattack")
    }


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match='There is no attack "l4b"; there are ') as refusal:
        ATTACKS["l4b"]
    assert all(name in str(refusal.value) for name in ATTACKS)
    assert "l4b" not in ATTACKS


def test_defaults_can_be_changed_and_no_others_given():
    attack = ATTACKS["pgd"].configure(steps=3)
    assert attack.func is pgd
    assert attack.keywords == {"eps": 8 / 255, "steps": 3}
    assert ATTACKS["fgsm"].configure().func is fgsm
    with pytest.raises(ValueError, match='pgd has no setting "step"; it has eps, steps, step_size'):
        ATTACKS["pgd"].configure(step=3)


def test_a_decorator_adds_one(monkeypatch):
    monkeypatch.setattr("genaf_hf.attacks.registry.ATTACKS", type(ATTACKS)(ATTACKS))

    @register_attack("model", "images", eps=0.1)
    def my_own(model, images, *, eps, seeds=None):
        return images

    added = registry.ATTACKS["my-own"]
    assert added == Attack("my-own", my_own, ("model", "images"), {"eps": 0.1})
    with pytest.raises(ValueError, match='There is an attack "my-own" already'):
        register_attack("model")(my_own)


@pytest.mark.parametrize("needs", [(), ("images",), ("model", "gradients")])
def test_unknown_needs_are_refused(needs):
    with pytest.raises(ValueError, match="An attack cannot need"):
        register_attack(*needs)
