import json
import math
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hub_user import TOKEN
from safetensors.torch import load_file, save_file

from genaf_hf import UniversalPerturbation
from genaf_hf.attacks import UniversalPatch
from genaf_hf.attacks.patch import Pasting, of_pasting, pasting, turned
from genaf_hf.errors import UserError

FILE = "perturbation.safetensors"


@pytest.fixture
def perturbation():
    delta = torch.empty(3, 8, 8).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    return UniversalPerturbation(delta=delta, attack="l4a", eps=0.1, steps=3, step_size=0.1 / 3, seed=4, data='a "b" ü')


def test_calling_it_adds_it_to_every_image_and_clips(perturbation):
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images[0], images[1] = 0.0, 1.0
    attacked = perturbation(images)
    assert torch.equal(attacked, (images + perturbation.delta).clamp(0, 1))
    assert (attacked[0] == 0).any()
    assert (attacked[1] == 1).any()


def test_the_images_keep_their_type(perturbation):
    assert perturbation(torch.rand(2, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.full((2, 3, 8, 8), 200, dtype=torch.uint8), r"images are torch.uint8 of shape \(2, 3, 8, 8\), expected"),
        (torch.full((2, 3, 8, 8), 200.0), r"images span \[200, 200\], expected finite values in \[0, 1\]"),
        (torch.full((3, 8, 8), 0.5), r"images are torch.float32 of shape \(3, 8, 8\), expected floats \(n, 3, h, w\)"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(perturbation, images, sentence):
    for kind in (perturbation, UniversalPatch(delta=torch.rand(3, 2, 2), attack="advencoder-pat", eps=1.0)):
        with pytest.raises(ValueError, match=sentence):
            kind(images)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 8, 8)])
def test_images_of_another_size_are_refused(perturbation, shape):
    with pytest.raises(ValueError, match=r"The images have shape .* the perturbation \(3, 8, 8\)") as refusal:
        perturbation(torch.rand(shape))
    assert str(shape[1:]) in str(refusal.value)


def test_saving_and_loading_keeps_everything(perturbation, tmp_path):
    perturbation.save_pretrained(tmp_path / "made" / "on the way")
    loaded = UniversalPerturbation.from_pretrained(str(tmp_path / "made" / "on the way"))
    assert torch.equal(loaded.delta, perturbation.delta)
    assert loaded.delta.dtype == perturbation.delta.dtype
    assert loaded.provenance == perturbation.provenance


def test_the_file_is_plain_safetensors(perturbation, tmp_path):
    perturbation.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert torch.equal(load_file(tmp_path / FILE)["delta"], perturbation.delta)


def test_a_perturbation_that_is_not_contiguous_is_saved(perturbation, tmp_path):
    turned = UniversalPerturbation(perturbation.delta.transpose(1, 2), **perturbation.provenance)
    turned.save_pretrained(tmp_path)
    assert torch.equal(UniversalPerturbation.from_pretrained(tmp_path).delta, turned.delta)


def missing(file, whole):
    file.unlink()


def empty(file, whole):
    file.write_bytes(b"")


def truncated(file, whole):
    file.write_bytes(whole[:-100])


def header_truncated(file, whole):
    file.write_bytes(whole[:40])


def garbage(file, whole):
    file.write_bytes(b"no tensors at all" * 100)


def weights_of_a_model(file, whole):
    save_file({"classifier.weight": torch.zeros(2, 2)}, file, {"format": "pt"})


def no_provenance(file, whole):
    save_file({"delta": torch.zeros(3, 8, 8)}, file)


def other_metadata(file, whole):
    save_file({"delta": torch.zeros(3, 8, 8)}, file, {"format": "pt"})


def broken_provenance(file, whole):
    save_file({"delta": torch.zeros(3, 8, 8)}, file, {"provenance": "{"})


def incomplete_provenance(file, whole):
    save_file({"delta": torch.zeros(3, 8, 8)}, file, {"provenance": '{"attack": "l4a"}'})


def foreign_provenance(file, whole):
    save_file({"delta": torch.zeros(3, 8, 8)}, file, {"provenance": "[1, 2]"})


KNOWN = '{"attack": "l4a", "eps": 0.1}'


def no_image(file, whole):
    save_file({"delta": torch.zeros(3, 0, 8)}, file, {"provenance": KNOWN})


def whole_numbers(file, whole):
    save_file({"delta": torch.zeros(3, 8, 8, dtype=torch.int64)}, file, {"provenance": KNOWN})


def unknown_kind(file, whole):
    save_file({"delta": torch.zeros(3, 8, 8)}, file, {"provenance": KNOWN, "kind": "Path"})


def nested_provenance(file, whole):
    save_file({"delta": torch.zeros(3, 8, 8)}, file, {"provenance": "[" * 100_000})


@pytest.mark.parametrize(
    "damage",
    [
        missing,
        empty,
        truncated,
        header_truncated,
        garbage,
        weights_of_a_model,
        no_provenance,
        other_metadata,
        broken_provenance,
        incomplete_provenance,
        foreign_provenance,
        no_image,
        whole_numbers,
        unknown_kind,
        nested_provenance,
    ],
)
def test_what_is_no_perturbation_is_refused_by_one_sentence(perturbation, tmp_path, damage):
    perturbation.save_pretrained(tmp_path)
    damage(tmp_path / FILE, (tmp_path / FILE).read_bytes())
    with pytest.raises(ValueError, match="is not a universal perturbation") as refusal:
        UniversalPerturbation.from_pretrained(tmp_path)
    assert str(tmp_path / FILE) in str(refusal.value)
    assert "\n" not in str(refusal.value)


# ---- its norm ----


def test_the_size_is_told_in_its_norm(tmp_path):
    delta = torch.zeros(3, 8, 8)
    delta[0, 0, 0], delta[2, 7, 7] = 3.0, 4.0
    found = UniversalPerturbation(delta, attack="l4a", eps=5.0, norm="l2")
    found.save_pretrained(tmp_path)
    assert UniversalPerturbation.from_pretrained(tmp_path).provenance == found.provenance
    with pytest.raises(UserError, match=r"reaches 5 in the norm l2, .* at most eps = 4.99"):
        replace(found, eps=4.99)
    with pytest.raises(UserError, match='norm is "l1", expected one of linf, l2'):
        replace(found, norm="l1")
    larger = found.resize(16, 16)
    assert larger.delta.norm() == pytest.approx(5)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"norm": "l2", "eps": 0.1}, "reaches .* in the norm l2, expected .* at most eps = 0.1"),
        ({"norm": "linf", "eps": 3.0}, r"its eps is 3.0 in the norm linf, expected a value in \(0, 1\] in linf"),
        ({"norm": "l1", "eps": 0.1}, "its eps is 0.1 in the norm l1, expected"),
    ],
)
def test_a_perturbation_in_another_norm_than_its_file_says_is_refused(perturbation, tmp_path, told, sentence):
    header = {"provenance": json.dumps({**perturbation.provenance, **told})}
    save_file({"delta": perturbation.delta}, tmp_path / FILE, header)
    with pytest.raises(UserError, match=sentence):
        UniversalPerturbation.from_pretrained(tmp_path)


def test_a_file_that_tells_no_norm_is_of_linf(perturbation, tmp_path):
    header = {"provenance": json.dumps({"attack": "l4a", "eps": 0.1})}
    save_file({"delta": perturbation.delta}, tmp_path / FILE, header)
    assert UniversalPerturbation.from_pretrained(tmp_path).norm == "linf"


# ---- patches ----


@pytest.fixture
def patch():
    return UniversalPatch(torch.full((3, 3, 3), 0.25), attack="advencoder-pat", eps=1.0, top=1, left=5)


def test_a_patch_covers_its_place_and_nothing_else(patch):
    images = torch.rand(4, 3, 8, 8)
    attacked = patch(images)
    assert (attacked[:, :, 1:4, 5:8] == 0.25).all()
    attacked[:, :, 1:4, 5:8] = images[:, :, 1:4, 5:8]
    assert torch.equal(attacked, images)


def test_a_random_place_depends_on_the_images_seed_alone(patch):
    images, anywhere = torch.rand(400, 3, 8, 8), UniversalPatch(patch.delta, attack="advencoder-pat", eps=1.0)
    attacked = anywhere(images, seeds=range(10, 410))
    assert torch.equal(attacked[7:8], anywhere(images[7:8], seeds=[17]))
    covered = (attacked == 0.25).all(1)
    assert (covered.sum(dim=(1, 2)) == 9).all()
    assert covered.any(0).all()
    assert torch.equal(anywhere(images), anywhere(images, seeds=range(400)))


def test_a_round_patch_covers_a_disc_of_its_area():
    pasted, side = pasting((40, 40), area=0.2, place="fixed", shape="round", degrees=0, smallest=1)
    patch = of_pasting(torch.full((3, side, side), 0.25), "advencoder-pat", pasted)
    covered = (patch(torch.ones(1, 3, 40, 40))[0] == 0.25).all(0)
    assert covered.float().mean().item() == pytest.approx(0.2, abs=0.005)
    assert covered[40 - side // 2 - 1, 40 - side :].all()
    assert not covered[40 - side, 40 - side]


def test_it_is_turned_either_way_and_shrunk_to_the_smallest():
    angles, scales = Pasting(degrees=90.0, smallest=0.5).drawn(torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]))
    torch.testing.assert_close(angles, torch.tensor([-math.pi / 2, 0, math.pi / 2]))
    assert scales.tolist() == [0.5, 0.75, 1.0]


def test_a_patch_is_turned_about_its_middle_and_shrunk():
    patch = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    quarter, half = turned(patch, torch.tensor([math.pi / 2, math.pi]), torch.ones(2))
    torch.testing.assert_close(quarter, patch[0].rot90(1, (1, 2)), rtol=0, atol=1e-5)
    torch.testing.assert_close(half, patch[1].rot90(2, (1, 2)), rtol=0, atol=1e-5)
    [shrunk] = turned(torch.ones(1, 1, 8, 8), torch.zeros(1), torch.tensor([0.5]))
    assert shrunk[0, 2:6, 2:6].eq(1).all()
    assert shrunk.sum().item() == pytest.approx(16)


def test_how_a_patch_is_turned_and_shrunk_depends_on_the_images_seed_alone():
    patch = UniversalPatch(torch.full((3, 8, 8), 0.25), "advencoder-pat", 1.0, degrees=45.0, smallest=0.5)
    images = torch.ones(60, 3, 20, 20)
    attacked = patch(images, seeds=range(60))
    assert torch.equal(attacked[7:8], patch(images[:1], seeds=[7]))
    areas = (attacked == 0.25).all(1).sum(dim=(1, 2))
    assert 12 <= areas.min() < 30 < areas.max() <= 64
    assert ((attacked == 0.25) | (attacked == 1)).all()  # also at its edges, whose colors are the patch's


def test_a_patch_comes_back_as_one(patch, tmp_path):
    patch = replace(patch, shape="round", degrees=30.0, smallest=0.5)
    patch.save_pretrained(tmp_path)
    loaded = UniversalPerturbation.from_pretrained(tmp_path)
    assert type(loaded) is UniversalPatch
    assert torch.equal(loaded.delta, patch.delta)
    assert loaded.provenance == patch.provenance


@pytest.mark.parametrize("place", [{"top": None, "left": None}, {"top": 1, "left": 5}])
def test_a_patch_larger_than_the_images_is_refused(patch, place):
    small = UniversalPatch(patch.delta, attack="advencoder-pat", eps=1.0, **place)
    with pytest.raises(ValueError, match=r"A patch of 3 x 3 pixels at top \d, left \d does not fit"):
        small(torch.rand(1, 3, 2, 2))


@pytest.mark.parametrize(
    "change",
    [
        *({"top": -1}, {"top": None}, {"eps": 0.1}, {"delta": torch.full((3, 3, 3), 1.5)}),
        {"delta": torch.full((3, 4, 2), 0.5)},
    ],
)
def test_a_patch_that_makes_no_sense_is_refused(patch, change):
    with pytest.raises(ValueError, match="The patch"):
        UniversalPatch(**{**vars(patch), **change})


# ---- published files ----


@pytest.mark.parametrize("batched", [False, True])
def test_a_published_file_is_read(perturbation, tmp_path, batched):
    tensor = perturbation.delta.clone()[None] if batched else perturbation.delta.clone()
    torch.save(tensor.requires_grad_(), tmp_path / "published.pt")
    loaded = UniversalPerturbation.from_published(tmp_path / "published.pt", attack="std", encoder="simclr")
    assert torch.equal(loaded.delta, perturbation.delta)
    assert not loaded.delta.requires_grad
    assert loaded.eps == perturbation.delta.abs().max().item()
    assert (loaded.attack, loaded.encoder, loaded.steps) == ("std", "simclr", None)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile",)


@pytest.mark.parametrize(
    "content",
    [
        Hostile(),
        {"delta": torch.zeros(3, 8, 8)},
        torch.zeros(2, 3, 8, 8),
        torch.full((8, 8, 3), 0.1),
        torch.full((1, 8, 8), 0.1),
        torch.zeros(()),
        torch.zeros(3, 0, 8),
        torch.zeros(1).expand(3, 10**6, 10**6),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.full((3, 8, 8), torch.nan),
        torch.zeros(3, 8, 8).to_sparse(),
        None,
    ],
    ids=[
        *("code", "dictionary", "batch", "channels last", "gray", "scalar"),
        *("empty", "huge", "integers", "nan", "sparse", "nothing"),
    ],
)
def test_a_published_file_that_is_hostile_or_something_else_is_refused_by_one_sentence(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "published.pt")
    with pytest.raises(ValueError, match=r"published.pt is not a published universal perturbation: .+\.") as refusal:
        UniversalPerturbation.from_published(tmp_path / "published.pt", attack="l4a")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "hostile").exists()


@pytest.mark.parametrize("content", [None, b"", b"no pickle", b"PK\x03\x04 no archive"])
def test_a_published_file_that_is_missing_or_broken_is_refused(tmp_path, content):
    path = tmp_path / "published.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"published.pt is not a published universal perturbation: .+\.") as refusal:
        UniversalPerturbation.from_published(path, attack="l4a")
    assert "\n" not in str(refusal.value)


def test_a_published_one_larger_than_its_eps_is_refused(perturbation, tmp_path):
    torch.save(perturbation.delta, tmp_path / "published.pt")
    with pytest.raises(ValueError, match=r"at most eps = 0.05"):
        UniversalPerturbation.from_published(tmp_path / "published.pt", attack="l4a", eps=0.05)


def test_resizing_warns_and_is_remembered(perturbation, caplog):
    larger = perturbation.resize(16, 12)
    assert "8 x 8 pixels is resized to 16 x 12, which weakens it" in caplog.text
    assert larger.delta.shape == (3, 16, 12)
    assert larger.eps == larger.delta.abs().max() < perturbation.eps  # which noise beside it has, too
    assert larger.provenance == {**perturbation.provenance, "eps": larger.eps, "resized_from": "8 x 8"}
    assert larger.resize(4, 4).resized_from == "8 x 8"


# ---- the Hub ----

SHARE = """
import sys
from genaf_hf import UniversalPerturbation
from genaf_hf.pipelines.perturbation_collection import collected
made = UniversalPerturbation.from_pretrained(sys.argv[1])
made.push_to_hub("someone/alone")
made.push_to_hub("someone/model", subfolder="perturbation", revision="second")
for place in ({}, {"subfolder": "perturbation", "revision": "second"}):
    found = UniversalPerturbation.from_pretrained("someone/" + ("model" if place else "alone"), **place)
    assert found.delta.equal(made.delta) and found.provenance == made.provenance
assert collected("someone/model", "second")["perturbation"].delta.equal(made.delta)
assert [*collected("someone/alone")] == ["alone"]
for load in (UniversalPerturbation.from_pretrained, collected):
    try:
        load("someone/nothing")
    except ValueError as error:
        print(error)
"""


def test_sharing_on_the_hub_keeps_everything(perturbation, hub, processes, tmp_path):
    perturbation.save_pretrained(tmp_path / "made")
    variables = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
    }
    command = [sys.executable, "-c", SHARE, str(tmp_path / "made")]
    done = processes.run(command, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr
    assert FILE in hub.repositories["models", "someone/alone"].files()
    assert f"perturbation/{FILE}" in hub.repositories["models", "someone/model"].files("second")
    assert "someone/nothing/perturbation.safetensors is not a universal perturbation saved by genaf_hf: " in done.stdout
    assert 'There is no collection of perturbations "someone/nothing", neither a folder nor on the Hub' in done.stdout
    assert len(done.stdout.strip().splitlines()) == 2


@pytest.mark.parametrize(
    ("eps", "sentence"),
    [(True, "its eps is True"), (float("inf"), "its eps is inf"), (8, "its eps is 8"), ("0.1", "its eps is 0.1")],
)
def test_a_file_whose_eps_is_none_is_refused(eps, sentence, tmp_path):
    made = json.dumps({"attack": "l4a", "eps": eps})
    save_file({"delta": torch.zeros(3, 4, 4)}, tmp_path / "perturbation.safetensors", {"provenance": made})
    with pytest.raises(ValueError, match=sentence):
        UniversalPerturbation.from_pretrained(tmp_path)


def test_a_file_with_an_endless_provenance_is_refused(tmp_path):
    made = json.dumps({"attack": "l4a" * 30_000, "eps": 0.1})
    save_file({"delta": torch.zeros(3, 4, 4)}, tmp_path / "perturbation.safetensors", {"provenance": made})
    with pytest.raises(ValueError, match="characters tell where it is from"):
        UniversalPerturbation.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"delta": [[[0.0]]]}, "The perturbation is a list, expected a torch tensor"),
        ({"eps": "8/255"}, 'eps is "8/255", expected a number'),
        ({"eps": None}, "eps is None, expected a number"),
        ({"steps": "many"}, 'steps is "many", expected a whole number or None'),
        ({"attack": ["l4a"]}, "attack is .*, expected a text"),
        ({"step_size": float("inf")}, "step_size is inf, expected a number"),
    ],
)
def test_what_no_report_can_hold_is_refused(perturbation, change, sentence):
    with pytest.raises(UserError, match=sentence):
        replace(perturbation, **change)


def test_numbers_of_numpy_and_torch_are_saved(perturbation, tmp_path):
    replace(perturbation, eps=torch.tensor(0.5), steps=np.int64(3), step_size=np.float32(0.25)).save_pretrained(
        tmp_path
    )
    found = UniversalPerturbation.from_pretrained(tmp_path)
    assert (found.eps, found.steps, found.step_size) == (0.5, 3, 0.25)


@pytest.mark.parametrize("size", [(0, 4), (4.0, 4), ("4", 4), (10**6, 10**6)])
def test_what_is_no_size_is_refused(perturbation, size):
    with pytest.raises(UserError, match=r"The size is .*, expected whole numbers from 1 to 8192"):
        perturbation.resize(*size)


def test_a_published_file_in_units_of_255_is_refused(tmp_path):
    torch.save(torch.full((3, 4, 4), 10.0), tmp_path / "delta.pt")
    with pytest.raises(UserError, match=r"it reaches 10, expected values in \[-1, 1\], in units of pixels in \[0, 1\]"):
        UniversalPerturbation.from_published(tmp_path / "delta.pt", attack="l4a")
