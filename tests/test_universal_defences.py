"""Defences by universal perturbations, which move with the training and are a state of it."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import SIDE, TINY_VIT
from one_step import STEP_SEEDS, batch_norm_model, check_gradients, clamped, one_step, state_before, state_of
from own_defence import BANK, DEFENCES, HALF
from recorder import CHECKPOINTING, changed, lora_model
from torch.nn import functional as F
from train_tiny import PROCESSOR, copied_weights, tiny_model, tiny_trainer
from transformers import ViTConfig, ViTForImageClassification

from genaf_hf import PixelModel, UniversalPatch, UniversalPerturbation, evaluate_robustness
from genaf_hf.attacks import ATTACKS, n_fgsm
from genaf_hf.attacks.patch import paste
from genaf_hf.errors import UserError
from genaf_hf.training.adversaries.adversary import ADVERSARY_SEED
from genaf_hf.training.adversaries.batch import Batch
from genaf_hf.training.adversaries.draws import (
    ADVERSARY,
    ASCENT,
    CORNER,
    MIRROR,
    OF_CLASS,
    PERTURBATION,
    below,
    mixed_bits,
)
from genaf_hf.training.adversaries.live_patch import LivePatch, random_corners
from genaf_hf.training.adversaries.mixture import Mixture
from genaf_hf.training.adversaries.twin_pgd import TwinPGD
from genaf_hf.training.adversaries.universal import Universal, drawn, move_by_sign
from genaf_hf.training.checkpoint import newest_complete_checkpoint
from genaf_hf.training.genetic_regularization import genetic_regularization

pytestmark = [pytest.mark.slow(reason="trains by universal perturbations"), pytest.mark.usefixtures("quick_checks")]

UNPATCHED = {**BANK, "patch_share": 0}
QUICK = {"defence": "universal", "defence_settings": UNPATCHED, "adapt_max_steps": -1}


@pytest.mark.parametrize(("class_share", "temperature", "anchor"), [(0, 1, 0), (0.5, 4, 0), (1, 1, 10)])
def test_weights_and_live_perturbations_share_one_backward_pass(tmp_path, class_share, temperature, anchor):
    given = {"live": None, "class_share": class_share}
    given |= {"anchor_weight": anchor, "ascent_share": 0} if anchor else {"divergence_temperature": temperature}
    defence = "universal-anchor" if anchor else "universal"
    settings = {**QUICK, "defence": defence, "defence_settings": {**UNPATCHED, **given}}
    before = state_before(tmp_path / "begun", **settings)
    trainer, gradients, model, images, labels = one_step(tmp_path / "run", **settings)
    eps, step = trainer.args.eps, trainer.args.step_size
    assert (eps, step) == (10 / 255, 2 / 255)

    live = before["live"].requires_grad_()
    count = len(live)
    assert count == model.model.config.num_labels
    chosen = torch.from_numpy(drawn(STEP_SEEDS, count, 1))
    by_class = (chosen < count) & torch.from_numpy(below(STEP_SEEDS, class_share, OF_CLASS))
    chosen[by_class] = labels[by_class]
    assert {*chosen.tolist()} == {*range(count + 1)}
    attacked = clamped(images + torch.cat([live, before["bank"]])[chosen])
    clean_logits, attacked_logits = model(images), model(attacked)
    loss = (F.cross_entropy(clean_logits, labels) + F.cross_entropy(attacked_logits, labels)) / 2
    p, q = ((logits / temperature).softmax(1) for logits in (clean_logits.detach(), attacked_logits))
    loss = loss + 0.5 * temperature**2 * (p * (p / q).log()).sum(1).mean()
    clean_features = model.features(images).detach()  # of the public encoder, which no step has changed yet
    apart = (model.features(attacked) - clean_features).square().sum(1) / clean_features.square().sum(1)
    check_gradients(gradients, model, loss + anchor * apart.mean() / 2)
    after = state_of(trainer)
    moved = (before["live"] + step * live.grad.sign()).clamp(-eps, eps).detach()
    torch.testing.assert_close(after["live"], moved, rtol=0, atol=1e-15)
    assert (after["live"] != before["live"]).double().mean() > 0.5
    assert torch.equal(after["bank"], before["bank"])


@pytest.mark.parametrize("class_share", [0, 1])
def test_live_perturbations_move_against_the_labels_logit_by_a_pass_of_their_own(tmp_path, class_share):
    given = {"live": None, "class_share": class_share, "ascent_share": 0.5}
    settings = {**QUICK, "defence_settings": {**UNPATCHED, **given}}
    before = state_before(tmp_path / "begun", model=batch_norm_model(), **settings)
    trainer, gradients, model, images, labels = one_step(tmp_path / "run", model=batch_norm_model(), **settings)

    live = before["live"].requires_grad_()
    chosen = torch.from_numpy(drawn(STEP_SEEDS, len(live), 1))
    has_live = chosen < len(live)
    if class_share:
        chosen[has_live] = labels[has_live]
    attacked = clamped(images + torch.cat([live, before["bank"]])[chosen])
    moving = has_live & torch.from_numpy(below(STEP_SEEDS, 0.5, ASCENT))
    assert 0 < moving.sum() < has_live.sum()
    logits = model.eval()(attacked)[moving]
    label_logits = logits[range(len(logits)), labels[moving]]
    (gradient,) = torch.autograd.grad((logits.mean(1) - label_logits).sum(), live)
    moved = (before["live"] + trainer.args.step_size * gradient.sign()).clamp(-trainer.args.eps, trainer.args.eps)
    torch.testing.assert_close(state_of(trainer)["live"], moved.detach(), rtol=0, atol=1e-15)
    assert (moved != before["live"]).double().mean() > 0.2

    clean_logits, attacked_logits = model.train()(torch.cat([images, attacked.detach()])).chunk(2)
    loss = (F.cross_entropy(clean_logits, labels) + F.cross_entropy(attacked_logits, labels)) / 2
    p, q = clean_logits.softmax(1).detach(), attacked_logits.softmax(1)
    check_gradients(gradients, model, loss + 0.5 * (p * (p / q).log()).sum(1).mean())
    torch.testing.assert_close(dict(trainer.model.named_buffers()), dict(model.model.named_buffers()))


def test_a_step_stays_within_bounds_passes_over_nan_and_forgets_its_gradient():
    live = torch.tensor([0.0, 0.1, -0.1, 0.05], requires_grad=True)
    live.grad = torch.tensor([torch.nan, 2.0, -3.0, 0.0])
    move_by_sign(live, 0.05, -0.12, 0.13)
    torch.testing.assert_close(live.detach(), torch.tensor([0.0, 0.13, -0.12, 0.05]))
    assert live.grad is None


def test_what_is_trained_on_is_not_what_the_same_seed_attacks_with(tmp_path):
    settings = {**QUICK, "seed": 7, "eps": 0.5, "defence_settings": {**UNPATCHED, "live": 2, "bank_steps": 1}}
    trainer = tiny_trainer(tmp_path, **settings)
    images, _ = trainer._sampled_images(12)
    attack = ATTACKS["l4a"].configure(eps=0.5, steps=1, seed=7)(trainer.pixel_model(trainer.model), images)
    trainer.evaluate()
    begun = torch.empty_like(attack.delta).uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(7))
    assert torch.corrcoef(torch.stack([begun.flatten(), attack.delta.flatten()]))[0, 1] > 0.99  # one step is near it
    state = state_of(trainer)
    assert (len(state["live"]), len(state["bank"])) == (2, 1)
    for trained_on in [*state["live"], *state["bank"]]:
        assert torch.corrcoef(torch.stack([begun.flatten(), trained_on.flatten()]))[0, 1].abs() < 0.2


def test_a_live_patch_covers_a_share_of_the_images_and_moves_by_the_same_pass(tmp_path):
    settings = {"defence": "universal", "defence_settings": {**BANK, "patch_share": 0.5, "patch_area": 0.25}}
    before = state_before(tmp_path / "begun", **settings)
    trainer, gradients, model, images, labels = one_step(tmp_path / "run", **settings)

    patch, side = before["second.patch"].requires_grad_(), SIDE // 2
    assert patch.shape == (3, side, side)
    corners = random_corners(STEP_SEEDS, (SIDE, SIDE), side)
    assert {*corners.flatten().tolist()} == {*range(side + 1)}
    is_covered = mixed_bits(STEP_SEEDS, ADVERSARY) < 2**63
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
    whole, half = (adversary.craft(None, Batch(images, None, range(6), share)) for share in (1.0, 0.5))
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
        adversary.craft(None, Batch(torch.zeros(1, 3, 10, 10), None, [0]))


def test_half_of_the_images_get_a_live_perturbation_and_all_kinds_their_share():
    chosen = drawn(range(40_000), 2, 4)
    counts = torch.bincount(torch.from_numpy(chosen)) / 40_000
    assert counts.tolist() == pytest.approx([0.25, 0.25, *[0.125] * 4], abs=0.01)
    assert drawn(range(10, 15), 2, 4).tolist() == chosen[10:15].tolist()
    assert {*drawn(range(100), 3, 0).tolist()} == {0, 1, 2}


def test_images_of_more_than_32_classes_get_any_of_six_live_perturbations():
    adversary = Universal(eps=0.1, class_share=None)
    model = PixelModel(ViTForImageClassification(ViTConfig(**TINY_VIT, num_labels=33)), PROCESSOR)
    images, labels = torch.rand(33, 3, SIDE, SIDE), torch.arange(33)
    adversary.begin(model, lambda count: (images, labels), 0)
    live = adversary.state["live"]
    assert len(live) == 6
    attacked = adversary.craft(model, Batch(images, labels, range(33)))
    expected = (images + live[drawn(range(33), 6, 0)]).clamp(0, 1)
    torch.testing.assert_close(attacked, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("classes", "asked", "share", "made"), [(32, None, None, 32), (33, 33, None, 33), (33, 6, 1, 6), (33, None, 1, 6)]
)
def test_each_class_has_a_live_perturbation_or_shares_one_where_that_is_asked_for(classes, asked, share, made):
    adversary = Universal(eps=0.1, class_share=share, live=asked)
    model = PixelModel(ViTForImageClassification(ViTConfig(**TINY_VIT, num_labels=classes)), PROCESSOR)
    images, labels = torch.rand(classes, 3, SIDE, SIDE), torch.arange(classes)
    adversary.begin(model, lambda count: (images, labels), 0)
    live = adversary.state["live"]
    assert len(live) == made
    attacked = adversary.craft(model, Batch(images, labels, range(classes)))
    torch.testing.assert_close(attacked, (images + live[labels % made]).clamp(0, 1), rtol=0, atol=0)


def test_live_perturbations_that_no_class_would_be_given_are_refused():
    model = PixelModel(ViTForImageClassification(ViTConfig(**TINY_VIT, num_labels=2)), PROCESSOR)
    for share in (None, 1.0):
        with pytest.raises(
            UserError, match=r"^live is 3, but there are 2 classes, each of which is given its own, .* to 2"
        ):
            Universal(eps=0.1, class_share=share, live=3).begin(
                model, lambda count: (torch.rand(2, 3, SIDE, SIDE), torch.arange(2)), 0
            )
    any_of_three = Universal(eps=0.1, class_share=0, live=3)
    any_of_three.begin(model, lambda count: (torch.rand(2, 3, SIDE, SIDE), torch.arange(2)), 0)
    assert len(any_of_three.state["live"]) == 3


def test_a_class_that_a_sample_lacks_has_a_live_perturbation_of_its_own():
    adversary = Universal(eps=0.1, class_share=1)
    model = PixelModel(ViTForImageClassification(ViTConfig(**TINY_VIT, num_labels=5)), PROCESSOR)
    adversary.begin(model, lambda count: (torch.rand(4, 3, SIDE, SIDE), torch.arange(4)), 0)
    assert len(adversary.state["live"]) == 5


def test_a_single_pass_attacks_a_share_of_the_images_and_leaves_the_others_clean(tmp_path):
    settings = {**QUICK, "clean_share": 0.25, "defence_settings": {**UNPATCHED, **HALF}}
    before = state_before(tmp_path / "begun", **settings)
    trainer, gradients, model, images, labels = one_step(tmp_path / "run", **settings)

    live, clean = before["live"].requires_grad_(), [3, 7, 11, 15, 19, 23]
    passed = clamped(images + torch.cat([live, before["bank"]])[drawn(STEP_SEEDS, 2, 1)])
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


def test_what_a_single_pass_logs_does_not_depend_on_how_few_rows_are_passed_at_once(tmp_path):
    logs = []
    for rows in (8, 2, 1):  # of two, or of one, there may be no clean ones
        settings = {**QUICK, "clean_share": 0.25, "defence_settings": {**UNPATCHED, **HALF}, "max_steps": 2}
        few = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 8 // rows, "logging_steps": 2}
        trainer = tiny_trainer(tmp_path / str(rows), dtype=torch.float64, **settings, **few)
        trainer.train()
        [log] = (each for each in trainer.state.log_history if "loss" in each)
        logs.append(
            {name: log[name] for name in ("adversarial_loss", "clean_loss", "clean_accuracy", "robust_accuracy")}
        )
    assert logs[0]["clean_loss"] > 0
    for log in logs[1:]:
        assert log == pytest.approx(logs[0], abs=1e-9)


def test_gen_af_universal_is_gen_afs_objective_on_universal_perturbations(tmp_path):
    bank = {**UNPATCHED, "divergence_weight": 0}
    settings = {"genetic_weight": 0.5, "genetic_share": math.inf, "defence_settings": bank}
    _, gradients, model, images, labels = one_step(tmp_path / "run", defence="gen-af-universal", **settings)
    state = state_before(tmp_path / "begun", defence="gen-af-universal", **settings)
    attacked = clamped(images + torch.cat([state["live"], state["bank"]])[drawn(STEP_SEEDS, 2, 1)])
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


@pytest.mark.parametrize("patch_share", [0, 0.5])
def test_a_mixture_gives_each_image_to_one_of_its_adversaries(tmp_path, patch_share):
    mixed = {**BANK, "per_image_share": 0.5, "per_image_eps": 0.1, "patch_share": patch_share, "patch_area": 0.1}
    settings = {"clean_share": 0, "defence_settings": mixed}
    state = state_before(tmp_path / "begun", defence="universal-n-fgsm", **settings)
    trainer, gradients, model, images, labels = one_step(tmp_path / "run", defence="universal-n-fgsm", **settings)

    live = state["first.live"].requires_grad_()
    shared = clamped(images + torch.cat([live, state["first.bank"]])[drawn(STEP_SEEDS, 2, 1)])
    number = torch.from_numpy(mixed_bits(STEP_SEEDS, ADVERSARY) / 2.0**64).view(-1, 1, 1, 1)
    patched = patch_share / 2
    assert (number < patched).sum() == 6 * bool(patch_share)
    assert 6 < (number < patched + 0.5).sum() - (number < patched).sum() < 18
    expected = torch.where(number < patched + 0.5, n_fgsm(model, images, labels, eps=0.1, seeds=STEP_SEEDS), shared)
    if patch_share:
        patch = state["second.patch"]
        corners = torch.from_numpy(random_corners(STEP_SEEDS, images.shape[2:], patch.shape[-1]))
        expected = torch.where(number < patched, paste(images, patch, corners), expected)
    model.zero_grad()
    check_gradients(gradients, model, F.cross_entropy(model(expected), labels))
    moved = (live + 2 / 255 * live.grad.sign()).clamp(-10 / 255, 10 / 255)
    assert torch.equal(trainer.tensors_beside_model()["first.live"].detach(), moved)
    assert [*trainer.defence.attacks()] == ["n-fgsm"]
    assert [*trainer.defence.perturbations()] == ["live-1", "live-2", "l4a"] + ["live-patch"] * bool(patch_share)


@pytest.mark.parametrize("share", [0, 1])
def test_a_mixture_may_be_of_one_adversary_alone(tmp_path, share):
    settings = {"clean_share": 0, "eps": 0.01, "eps_warmup_ratio": 0}
    mixed = {**UNPATCHED, "per_image_share": share, "per_image_eps": 0.01}
    trainer = tiny_trainer(tmp_path / "mixed", defence="universal-n-fgsm", defence_settings=mixed, **settings)
    alone = {"defence": "n-fgsm", "eps": 0.01} if share else {**QUICK, **settings}
    if not share:
        alone["defence_settings"] = {**UNPATCHED, **HALF}
    other = tiny_trainer(tmp_path / "alone", **{**alone, "eps_warmup_ratio": 0})
    for each in (trainer, other):
        each.adversarial_finetune()
    torch.testing.assert_close(copied_weights(trainer.model), copied_weights(other.model), rtol=0, atol=0)


def test_shares_of_a_mixture_are_of_one_whole():
    one = LivePatch(area=0.1)
    twins = Mixture(one, (TwinPGD(eps=0.1, steps=1, step_size=0.1), 0.5))
    assert (twins.changes_model, twins.least_images) == (True, 3)
    assert {*Mixture(one, (one, 0.9), (one, 1 - 0.9)).parts} == {"first", "second", "third"}  # but for rounding
    with pytest.raises(UserError, match=r"share of an adversary is 1.2, expected one in \[0, 1\]"):
        Mixture(one, (one, 0.6), (one, 0.6))


def test_what_is_drawn_for_an_image_has_its_share_and_does_not_depend_on_what_else_is_drawn():
    draws = PERTURBATION, ADVERSARY, CORNER, MIRROR, OF_CLASS, ASCENT
    assert len({*draws}) == 6
    drawn_bits = np.stack([mixed_bits(range(40_000), draw) / 2.0**64 for draw in draws])
    assert below(range(40_000), 0.25, ADVERSARY).mean() == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(torch.from_numpy(np.corrcoef(drawn_bits)), torch.eye(6).double(), rtol=0, atol=0.02)


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


@pytest.mark.parametrize(
    ("name", "own"), [("universal", {}), ("universal-anchor", {}), ("universal-n-fgsm", {}), ("anchor", {})]
)
@pytest.mark.parametrize("changes", [{"bf16": True}, {CHECKPOINTING: True}, {"lora": True}])
def test_what_goes_on_in_bf16_with_checkpointing_or_adapters_is_uninterrupted_to_the_bit(tmp_path, name, own, changes):
    own = {"bank": ["l4a"], "bank_steps": 2, **own}
    settings = {**QUICK, "defence": name, "defence_settings": own, "save_strategy": "steps", "save_steps": 2, **changes}
    lora = settings.pop("lora", False)

    def trainer():
        torch.manual_seed(0)
        model = lora_model(tiny_model(), ["q_proj", "v_proj"]) if lora else None
        return tiny_trainer(tmp_path, model=model, **settings)

    whole = trainer()
    whole.train()
    again = trainer()
    again.train(resume_from_checkpoint=tmp_path / "adversarial_finetune/checkpoint-2")
    torch.testing.assert_close(copied_weights(again.model), copied_weights(whole.model), rtol=0, atol=0)
    torch.testing.assert_close(state_of(again), state_of(whole), rtol=0, atol=0)


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


def test_perturbations_that_a_model_was_trained_on_lie_beside_it_and_are_told(tmp_path):
    settings = {**QUICK, "defence_settings": {**BANK, "live": 5, "patch_share": 0.5}, "save_strategy": "epoch"}
    trainer = tiny_trainer(tmp_path, eps=0.5, **settings)
    trainer.train()
    trainer.save_model()
    beside = [f"live-{i}" for i in range(1, 6)] + ["l4a", "live-patch"]
    assert sorted(path.name for path in (tmp_path / "training_perturbations").iterdir()) == sorted(beside)
    assert not list(tmp_path.rglob("checkpoint-*/training_perturbations"))
    trainer.create_model_card()
    state = state_of(trainer)
    for name, delta, eps in (
        ("live-2", state["first.live"][1], 0.5),
        ("l4a", state["first.bank"][0], 0.5),
        ("live-patch", state["second.patch"], 1),
    ):
        shared = UniversalPerturbation.from_pretrained(tmp_path / "training_perturbations" / name)
        assert torch.equal(shared.delta, delta)
        assert (shared.eps, shared.seed) == (eps, trainer.args.seed + ADVERSARY_SEED)
    assert isinstance(shared, UniversalPatch)
    assert shared.top is None
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert (
        "trained on lie in `training_perturbations/`: live-1, live-2, live-3, live-4, live-5, l4a, live-patch" in card
    )
    assert "shafahi2020universal" in card
    report = json.loads((tmp_path / "report.json").read_text())
    *attacked, on_images = report["measurements"][1:]
    assert (on_images["attack"], on_images["knowledge"], on_images["settings"]["eps"]) == ("pgd", "model", 4 / 255)
    assert {each["knowledge"] for each in attacked} == {"perturbation at hand"}
    assert card.count("of a kind that the model was trained on") == len(attacked)
    assert "such as PGD's, are not what it was trained on, and it does not withstand them" in card
    models = {"hardened": trainer.pixel_model(trainer.model)}
    every = evaluate_robustness(models, trainer.eval_dataset, trainer.defence.perturbations())
    left = {f"{each.attack}-at-hand": each.correct for each in every.measurements[1:]}
    measured = {each["attack"]: each["correct"] for each in attacked}
    assert measured.items() <= left.items()
    assert [*measured.values()] == sorted(left.values())[:4]
    assert max(measured.values()) < max(left.values())


def test_more_live_perturbations_than_images_in_an_update_are_refused_before_training(tmp_path):
    settings = {**QUICK, "defence_settings": {"bank": [], "live": 9, "class_share": 0}}
    with pytest.raises(UserError, match=r"live is 9, but an update is of 8 image\(s\)"):
        tiny_trainer(tmp_path, **settings).train()
    twice = tiny_trainer(tmp_path, gradient_accumulation_steps=2, max_steps=1, **settings)
    assert twice.train().global_step == 1


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
        adversary.craft(None, Batch(torch.zeros(1, 3, 9, 9), torch.zeros(1), [0]))


def test_a_checkpoint_without_its_perturbations_is_passed_over(tmp_path):
    settings = {**QUICK, "save_strategy": "steps", "save_steps": 2}
    tiny_trainer(tmp_path, **settings).train()
    (tmp_path / "adversarial_finetune/checkpoint-5/beside_model.safetensors").unlink()
    assert newest_complete_checkpoint(tmp_path / "adversarial_finetune").name == "checkpoint-4"
    with pytest.raises(UserError, match=r"no complete checkpoint.*its beside_model\.safetensors is missing"):
        tiny_trainer(tmp_path, **settings).train(resume_from_checkpoint=tmp_path / "adversarial_finetune/checkpoint-5")
