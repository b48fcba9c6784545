import pytest
import torch
from safetensors.torch import load_file, save_file

from genaf_hf import UniversalPerturbation

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


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 8, 8), (3, 8, 8)])
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
    ],
)
def test_what_is_no_perturbation_is_refused_by_one_sentence(perturbation, tmp_path, damage):
    perturbation.save_pretrained(tmp_path)
    damage(tmp_path / FILE, (tmp_path / FILE).read_bytes())
    with pytest.raises(ValueError, match="is not a universal perturbation") as refusal:
        UniversalPerturbation.from_pretrained(tmp_path)
    assert str(tmp_path / FILE) in str(refusal.value)
    assert "\n" not in str(refusal.value)
