"""No attack and no probe answers otherwise because of its caller's modes, or a probe because of a tensor's layout."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch

from genaf_hf import PixelModel
from genaf_hf.attacks import ATTACKS
from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.evaluation.neighbors import Neighbors

pytestmark = pytest.mark.slow(reason="crafts by every attack, in every mode")

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(6) % 3
SMALL = {"steps": 2, "width": 16, "restarts": 2}


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


MODES = {
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "float64": partial(default_dtype, torch.float64),
}
CHANNELS_LAST = IMAGES.contiguous(memory_format=torch.channels_last)


@pytest.fixture
def made(vit):
    """What an attack by its name makes of images."""
    return lambda name, images: attacked(name, PixelModel(*vit), images)


def attacked(name: str, model: PixelModel, images: torch.Tensor) -> torch.Tensor:
    attack, settings = ATTACKS[name], SMALL
    if name == "autoattack":
        pytest.importorskip("pyautoattack")
        settings = {"eps": 0.5}  # its first attack succeeds, so that the others have nothing to do
    given = {"model": model, "encoder": model, "images": images, "labels": LABELS.clone()}
    settings = {key: value for key, value in settings.items() if key in attack.setting_names}
    found = attack.configure(**settings)(*(given[need] for need in attack.needs))
    return found.delta if attack.universal else found


SLOW = pytest.mark.slow(reason="runs the authors' package")


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW if name == "autoattack" else ()) for name in ATTACKS])
def test_no_attack_sees_the_modes_of_its_caller(name, made):
    expected = made(name, IMAGES)
    for mode, enter in MODES.items():
        with enter():
            found = made(name, IMAGES.clone())
        assert (mode, found.dtype, torch.equal(found, expected)) == (mode, torch.float32, True)


@pytest.mark.parametrize("name", ["pgd", "feature-pgd", "l4a", "fff"])
def test_a_model_that_enters_autocast_itself_is_attacked_in_it(vit, name):
    model, dtypes = PixelModel(*vit, autocast=torch.bfloat16), set()
    in_float32 = attacked(name, PixelModel(*vit), IMAGES)
    model.model.vit.layers[0].mlp.fc1.register_forward_hook(lambda module, given, output: dtypes.add(output.dtype))
    in_bfloat16 = attacked(name, model, IMAGES)
    assert dtypes == {torch.bfloat16}
    assert in_bfloat16.dtype == torch.float32
    assert not torch.equal(in_bfloat16, in_float32)
    assert in_bfloat16.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_probes_do_not_see_the_modes_of_their_caller(mode, vit):
    encoder = PixelModel(*vit).eval()

    with torch.no_grad():
        features = encoder.features(IMAGES)
    expected = [LinearProbe(encoder, IMAGES, LABELS).weight, Neighbors(features, LABELS, 3)(features)]
    logits = LinearProbe(encoder, IMAGES, LABELS)(IMAGES).detach()
    with MODES[mode]():
        probe = LinearProbe(encoder, CHANNELS_LAST, LABELS)
        found = [probe.weight, Neighbors(features.T.contiguous().T, LABELS, 3)(features)]
        answered = probe(CHANNELS_LAST).detach()
    assert [torch.equal(*pair) for pair in zip(found, expected, strict=True)] == [True, True]
    assert torch.equal(answered, logits)
