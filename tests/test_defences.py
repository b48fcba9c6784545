"""Defences: what they train on, their state in checkpoints and on several processes, and what is refused."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from conftest import CLASSES, SIDE
from own_defence import BANK, DEFENCES, HALF, register
from recorder import CHECKPOINTING, Recorder, changed, lora_model
from torch import nn
from torch.nn import functional as F
from train_tiny import PROCESSOR, copied_weights, tiny_model, tiny_trainer
from transformers import ResNetConfig, ResNetForImageClassification

from genaf_hf import GenAFConfig, PixelModel, UniversalPatch, UniversalPerturbation, pgd
from genaf_hf.attacks import n_fgsm
from genaf_hf.errors import UserError
from genaf_hf.pipelines.harden import HardeningArguments, harden
from genaf_hf.sharing.record import TrainingRecord
from genaf_hf.training import defences
from genaf_hf.training.adversaries.draws import mixed_bits
from genaf_hf.training.adversaries.live_patch import LivePatch, random_corners
from genaf_hf.training.adversaries.twin_pgd import TwinPGD
from genaf_hf.training.adversaries.universal import Universal, drawn
from genaf_hf.training.checkpoint import newest_complete_checkpoint
from genaf_hf.training.genetic_regularization import genetic_regularization
from genaf_hf.training.objectives.mart import log_of_all_but_the_largest_wrong

pytestmark = [pytest.mark.slow(reason="trains by every defence"), pytest.mark.usefixtures("quick_checks")]

ADVERSARY = {"eps": 0.1, "steps": 3, "step_size": 0.05}
ONE_STEP = {
    "dtype": torch.float64,
    "images": 24,
    "per_device_train_batch_size": 24,
    "max_steps": 1,
    "max_grad_norm": 0,
    "eps_warmup_ratio": 0,
    "logging_steps": 1,
}
STEP_SEEDS = range((42 * 1_000_003) << 12, ((42 * 1_000_003) << 12) + 24)  # of the images of the first step
UNPATCHED = {**BANK, "patch_share": 0}
QUICK = {"defence": "universal", "defence_settings": UNPATCHED, "adapt_max_steps": -1}


@pytest.fixture(scope="module", autouse=True)
def own_defence():
    """Is known while these tests run, and to no others."""
    register()
    yield
    del defences.DEFENCES["paired"]


def one_step(folder, **settings):
    """A trainer after one step, its gradients, the model before it, and images and labels in the order of that step."""
    recorder, batches = Recorder(), []
    trainer = tiny_trainer(folder, callbacks=[recorder], **ONE_STEP, **settings)
    model, collate = PixelModel(copy.deepcopy(trainer.model), PROCESSOR), trainer.data_collator
    trainer.data_collator = lambda rows: batches.append(collate(rows)) or batches[-1]
    trainer.adversarial_finetune()
    [batch] = [each for each in batches if len(each["labels"]) == 24]
    return trainer, recorder.gradients, model, model.to_images(batch["pixel_values"]), batch["labels"]


def check_gradients(found: dict, model: PixelModel, loss: torch.Tensor) -> None:
    loss.backward()
    expected = {name: parameter.grad for name, parameter in model.model.named_parameters()}
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def state_of(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.tensors_beside_model().items()}


# ---- what they train on ----


def test_pgd_at_is_cross_entropy_on_attacked_images_alone(tmp_path):
    trainer, gradients, model, images, labels = one_step(tmp_path, defence="pgd-at", random_start=False, **ADVERSARY)
    loss = F.cross_entropy(model(pgd(model, images, labels, **ADVERSARY, random_start=False)), labels)
    check_gradients(gradients, model, loss)
    log = trainer.state.log_history[0]
    assert log["adversarial_loss"] == pytest.approx(loss.item())
    assert "clean_accuracy" not in log


def test_n_fgsm_trains_on_one_step_that_is_not_clipped(tmp_path):
    settings = {"defence": "n-fgsm", "eps": 0.1, "defence_settings": {"noise": 1.5}}
    _, gradients, model, images, labels = one_step(tmp_path, **settings)
    attacked = n_fgsm(model, images, labels, eps=0.1, noise=1.5, seeds=STEP_SEEDS)
    assert (attacked - images).abs().max() > 0.2
    check_gradients(gradients, model, F.cross_entropy(model(attacked), labels))


def test_trades_attacks_and_trains_on_the_divergence(tmp_path):
    settings = {"defence": "trades", "defence_settings": {"beta": 2.0}, **ADVERSARY}
    trainer, gradients, model, images, labels = one_step(tmp_path, **settings)

    def divergence(clean, attacked):
        p, q = clean.softmax(1), attacked.softmax(1)
        return (p * (p / q).log()).sum(1).mean()

    clean = model(images).detach()
    attacked = pgd(
        model, images, labels, **ADVERSARY, seeds=STEP_SEEDS, loss=lambda logits, _: divergence(clean, logits)
    )
    by_labels = pgd(model, images, labels, **ADVERSARY, seeds=STEP_SEEDS)
    assert divergence(clean, model(attacked)) > divergence(clean, model(by_labels))
    clean_logits = model(images)
    loss = F.cross_entropy(clean_logits, labels) + 2 * divergence(clean_logits, model(attacked))
    check_gradients(gradients, model, loss)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss.item(), abs=1e-6)


def test_mart_weighs_the_divergence_by_how_wrong_the_clean_answer_is(tmp_path):
    settings = {"defence": "mart", "defence_settings": {"beta": 2.0}, "random_start": False, **ADVERSARY}
    trainer, gradients, model, images, labels = one_step(tmp_path, **settings)
    attacked = pgd(model, images, labels, **ADVERSARY, random_start=False)
    q, p = model(images).softmax(1), model(attacked).softmax(1)
    rows = range(len(labels))
    others = torch.stack([max(p[i, k] for k in range(p.shape[1]) if k != labels[i]) for i in rows])
    boosted = -p[rows, labels].log() - (1 - others).log()
    divergence = (q * (q / p).log()).sum(1) * (1 - q[rows, labels])
    check_gradients(gradients, model, boosted.mean() + 2 * divergence.mean())
    log = trainer.state.log_history[0]
    assert log["adversarial_loss"] == pytest.approx(boosted.mean().item(), abs=1e-6)
    assert log["divergence_loss"] == pytest.approx(2 * divergence.mean().item(), abs=1e-6)


def test_boosted_cross_entropy_is_finite_for_certain_answers():
    logits = torch.tensor([[0.0, 200.0, 1.0], [300.0, 0.0, 0.0]], requires_grad=True)
    found = log_of_all_but_the_largest_wrong(logits, torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([-199 + math.log1p(math.exp(-1)), 0.0])
    found.sum().backward()
    assert logits.grad.isfinite().all()


def test_awp_takes_the_gradient_under_attacked_weights_and_updates_the_others(tmp_path):
    settings = {"defence": "awp", "defence_settings": {"gamma": 0.05}, "random_start": False, **ADVERSARY}
    trainer, gradients, model, images, labels = one_step(tmp_path, **settings)
    before = copied_weights(model.model)
    attacked = pgd(model, images, labels, **ADVERSARY, random_start=False)
    model.zero_grad()
    F.cross_entropy(model(attacked), labels).backward()
    with torch.no_grad():
        for weight in model.model.parameters():
            if weight.ndim > 1:
                weight += 0.05 * weight.norm() * weight.grad / weight.grad.norm()
    model.zero_grad()
    check_gradients(gradients, model, F.cross_entropy(model(attacked), labels))
    moved = [(trainer.model.state_dict()[name] - weight).abs().max() for name, weight in before.items()]
    assert 0 < max(moved) < 0.01  # by AdamW's first step, and not by what the weights were attacked with


def batch_norm_model(dtype: torch.dtype = torch.float64) -> ResNetForImageClassification:
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(**sizes, id2label=dict(enumerate(CLASSES)))).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    return model


def test_twins_sends_half_of_a_batch_through_the_public_statistics(tmp_path):
    settings = {"defence": "twins", "defence_settings": {"frozen_weight": 0.4}, "random_start": False, **ADVERSARY}
    trainer, gradients, model, images, labels = one_step(tmp_path, model=batch_norm_model(), **settings)
    attacked = pgd(model, images, labels, **ADVERSARY, random_start=False)  # at first both have the same statistics
    frozen, adaptive = copy.deepcopy(model).eval(), model.train()
    frozen_loss = F.cross_entropy(frozen(attacked[:12]), labels[:12])
    frozen_loss.backward()
    adaptive_loss = F.cross_entropy(adaptive(attacked[12:]), labels[12:])
    adaptive_loss.backward()
    names = [name for name, _ in model.model.named_parameters()]
    both = [(frozen.model.get_parameter(name), adaptive.model.get_parameter(name)) for name in names]
    expected = {name: 0.4 * first.grad + second.grad for name, (first, second) in zip(names, both, strict=True)}
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-12)
    assert trainer.state.log_history[0]["frozen_loss"] == pytest.approx(frozen_loss.item(), abs=1e-6)
    for name, buffer in trainer.model.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffer, model.model.get_buffer(name))
            assert torch.equal(state_of(trainer)[name], frozen.model.get_buffer(name))
    assert not any("forward" in vars(module) for module in trainer.model.resnet.modules())


def test_the_frozen_branch_is_attacked_on_its_own_statistics():
    torch.manual_seed(0)
    model = PixelModel(batch_norm_model(), PROCESSOR)
    adversary = TwinPGD(**ADVERSARY, random_start=False)
    adversary.begin(model, None, 0)
    public = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 1
    images, labels = torch.rand(8, 3, 32, 32, dtype=torch.float64), torch.arange(8) % 3
    with adversary.training(model.model):
        found = adversary.craft(model, images, labels, seeds=range(8))
    halves = [(public, slice(4)), (model, slice(4, 8))]
    expected = [pgd(one, images[rows], labels[rows], **ADVERSARY, random_start=False) for one, rows in halves]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=0)
    assert not torch.equal(pgd(model, images[:4], labels[:4], **ADVERSARY, random_start=False), expected[0])


def test_a_linear_probe_trains_the_head_alone(tmp_path):
    trainer = tiny_trainer(tmp_path, model=batch_norm_model(torch.float32), defence="linear-probe", adapt_max_steps=-1)
    weights = copied_weights(trainer.model)
    trainer.train()
    assert changed(weights, copied_weights(trainer.model)) == {"classifier.1.weight", "classifier.1.bias"}
    assert {log["stage"] for log in trainer.state.log_history} == {"linear_probe"}
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_weights_and_live_perturbations_share_one_backward_pass(tmp_path):
    begun = tiny_trainer(tmp_path / "begun", **ONE_STEP, **QUICK)
    begun.evaluate()
    before = state_of(begun)
    trainer, gradients, model, images, labels = one_step(tmp_path / "run", **QUICK)
    eps, step = trainer.args.eps, trainer.args.step_size
    assert (eps, step) == (10 / 255, 2 / 255)

    live = before["live"].requires_grad_()
    chosen = drawn(STEP_SEEDS, 2, 1)
    assert {*chosen.tolist()} == {0, 1, 2}
    attacked = (images + torch.cat([live, before["bank"]])[chosen]).clamp(0, 1)
    clean_logits, attacked_logits = model(images), model(attacked)
    loss = (F.cross_entropy(clean_logits, labels) + F.cross_entropy(attacked_logits, labels)) / 2
    p, q = clean_logits.softmax(1).detach(), attacked_logits.softmax(1)
    check_gradients(gradients, model, loss + 0.5 * (p * (p / q).log()).sum(1).mean())
    after = state_of(trainer)
    moved = (before["live"] + step * live.grad.sign()).clamp(-eps, eps).detach()
    torch.testing.assert_close(after["live"], moved, rtol=0, atol=1e-15)
    assert (after["live"] != before["live"]).double().mean() > 0.5
    assert torch.equal(after["bank"], before["bank"])


def test_half_of_the_images_are_mirrored_before_they_are_attacked(tmp_path):
    _, gradients, model, images, labels = one_step(tmp_path, defence="pgd-at", **ADVERSARY, random_flip=True)
    mirrored = torch.from_numpy(mixed_bits(STEP_SEEDS, draw=3) >= np.uint64(2**63))
    assert 6 <= mirrored.sum() <= 18
    images = torch.stack([image.flip(2) if each else image for image, each in zip(images, mirrored, strict=True)])
    attacked = pgd(model, images, labels, **ADVERSARY, seeds=STEP_SEEDS)
    check_gradients(gradients, model, F.cross_entropy(model(attacked), labels))


def test_a_live_patch_covers_a_share_of_the_images_and_moves_by_the_same_pass(tmp_path):
    settings = {"defence": "universal", "defence_settings": {**BANK, "patch_share": 0.5, "patch_area": 0.25}}
    begun = tiny_trainer(tmp_path / "begun", **ONE_STEP, **settings)
    begun.evaluate()
    before = state_of(begun)
    trainer, gradients, model, images, labels = one_step(tmp_path / "run", **settings)

    patch, side = before["second.patch"].requires_grad_(), SIDE // 2
    assert patch.shape == (3, side, side)
    corners = random_corners(STEP_SEEDS, (SIDE, SIDE), side)
    assert {*corners.flatten().tolist()} == {*range(side + 1)}
    is_covered = mixed_bits(STEP_SEEDS, draw=1) < 2**63
    assert 6 < is_covered.sum() < 18
    covered = images.clone()
    for row, (top, left) in enumerate(corners):
        covered[row, :, top : top + side, left : left + side] = patch
    perturbations = torch.cat([before["first.live"], before["first.bank"]])
    perturbed = (images + perturbations[drawn(STEP_SEEDS, 2, 1)]).clamp(0, 1)
    attacked = torch.where(torch.from_numpy(is_covered).view(-1, 1, 1, 1), covered, perturbed)
    clean_logits, attacked_logits = model(images), model(attacked)
    loss = (F.cross_entropy(clean_logits, labels) + F.cross_entropy(attacked_logits, labels)) / 2
    p, q = clean_logits.softmax(1).detach(), attacked_logits.softmax(1)
    check_gradients(gradients, model, loss + 0.5 * (p * (p / q).log()).sum(1).mean())
    moved = (patch + 0.1 * patch.grad.sign()).clamp(0, 1).detach()
    torch.testing.assert_close(state_of(trainer)["second.patch"], moved, rtol=0, atol=1e-15)
    assert (moved != patch).double().mean() > 0.5


def test_a_live_patch_lies_anywhere_in_the_image_by_its_seed_and_is_mixed_in_while_eps_grows():
    corners = random_corners(range(40_000), (8, 10), 5)
    for places, column in ((4, 0), (6, 1)):
        counts = np.bincount(corners[:, column]) / 40_000
        assert counts == pytest.approx([1 / places] * places, abs=0.01)
    assert abs(np.corrcoef(corners.T)[0, 1]) < 0.02
    assert (random_corners(range(10, 15), (8, 10), 5) == corners[10:15]).all()

    adversary = LivePatch(area=0.25)
    adversary.begin(None, lambda count: (torch.zeros(count, 3, 8, 8), None), seed=0)
    images = torch.zeros(6, 3, 8, 8)
    whole, half = (adversary.craft(None, images, None, seeds=range(6), eps_share=share) for share in (1.0, 0.5))
    assert torch.equal(half, whole / 2)
    assert (whole > 0).sum((1, 2, 3)).tolist() == [3 * 4 * 4] * 6
    assert whole.sum((1, 2, 3)).tolist() == pytest.approx([adversary.state["patch"].sum().item()] * 6, abs=1e-4)


def test_a_live_patch_that_does_not_fit_is_refused_before_the_bank_is_crafted(tmp_path, caplog):
    caplog.set_level("INFO")
    settings = {"defence": "universal", "defence_settings": {**BANK, "patch_share": 0.5, "patch_area": 1e-4}}
    with pytest.raises(UserError, match=r"area is 0\.0001, a patch of 0 pixels a side in images of"):
        tiny_trainer(tmp_path, **settings).train()
    assert "Crafting" not in caplog.text
    adversary = LivePatch(area=0.25)
    adversary.state = {"patch": torch.zeros(3, 4, 4)}
    adversary.check_size(8, 8)
    with pytest.raises(UserError, match="Images are of 10 x 10 pixels, for a patch of 5 pixels a side, and this one"):
        adversary.craft(None, torch.zeros(1, 3, 10, 10), None, seeds=[0])


def test_half_of_the_images_get_a_live_perturbation_and_all_kinds_their_share():
    chosen = drawn(range(40_000), 2, 4)
    counts = torch.bincount(torch.from_numpy(chosen)) / 40_000
    assert counts.tolist() == pytest.approx([0.25, 0.25, *[0.125] * 4], abs=0.01)
    assert drawn(range(10, 15), 2, 4).tolist() == chosen[10:15].tolist()
    assert {*drawn(range(100), 3, 0).tolist()} == {0, 1, 2}


def test_a_single_pass_attacks_a_share_of_the_images_and_leaves_the_others_clean(tmp_path):
    settings = {**QUICK, "clean_share": 0.25, "defence_settings": {**UNPATCHED, **HALF}}
    begun = tiny_trainer(tmp_path / "begun", **ONE_STEP, **settings)
    begun.evaluate()
    before = state_of(begun)
    trainer, gradients, model, images, labels = one_step(tmp_path / "run", **settings)

    live, clean = before["live"].requires_grad_(), [3, 7, 11, 15, 19, 23]
    passed = (images + torch.cat([live, before["bank"]])[drawn(STEP_SEEDS, 2, 1)]).clamp(0, 1)
    passed[clean] = images[clean]
    logits = model(passed)
    check_gradients(gradients, model, F.cross_entropy(logits, labels))
    assert torch.equal(state_of(trainer)["live"], (live + 2 / 255 * live.grad.sign()).clamp(-10 / 255, 10 / 255))
    log, attacked = trainer.state.log_history[0], [row for row in range(24) if row not in clean]
    for kind, rows in (("clean", clean), ("robust", attacked)):
        right = (logits[rows].argmax(1) == labels[rows]).double().mean().item()
        assert log[f"{kind}_accuracy"] == pytest.approx(right, abs=1e-4)
        loss = F.cross_entropy(logits[rows], labels[rows]).item()
        assert log["clean_loss" if kind == "clean" else "adversarial_loss"] == pytest.approx(loss, abs=1e-4)


def test_gen_af_universal_is_gen_afs_objective_on_universal_perturbations(tmp_path):
    bank = {**UNPATCHED, "divergence_weight": 0}
    settings = {"genetic_weight": 0.5, "genetic_share": math.inf, "defence_settings": bank}
    _, gradients, model, images, labels = one_step(tmp_path / "run", defence="gen-af-universal", **settings)
    begun = tiny_trainer(tmp_path / "begun", defence="gen-af-universal", **ONE_STEP, **settings)
    begun.evaluate()
    state = state_of(begun)
    attacked = (images + torch.cat([state["live"], state["bank"]])[drawn(STEP_SEEDS, 2, 1)]).clamp(0, 1)
    clean_logits, attacked_logits = model(images), model(attacked)
    each = F.cross_entropy(clean_logits, labels, reduction="none")
    loss = (each.mean() + F.cross_entropy(attacked_logits, labels)) / 2
    check_gradients(gradients, model, loss + 0.5 * genetic_regularization(clean_logits, attacked_logits, labels, each))


def test_perturbations_grow_over_the_warm_up_and_stay_within_eps(tmp_path):
    sizes = []

    def keep(module, args, kwargs):
        if module.training:
            clean, attacked = (kwargs["pixel_values"] / 2 + 0.5).chunk(2)
            sizes.append((attacked - clean).abs().max().item())

    trainer = tiny_trainer(tmp_path, max_steps=8, eps_warmup_ratio=0.5, **QUICK)
    trainer.model.register_forward_pre_hook(keep, with_kwargs=True)
    trainer.train()
    assert sizes == pytest.approx([10 / 255 * share for share in (0.25, 0.5, 0.75, *[1.0] * 5)], abs=1e-6)
    assert state_of(trainer)["live"].abs().max() <= 10 / 255


def test_a_mixture_gives_each_image_to_one_of_two_adversaries(tmp_path):
    settings = {"clean_share": 0, "defence_settings": {**BANK, "per_image_share": 0.5, "per_image_eps": 0.1}}
    begun = tiny_trainer(tmp_path / "begun", defence="universal-n-fgsm", **ONE_STEP, **settings)
    begun.evaluate()
    state = {name.removeprefix("first."): each for name, each in state_of(begun).items()}
    trainer, gradients, model, images, labels = one_step(tmp_path / "run", defence="universal-n-fgsm", **settings)

    live = state["live"].requires_grad_()
    shared = (images + torch.cat([live, state["bank"]])[drawn(STEP_SEEDS, 2, 1)]).clamp(0, 1)
    own = n_fgsm(model, images, labels, eps=0.1, seeds=STEP_SEEDS)
    is_second = torch.from_numpy(mixed_bits(STEP_SEEDS, draw=1) < 2**63).view(-1, 1, 1, 1)
    assert 6 < is_second.sum() < 18
    model.zero_grad()
    check_gradients(gradients, model, F.cross_entropy(model(torch.where(is_second, own, shared)), labels))
    moved = (live + 2 / 255 * live.grad.sign()).clamp(-10 / 255, 10 / 255)
    assert torch.equal(trainer.tensors_beside_model()["first.live"].detach(), moved)
    assert {*trainer.defence.attacks()} == {"live-1", "live-2", "l4a", "n-fgsm"}


@pytest.mark.parametrize("share", [0, 1])
def test_a_mixture_may_be_of_one_adversary_alone(tmp_path, share):
    settings = {"clean_share": 0, "eps": 0.01, "eps_warmup_ratio": 0}
    mixed = {**BANK, "per_image_share": share, "per_image_eps": 0.01}
    trainer = tiny_trainer(tmp_path / "mixed", defence="universal-n-fgsm", defence_settings=mixed, **settings)
    alone = {"defence": "n-fgsm", "eps": 0.01} if share else {**QUICK, **settings}
    if not share:
        alone["defence_settings"] = {**UNPATCHED, **HALF}
    other = tiny_trainer(tmp_path / "alone", **{**alone, "eps_warmup_ratio": 0})
    for each in (trainer, other):
        each.adversarial_finetune()
    torch.testing.assert_close(copied_weights(trainer.model), copied_weights(other.model), rtol=0, atol=0)


def test_a_mixture_gives_the_second_its_share():
    drawn_bits = mixed_bits(range(40_000), draw=1) / 2.0**64
    assert (drawn_bits < 0.25).mean() == pytest.approx(0.25, abs=0.01)
    first = mixed_bits(range(40_000)) / 2.0**64
    assert abs(np.corrcoef(first, drawn_bits)[0, 1]) < 0.02


def test_defence_none_is_the_undefended_baseline(tmp_path):
    final = []
    for name, settings in {"none": {"defence": "none"}, "baseline": {}}.items():
        trainer = tiny_trainer(tmp_path / name, adapt_max_steps=-1, **settings)
        (trainer.train if name == "none" else trainer.standard_finetune)()
        final.append(copied_weights(trainer.model))
        assert trainer.state.log_history[-1]["stage"] == "standard_finetune"
    torch.testing.assert_close(*final, rtol=0, atol=0)
    assert "eval_robust_accuracy" not in tiny_trainer(tmp_path, defence="none").evaluate()


@pytest.mark.parametrize("name", ["pgd-at", "universal", "none", "gen-af-universal"])
def test_stage_2_is_a_part_of_gen_af_and_can_follow_others(tmp_path, name):
    settings = {"defence": name, **({"defence_settings": BANK} if "universal" in name else {})}
    assert tiny_trainer(tmp_path, adapt_max_steps=-1, adapt_epochs=0, **settings).train().global_step == 5
    assert (tiny_trainer(tmp_path, **settings).args.adapt_epochs > 0) == (name == "gen-af-universal")
    trainer = tiny_trainer(tmp_path, **settings)
    assert trainer.train().global_step == 10
    assert [log["stage"] for log in trainer.state.log_history if "train_loss" in log][1] == "adapt"


# ---- state: checkpoints, processes, accumulation, precision, memory, adapters ----


@pytest.mark.parametrize("name", DEFENCES)
def test_resumed_is_uninterrupted_with_the_state_to_the_bit(tmp_path, name):
    settings = {"dropout": 0.1, "save_strategy": "steps", "save_steps": 2, "images": 24, **DEFENCES[name]}
    whole = tiny_trainer(tmp_path, **settings)
    whole.train()
    for checkpoint in ("adversarial_finetune/checkpoint-2", "adversarial_finetune/checkpoint-5", "adapt/checkpoint-4"):
        again = tiny_trainer(tmp_path, **settings)
        again.train(resume_from_checkpoint=tmp_path / checkpoint)
        torch.testing.assert_close(copied_weights(again.model), copied_weights(whole.model), rtol=0, atol=0)
        torch.testing.assert_close(state_of(again), state_of(whole), rtol=0, atol=0)
        assert again.evaluate()["eval_robust_accuracy"] == whole.evaluate()["eval_robust_accuracy"]


def test_twins_goes_on_with_the_statistics_that_were_frozen(tmp_path):
    settings = {"defence": "twins", "save_strategy": "steps", "save_steps": 2, "images": 24, "adapt_max_steps": -1}
    whole = tiny_trainer(tmp_path, model=batch_norm_model(torch.float32), **settings)
    whole.train()
    other = batch_norm_model(torch.float32)
    other.resnet.embedder.embedder.normalization.running_mean += 1
    again = tiny_trainer(tmp_path, model=other, **settings)
    again.train(resume_from_checkpoint=tmp_path / "adversarial_finetune/checkpoint-2")
    torch.testing.assert_close(copied_weights(again.model), copied_weights(whole.model), rtol=0, atol=0)
    torch.testing.assert_close(state_of(again), state_of(whole), rtol=0, atol=0)


ALL_AT_ONCE = {"bf16": True, CHECKPOINTING: True, "gradient_accumulation_steps": 2, **DEFENCES["gen-af-universal"]}


@pytest.mark.parametrize("changes", [{"bf16": True}, {CHECKPOINTING: True}, {"lora": True}, ALL_AT_ONCE])
def test_universal_trains_in_bf16_with_activation_checkpointing_and_adapters(tmp_path, changes):
    settings = {name: value for name, value in changes.items() if name != "lora"}
    model = lora_model(tiny_model(), ["q_proj", "v_proj"]) if "lora" in changes else None
    trainer = tiny_trainer(tmp_path, model=model, **{**QUICK, **settings})
    trainer.evaluate()
    weights, state = copied_weights(trainer.model), state_of(trainer)
    trainer.train()
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert changed(weights, copied_weights(trainer.model)) == trainable
    live = {"first.live", "second.patch"} if "first.live" in state else {"live"}
    assert changed(state, state_of(trainer)) == live
    assert {each.dtype for each in state.values()} == {torch.float32}
    assert trainer.evaluate().keys() >= {"eval_clean_accuracy", "eval_robust_accuracy"}


@pytest.mark.parametrize("bf16", [False, True])
def test_the_bank_is_crafted_in_the_precision_of_the_training(tmp_path, bf16):
    trainer, dtypes = tiny_trainer(tmp_path, bf16=bf16, **QUICK), set()
    trainer.model.vit.layers[0].mlp.fc1.register_forward_hook(lambda module, given, output: dtypes.add(output.dtype))
    trainer.begin_adversary()
    assert dtypes == {torch.bfloat16 if bf16 else torch.float32}


def test_the_bank_is_crafted_once_on_the_public_encoder(tmp_path, caplog):
    caplog.set_level("INFO")
    first = tiny_trainer(tmp_path / "first", **QUICK)
    first.train()
    again = tiny_trainer(tmp_path / "again", **QUICK)
    again.standard_finetune()
    assert caplog.text.count("Crafting l4a") == 1
    assert torch.equal(state_of(again)["bank"], state_of(first)["bank"])
    found = first.defence.adversary.perturbations()
    assert [*found] == ["live-1", "live-2", "l4a"]
    found["live-1"].save_pretrained(tmp_path / "shared")
    assert torch.equal(UniversalPerturbation.from_pretrained(tmp_path / "shared").delta, state_of(first)["live"][0])


# ---- records, cards, recipes ----


def test_a_defence_of_ones_own_runs_through_recipe_record_and_card(tmp_path, dataset, encoders):
    dataset.save_to_disk(tmp_path / "colours")
    arguments = HardeningArguments(
        encoders["mae"], str(tmp_path / "colours"), attacks="l4a,pgd", attack_settings={"steps": 3}
    )
    config = GenAFConfig(
        output_dir=str(tmp_path / "run"),
        defence="paired",
        defence_settings='{"pull": 0.25}',
        per_device_train_batch_size=8,
        max_steps=6,
        report_to="none",
        use_cpu=True,
    )
    harden(arguments, config)
    record = TrainingRecord.load(tmp_path / "run/training.json")
    assert record.defence["name"] == "paired"
    assert record.defence["settings"] == {"eps": 0.1, "pull": 0.25}
    assert record.stages.keys() == {"adversarial_finetune"}
    assert all("distance" in log for log in record.history if "loss" in log)
    card = (tmp_path / "run/README.md").read_text()
    assert "hardened with Paired (Tests, 2026)" in card
    assert "`paired`, with eps 0.1, pull 0.25" in card
    assert "@misc{paired2026" in card
    assert "zhou2024genaf" not in card
    assert "--defence paired" in record.command


def test_perturbations_that_a_model_was_trained_on_lie_beside_it_and_are_told(tmp_path):
    trainer = tiny_trainer(tmp_path, **{**QUICK, "defence_settings": {**BANK, "patch_share": 0.5}})
    trainer.train()
    trainer.create_model_card()
    state = state_of(trainer)
    for name, delta, eps in (
        ("live-2", state["first.live"][1], 10 / 255),
        ("l4a", state["first.bank"][0], 10 / 255),
        ("live-patch", state["second.patch"], 1),
    ):
        shared = UniversalPerturbation.from_pretrained(tmp_path / "training_perturbations" / name)
        assert torch.equal(shared.delta, delta)
        assert shared.eps == eps
    assert isinstance(shared, UniversalPatch)
    assert shared.top is None
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert "trained on lie in `training_perturbations/`: live-1, live-2, l4a, live-patch" in card
    assert "shafahi2020universal" in card
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"live-1", "live-2", "l4a", "live-patch"} <= {each["attack"] for each in report["measurements"]}


# ---- what is refused or said ----


@pytest.fixture
def make(tmp_path):
    return lambda **changes: GenAFConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **changes)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"defence": "magic"}, 'There is no defence "magic"; there are .*gen-af, .*universal'),
        ({"defence": "universal", "eps": 0.0}, "eps is 0.0, expected"),
        ({"defence": "trades", "defence_settings": {"gamma": 1}}, 'trades has no setting "gamma"; it has .*beta'),
        (
            {"defence": "trades", "defence_settings": {"eps": 0.1}},
            "defence_settings give eps, which is",
        ),
        ({"defence": "trades", "defence_settings": {"beta": -1}}, "beta is -1, expected a positive number"),
        ({"defence": "trades", "defence_settings": {"beta": "big"}}, 'beta is "big", expected a number'),
        ({"defence": "trades", "defence_settings": "beta"}, "defence_settings are beta, expected JSON"),
        ({"defence": "trades", "defence_settings": "[1]"}, "defence_settings are .*, expected settings by name"),
        ({"defence": "universal", "defence_settings": {"live": 0}}, "live is 0, expected"),
        (
            {"defence": "universal", "defence_settings": {"single_pass": True}},
            "divergence_weight is 0.5, but single_pass is True.* set divergence_weight to 0",
        ),
        (
            {"defence": "universal-n-fgsm", "defence_settings": {"per_image_share": 2}},
            r"share of an adversary is 2, expected one in \[0, 1\]",
        ),
        ({"defence": "awp", "eps": 0.0}, "eps is 0.0, expected"),
        ({"defence": "mart", "defence_settings": {"beta": 0}}, "beta is 0, expected a positive number"),
        ({"defence": "awp", "defence_settings": {"gamma": 1.5}}, "gamma is 1.5, expected a share of a weight"),
        ({"defence": "twins", "defence_settings": {"frozen_weight": 0}}, "frozen_weight is 0, expected a positive"),
        (
            {"defence": "universal", "defence_settings": {"patch_share": -0.1}},
            r"share of an adversary is -0.1, expected one in \[0, 1\]",
        ),
        ({"defence": "universal", "defence_settings": {"patch_area": 0}}, "area of a live patch is 0, expected"),
        (
            {"defence": "universal", "defence_settings": {"bank": ["l4a", "upgd"]}},
            "bank is .*, expected a list of universal",
        ),
    ],
)
def test_what_no_defence_can_be_is_refused_in_one_sentence(make, settings, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        make(**settings)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "value"), [("genetic_weight", 20.0), ("steps", 3), ("norm", "l2")])
def test_a_setting_that_the_defence_does_not_read_is_refused(make, name, value):
    with pytest.raises(UserError, match=f"^{name} is {value}, which the defence universal does not read: .* eps, "):
        make(defence="universal", **{name: value})


def test_a_configuration_is_made_again_of_what_it_says(make):
    config = make(defence="universal")
    assert (config.genetic_weight, config.norm, config.steps) == (None, "linf", None)
    again = GenAFConfig(**{**json.loads(config.to_json_string()), "output_dir": "x", "use_cpu": True})
    assert again.eps == config.eps == 10 / 255
    assert make(defence="none").eps is None


def test_more_live_perturbations_than_images_in_an_update_are_refused_before_training(tmp_path):
    settings = {**QUICK, "defence_settings": {"bank": [], "live": 9}}
    with pytest.raises(UserError, match=r"live is 9, but an update is of 8 image\(s\)"):
        tiny_trainer(tmp_path, **settings).train()
    twice = tiny_trainer(tmp_path, gradient_accumulation_steps=2, max_steps=1, **settings)
    assert twice.train().global_step == 1


def test_twins_is_for_models_with_batch_norm(tmp_path):
    with pytest.raises(UserError, match="for encoders with BatchNorm, which a ViTForImageClassification has not"):
        tiny_trainer(tmp_path, defence="twins").standard_finetune()


def smaller(dataset: list[dict]) -> list[dict]:
    return [{**row, "pixel_values": row["pixel_values"][:, 1:, 1:]} for row in dataset]


def test_perturbations_and_images_of_other_sizes_are_refused_before_training(tmp_path):
    settings = {**QUICK, "save_strategy": "steps", "save_steps": 2}
    refused = rf"of {SIDE - 1} x {SIDE - 1} pixels, the perturbations for them of {SIDE} x {SIDE}"
    mixed = tiny_trainer(tmp_path, model=batch_norm_model(torch.float32), **settings)
    mixed.eval_dataset = smaller(mixed.eval_dataset)
    with pytest.raises(UserError, match=refused):
        mixed.train()
    assert not (tmp_path / "adversarial_finetune").exists()
    tiny_trainer(tmp_path, model=batch_norm_model(torch.float32), **settings).train()
    again = tiny_trainer(tmp_path, model=batch_norm_model(torch.float32), **settings)
    again.train_dataset, again.eval_dataset = smaller(again.train_dataset), smaller(again.eval_dataset)
    with pytest.raises(UserError, match=refused):
        again.train(resume_from_checkpoint=tmp_path / "adversarial_finetune/checkpoint-2")
    adversary = Universal(eps=0.1)
    adversary.state = {"live": torch.zeros(2, 3, 8, 8), "bank": torch.zeros(0, 3, 8, 8)}
    with pytest.raises(UserError, match="Images are of 9 x 9 pixels"):
        adversary.craft(None, torch.zeros(1, 3, 9, 9), torch.zeros(1), seeds=[0])


def test_a_run_of_another_defence_is_not_gone_on_with(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "adapt_max_steps": -1}
    tiny_trainer(tmp_path, **settings, defence="pgd-at").train()
    with pytest.raises(UserError, match=r"checkpoint-5 is of the defence pgd-at with .*, expected trades with"):
        tiny_trainer(tmp_path, **settings, defence="trades").train(resume_from_checkpoint=True)
    with pytest.raises(UserError, match=r"checkpoint-5 is of the defence pgd-at .*'eps': 0.0156.* expected pgd-at"):
        tiny_trainer(tmp_path, **settings, defence="pgd-at", eps=0.1).train(resume_from_checkpoint=True)


def test_a_checkpoint_without_its_perturbations_is_passed_over(tmp_path):
    settings = {**QUICK, "save_strategy": "steps", "save_steps": 2}
    tiny_trainer(tmp_path, **settings).train()
    (tmp_path / "adversarial_finetune/checkpoint-5/beside_model.safetensors").unlink()
    assert newest_complete_checkpoint(tmp_path / "adversarial_finetune").name == "checkpoint-4"
    with pytest.raises(UserError, match=r"no complete checkpoint.*its beside_model\.safetensors is missing"):
        tiny_trainer(tmp_path, **settings).train(resume_from_checkpoint=tmp_path / "adversarial_finetune/checkpoint-5")


def test_a_defence_is_registered_once_and_takes_its_settings_by_name():
    with pytest.raises(UserError, match='There is a defence "trades" already'):

        @defences.register_defence(title="Mine")
        def trades(): ...

    with pytest.raises(UserError, match='The setting "eps" of mine is expected by name alone, with a default'):

        @defences.register_defence(title="Mine")
        def mine(eps): ...
