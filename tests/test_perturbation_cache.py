import copy
import shutil
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path

import pytest
import torch

from genaf_hf import PixelModel, load_encoder
from genaf_hf.attacks import ATTACKS, UniversalPatch, UniversalPerturbation, advencoder_pat, register_attack
from genaf_hf.attacks.registry import configured
from genaf_hf.attacks.universal import attacked, universal_attack
from genaf_hf.evaluation.perturbation_cache import CACHE, crafted_once
from genaf_hf.models.identity import digest


@pytest.fixture
def counting_attack(own_registries):
    """A universal attack that counts how often it crafts."""

    @register_attack("encoder", "images", "labels", eps=0.1)
    def counting_attack(encoder, images, labels, *, eps, seed=0):
        counting_attack.calls += 1
        delta = torch.empty(3, 8, 8).uniform_(-eps, eps, generator=torch.Generator().manual_seed(seed))
        return UniversalPerturbation(delta, attack="counting-attack", eps=eps, seed=seed)

    counting_attack.calls = 0
    return counting_attack


@pytest.fixture
def images(encoder, pixels):
    return encoder.to_images(pixels["train"][:5]["pixel_values"])


LABELS = torch.tensor([0, 1, 2, 0, 1])


def test_what_is_the_same_is_crafted_once(counting_attack, encoder, images, tmp_path):
    attack = partial(counting_attack, eps=0.1)
    first = crafted_once(attack, encoder, images, LABELS, cache=tmp_path / "cache")
    again = crafted_once(
        partial(counting_attack, eps=0.1), copy.deepcopy(encoder), images.clone(), LABELS, cache=tmp_path / "cache"
    )
    assert counting_attack.calls == 1
    assert torch.equal(first.delta, again.delta)
    assert first.provenance == again.provenance
    [folder] = (tmp_path / "cache").iterdir()
    assert len(folder.name) == 64
    assert [path.name for path in folder.iterdir()] == ["perturbation.safetensors"]


def test_a_default_is_a_setting_like_any_other(counting_attack, encoder, images, tmp_path):
    for attack in (partial(counting_attack, eps=0.1), partial(counting_attack, eps=0.1, seed=0)):
        crafted_once(attack, encoder, images, LABELS, cache=tmp_path / "cache")
    assert counting_attack.calls == 1
    counting_attack.__wrapped__.__kwdefaults__["seed"] = 1
    found = crafted_once(partial(counting_attack, eps=0.1), encoder, images, LABELS, cache=tmp_path / "cache")
    assert counting_attack.calls == 2
    assert found.seed == 1


def change_weight(encoder):
    with torch.no_grad():
        next(encoder.model.vit.parameters()).flatten()[0] += 1e-6


def change_head(encoder):
    with torch.no_grad():
        encoder.model.classifier.weight.add_(1)
    encoder.model.config.id2label = {0: "a", 1: "b", 2: "c"}


def change_mean(encoder):
    encoder.mean += 1e-3


def change_std(encoder):
    encoder.std += 1e-3


def change_source(encoder):
    encoder.model.config.name_or_path = "someone/encoder"


def change_revision(encoder):
    encoder.model.config._commit_hash = "0" * 40


def change_place(encoder):
    encoder.model.config.name_or_path = f"/elsewhere/{Path(encoder.model.config.name_or_path).name}"


def change_activation(encoder):
    encoder.model.config.hidden_act = "relu"


def change_precision(encoder):
    encoder.autocast = torch.bfloat16


def change_size(encoder):
    encoder.processor.size = {"height": 64, "width": 64}


@pytest.mark.parametrize(
    ("change", "crafted"),
    [
        *(
            (change, 2)
            for change in (change_size, change_weight, change_mean, change_std, change_activation, change_precision)
        ),
        *((change, 2) for change in (change_source, change_revision)),  # which are in its record
        *((change, 1) for change in (change_head, change_place)),
    ],
)
def test_another_encoder_has_another_perturbation(counting_attack, encoder, images, change, crafted, tmp_path):
    attack = partial(counting_attack, eps=0.1)
    crafted_once(attack, encoder, images, LABELS, cache=tmp_path)
    change(encoder)
    for _ in range(2):
        crafted_once(attack, encoder, images, LABELS, cache=tmp_path)
    assert counting_attack.calls == crafted


def test_batch_norm_statistics_belong_to_the_encoder(counting_attack, resnet, images, tmp_path):
    encoder, attack = PixelModel(*resnet), partial(counting_attack, eps=0.1)
    for _ in range(2):
        crafted_once(attack, encoder, images, LABELS, cache=tmp_path)
        next(buffer for name, buffer in encoder.named_buffers() if "running_mean" in name).add_(1)
    assert counting_attack.calls == 2


@pytest.mark.parametrize("change", ["eps", "seed", "image", "label", "order"])
def test_other_settings_and_data_have_another_perturbation(counting_attack, encoder, images, change, tmp_path):
    settings, labels = {"eps": 0.1, "seed": 0}, LABELS.clone()
    crafted_once(partial(counting_attack, **settings), encoder, images, labels, cache=tmp_path)
    if change in settings:
        settings[change] += {"eps": 0.1, "seed": 1}[change]
    elif change == "image":
        images[-1, -1, -1, -1] += 1 / 255
    elif change == "label":
        labels[0] = 1
    else:
        images, labels = images.flip(0), labels.flip(0)
    for _ in range(2):
        crafted_once(partial(counting_attack, **settings), encoder, images, labels, cache=tmp_path)
    assert counting_attack.calls == 2


def test_another_attack_with_the_same_settings_has_another_perturbation(encoder, images, tmp_path):
    crafted = [
        crafted_once(ATTACKS[name].configure(eps=0.1, steps=1), encoder, images, cache=tmp_path)
        for name in ("l4a", "std")
    ]
    assert [each.attack for each in crafted] == ["l4a", "std"]
    assert len(list(tmp_path.iterdir())) == 2


def test_an_attack_that_was_changed_under_its_name_crafts_anew(own_registries, encoder, images, tmp_path):
    def crafted(loss) -> torch.Tensor:
        ATTACKS.pop("mine", None)
        universal_attack("images", words="mine", eps=0.1)(loss)
        attack = ATTACKS["mine"].configure(steps=2, max_images=None)
        return crafted_once(attack, encoder, images, cache=tmp_path / "cache").delta

    def mine(encoder, images):
        return lambda delta, batch: encoder(attacked(batch, delta)).square().mean()

    before, original = crafted(mine), mine

    def mine(encoder, images):
        return lambda delta, batch: -encoder(attacked(batch, delta)).square().mean()

    after = crafted(mine)
    assert not torch.equal(after, before)
    assert torch.equal(crafted(original), before)
    assert len([*(tmp_path / "cache").iterdir()]) == 2


def test_a_perturbation_comes_back_as_it_was_crafted(encoder, images, tmp_path):
    attack = partial(advencoder_pat, area=0.1, place="fixed", steps=1, width=8, data="five images")
    crafted = attack(encoder, images)
    for _ in range(2):
        found = crafted_once(attack, encoder, images, cache=tmp_path)
        assert isinstance(found, UniversalPatch)
        assert torch.equal(found.delta, crafted.delta)
        assert found.provenance == crafted.provenance


def test_what_was_removed_is_crafted_again_also_where_an_audit_was_killed(counting_attack, encoder, images, tmp_path):
    attack = partial(counting_attack, eps=0.1)
    first = crafted_once(attack, encoder, images, LABELS, cache=tmp_path)
    [folder] = tmp_path.iterdir()
    (folder / "perturbation.safetensors").unlink()  # as when killed after the folder was made
    again = crafted_once(attack, encoder, images, LABELS, cache=tmp_path)
    assert counting_attack.calls == 2
    assert torch.equal(first.delta, again.delta)
    shutil.rmtree(folder)
    crafted_once(attack, encoder, images, LABELS, cache=tmp_path)
    assert counting_attack.calls == 3


def other_eps(found):
    return replace(found, eps=0.2)


def other_attack(found):
    return replace(found, attack="pgd")


def nothing(found):
    return replace(found, delta=torch.zeros_like(found.delta))


def other_size(found):
    return replace(found, delta=torch.zeros(3, 4, 4))


@pytest.mark.parametrize("change", [other_eps, other_attack, nothing, other_size])
def test_a_perturbation_that_somebody_put_into_the_cache_is_not_believed(
    counting_attack, encoder, images, change, tmp_path, caplog
):
    attack = partial(counting_attack, eps=0.1)
    first = crafted_once(attack, encoder, images, LABELS, cache=tmp_path)
    [folder] = tmp_path.iterdir()
    change(first).save_pretrained(folder)
    for _ in range(2):
        again = crafted_once(attack, encoder, images, LABELS, cache=tmp_path)
        assert torch.equal(again.delta, first.delta)
        assert again.provenance == first.provenance
    assert counting_attack.calls == 2
    assert f"{folder} is not used, it is crafted anew: it is not the one that was kept there." in caplog.text


def test_a_perturbation_of_other_settings_in_its_place_is_not_believed(counting_attack, encoder, images, tmp_path):
    for seed in (0, 1):
        crafted_once(partial(counting_attack, eps=0.1, seed=seed), encoder, images, LABELS, cache=tmp_path)
    one, other = tmp_path.iterdir()
    shutil.copy(one / "perturbation.safetensors", other)
    found = [
        crafted_once(partial(counting_attack, eps=0.1, seed=seed), encoder, images, LABELS, cache=tmp_path).seed
        for seed in (0, 1)
    ]
    assert found == [0, 1]
    assert counting_attack.calls == 3


@pytest.mark.parametrize("content", [b"", b"\0" * 100, None])
def test_a_file_that_was_cut_off_is_crafted_anew(counting_attack, encoder, images, content, tmp_path, caplog):
    attack = partial(counting_attack, eps=0.1)
    first = crafted_once(attack, encoder, images, LABELS, cache=tmp_path)
    [path] = tmp_path.glob("*/*")
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    again = crafted_once(attack, encoder, images, LABELS, cache=tmp_path)
    assert torch.equal(again.delta, first.delta)
    assert counting_attack.calls == 2
    assert "is not used, it is crafted anew: " in caplog.text


def test_a_cache_that_cannot_be_written_to_is_done_without(counting_attack, encoder, images, tmp_path, caplog):
    (tmp_path / "file").write_text("mine")
    attack = partial(counting_attack, eps=0.1)
    found = crafted_once(attack, encoder, images, LABELS, cache=tmp_path / "file/cache")
    assert torch.equal(found.delta, attack(encoder, images, LABELS).delta)
    assert f"counting-attack cannot be kept in {tmp_path}/file/cache for the next time: [Errno 20]" in caplog.text
    assert (tmp_path / "file").read_text() == "mine"


def test_two_audits_may_craft_the_same_at_the_same_time(counting_attack, encoder, images, tmp_path):
    @wraps(counting_attack)
    def craft(encoder, images, labels, **settings):
        crafted_once(attack, encoder, images, labels, cache=tmp_path)  # saved before this one is
        return counting_attack(encoder, images, labels, **settings)

    attack = configured(partial(counting_attack, eps=0.1))
    overtaken = replace(attack, function=craft)  # on the encoder alone, as the other
    found = crafted_once(overtaken, encoder, images, LABELS, cache=tmp_path)
    assert counting_attack.calls == 2
    assert torch.equal(found.delta, crafted_once(attack, encoder, images, LABELS, cache=tmp_path).delta)
    assert counting_attack.calls == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_for_an_attack_on_the_classifier_the_head_counts(encoder, images, tmp_path):
    crafted = []
    for _ in range(2):
        with torch.no_grad():
            encoder.model.classifier.weight.neg_()
        for attack in (ATTACKS["uapgd"], ATTACKS["upgd"]):
            crafted.append(crafted_once(attack.configure(steps=2), encoder, images, LABELS, cache=tmp_path).delta)
    of_encoder, of_classifier = crafted[::2], crafted[1::2]
    assert torch.equal(*of_encoder)
    assert not torch.equal(*of_classifier)
    assert len(list(tmp_path.iterdir())) == 3


def test_the_default_cache_is_beside_those_of_hugging_face(counting_attack, encoder, images, tmp_path, monkeypatch):
    assert CACHE.parts[-2:] == ("genaf_hf", "perturbations")
    monkeypatch.setattr("genaf_hf.evaluation.perturbation_cache.CACHE", tmp_path / "default")
    crafted_once(partial(counting_attack, eps=0.1), encoder, images, LABELS)
    assert len(list((tmp_path / "default").iterdir())) == 1


def test_a_digest_tells_everything_apart():
    one = torch.zeros(2, 3)
    found = [
        digest(words, tensors)
        for words, tensors in (
            (None, {"a": one}),
            (None, {"b": one}),
            (None, {"a": one.T.contiguous()}),
            (None, {"a": one.double()}),
            (None, {"a": one, "b": one}),
            (None, {"a": -one}),
            ({"eps": 1}, {"a": one}),
        )
    ]
    assert len(set(found)) == len(found)
    assert digest({"x": 1, "y": 2}, {"a": one, "b": 1 + one}) == digest({"y": 2, "x": 1}, {"b": 1 + one, "a": one})
    assert digest(None, {"a": torch.zeros(3, 2).T}) == found[0]


def test_the_same_weights_from_two_places_are_the_same(counting_attack, encoders, images, tmp_path):
    shutil.copytree(encoders["dino"], tmp_path / "elsewhere/dino")
    for place in (encoders["dino"], tmp_path / "elsewhere/dino"):
        encoder = PixelModel(*load_encoder(str(place), ["a", "b"]))
        crafted_once(partial(counting_attack, eps=0.1), encoder, images, LABELS, cache=tmp_path / "cache")
    assert counting_attack.calls == 1
