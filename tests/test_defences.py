"""Defences: what they train on, their state in checkpoints and on several processes, and what is refused."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from conftest import SIDE
from one_step import ADVERSARY, STEP_SEEDS, batch_norm_model, check_gradients, one_step, state_of
from own_defence import BANK, DEFENCES, register
from recorder import changed
from torch import nn
from torch.nn import functional as F
from train_tiny import PROCESSOR, copied_weights, tiny_model, tiny_trainer

from genaf_hf import GenAFConfig, PixelModel, pgd
from genaf_hf.attacks import n_fgsm
from genaf_hf.errors import UserError
from genaf_hf.pipelines.harden import HardeningArguments, harden
from genaf_hf.sharing.record import TrainingRecord
from genaf_hf.training import defences
from genaf_hf.training.adversaries.batch import Batch
from genaf_hf.training.adversaries.draws import MIRROR, mixed_bits
from genaf_hf.training.adversaries.pgd import PGD
from genaf_hf.training.adversaries.twin_pgd import TwinPGD
from genaf_hf.training.adversaries.weight_pgd import WeightPGD
from genaf_hf.training.defences.registry import KnownDefence
from genaf_hf.training.objectives.cross_entropy import CrossEntropy
from genaf_hf.training.objectives.mart import log_of_all_but_the_largest_wrong

pytestmark = [pytest.mark.slow(reason="trains by every defence"), pytest.mark.usefixtures("quick_checks")]


@pytest.fixture(scope="module", autouse=True)
def own_defence():
    """Is known while these tests run, and to no others."""
    register()
    yield
    del defences.DEFENCES["paired"]


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


def test_awp_attacks_every_matrix_and_gives_all_weights_back():
    model, adversary = PixelModel(tiny_model(torch.float64), PROCESSOR), WeightPGD(gamma=0.05, **ADVERSARY)
    images = torch.rand(6, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = copied_weights(model.model)
    with adversary.training(model.model):
        adversary.craft(model, Batch(images, torch.arange(6) % 3, range(6)))
        attacked = changed(before, copied_weights(model.model))
    assert attacked == {name for name, weight in model.model.named_parameters() if weight.ndim > 1}
    assert changed(before, copied_weights(model.model)) == set()


def test_awp_attacks_weights_under_the_statistics_of_the_batch_and_leaves_the_running_ones():
    model, adversary = PixelModel(batch_norm_model(), PROCESSOR), WeightPGD(gamma=0.05, random_start=False, **ADVERSARY)
    images = torch.rand(6, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, before = torch.arange(6) % 3, copy.deepcopy(model.model.state_dict())
    copied = copy.deepcopy(model).train()
    F.cross_entropy(copied(pgd(model, images, labels, **ADVERSARY, random_start=False)), labels).backward()
    model.train()
    with adversary.training(model.model):
        adversary.craft(model, Batch(images, labels, range(6)))
        attacked = copy.deepcopy(model.model.state_dict())
    for name, weight in copied.model.named_parameters():
        if weight.ndim > 1:
            moved = before[name] + 0.05 * weight.norm() * weight.grad / weight.grad.norm()
            torch.testing.assert_close(attacked[name], moved.detach(), rtol=1e-9, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    assert all(module.training for module in model.modules())


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
        found = adversary.craft(model, Batch(images, labels, range(8)))
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


def test_half_of_the_images_are_mirrored_before_they_are_attacked(tmp_path):
    _, gradients, model, images, labels = one_step(tmp_path, defence="pgd-at", **ADVERSARY, random_flip=True)
    mirrored = torch.from_numpy(mixed_bits(STEP_SEEDS, MIRROR) >= np.uint64(2**63))
    assert 6 <= mirrored.sum() <= 18
    images = torch.stack([image.flip(2) if each else image for image, each in zip(images, mirrored, strict=True)])
    attacked = pgd(model, images, labels, **ADVERSARY, seeds=STEP_SEEDS)
    check_gradients(gradients, model, F.cross_entropy(model(attacked), labels))


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
    checkpoints = ["adversarial_finetune/checkpoint-2", "adversarial_finetune/checkpoint-5"]
    for checkpoint in (*checkpoints, *(["adapt/checkpoint-4"] if whole.defence.reads_labels else [])):
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
    logged = [log for log in record.history if "loss" in log]
    assert logged
    assert all("distance" in log for log in logged)
    card = (tmp_path / "run/README.md").read_text()
    assert "hardened with Paired (Tests, 2026)" in card
    assert "`paired`, with eps 0.1, pull 0.25" in card
    assert "@misc{paired2026" in card
    assert "zhou2024genaf" not in card
    assert "--defence paired" in record.command


# ---- what is refused or said ----


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
            {"defence": "universal", "defence_settings": {"class_share": 2}},
            r"class_share is 2, expected a share",
        ),
        (
            {"defence": "universal", "defence_settings": {"divergence_temperature": 0}},
            "divergence_temperature is 0, expected more than 0",
        ),
        (
            {"defence": "universal-anchor", "defence_settings": {"anchor_weight": -1}},
            "anchor_weight is -1, expected 0 or more",
        ),
        (
            {"defence": "universal", "defence_settings": {"ascent_share": -1}},
            r"ascent_share is -1, expected a share in \[0, 1\]",
        ),
        (
            {"defence": "universal", "defence_settings": {"single_pass": True}},
            "divergence_weight is 0.5, but single_pass is True.* set divergence_weight to 0",
        ),
        (
            {"defence": "universal-n-fgsm", "defence_settings": {"per_image_share": 2}},
            r"per_image_share is 2, expected a share in \[0, 1\]",
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
        *(
            ({"defence": "universal", "defence_settings": {"bank": bank}}, "bank is .*, expected a list of universal")
            for bank in (["l4a", "upgd"], ["l4a", "advencoder-pat"], ["pgd"], "l4a", 3)
        ),
        (
            {"defence": "universal-n-fgsm", "defence_settings": {"per_image_eps": "4/"}},
            'per_image_eps is "4/", expected a number such as 0.03 or 8/255',
        ),
        *(
            (
                {"defence": "universal-n-fgsm", "defence_settings": {"per_image_eps": eps}},
                rf"per_image_eps is {eps}, expected a value in \(0, 1\]",
            )
            for eps in (0, 10)
        ),
        ({"defence": "n-fgsm", "defence_settings": {"step": 0}}, "step is 0, expected a positive multiple of eps"),
        ({"defence": "n-fgsm", "defence_settings": {"noise": -1}}, "noise is -1, expected a positive multiple of eps"),
    ],
)
def test_what_no_defence_can_be_is_refused_in_one_sentence(default_config, settings, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        default_config(**settings)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "value"), [("genetic_weight", 20.0), ("steps", 3), ("norm", "l2")])
def test_a_setting_that_the_defence_does_not_read_is_refused(default_config, name, value):
    with pytest.raises(UserError, match=f"^{name} is {value}, which the defence universal does not read: .* eps, "):
        default_config(defence="universal", **{name: value})


def test_lengths_are_words_such_as_4_255_too(default_config):
    settings = {"per_image_eps": "4/255", "bank": []}
    defence = default_config(defence="universal-n-fgsm", defence_settings=settings).make_defence()
    assert defence.settings["per_image_eps"] == 4 / 255


def test_a_configuration_is_made_again_of_what_it_says(default_config):
    config = default_config(defence="universal")
    assert (config.genetic_weight, config.norm, config.steps) == (None, "linf", None)
    again = GenAFConfig(**{**json.loads(config.to_json_string()), "output_dir": "x", "use_cpu": True})
    assert again.eps == config.eps == 10 / 255
    assert default_config(defence="none").eps is None


def test_twins_is_for_models_with_batch_norm(tmp_path):
    with pytest.raises(UserError, match="for encoders with BatchNorm, which a ViTForImageClassification has not"):
        tiny_trainer(tmp_path, defence="twins").standard_finetune()


def test_a_run_of_another_defence_is_not_gone_on_with(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "adapt_max_steps": -1}
    tiny_trainer(tmp_path, **settings, defence="pgd-at").train()
    with pytest.raises(UserError, match=r"checkpoint-5 is of the defence pgd-at with .*, expected trades with"):
        tiny_trainer(tmp_path, **settings, defence="trades").train(resume_from_checkpoint=True)
    with pytest.raises(UserError, match=r"checkpoint-5 is of the defence pgd-at .*'eps': 0.0156.* expected pgd-at"):
        tiny_trainer(tmp_path, **settings, defence="pgd-at", eps=0.1).train(resume_from_checkpoint=True)


def test_a_baseline_is_not_gone_on_with_under_another_defence_either(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2}
    tiny_trainer(tmp_path, **settings, defence="pgd-at").standard_finetune()
    with pytest.raises(UserError, match=r"checkpoint-5 is of the defence pgd-at with .*, expected none with"):
        tiny_trainer(tmp_path, **settings, defence="none").train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("found", "alone"), [((None, CrossEntropy(1.0)), "objective"), ((PGD(eps=0.1, steps=1), None), "adversary")]
)
def test_an_adversary_without_an_objective_or_the_other_way_round_is_refused(found, alone):
    half = KnownDefence("half", lambda: found, "Half", None, adapts=False, head_alone=False)
    with pytest.raises(UserError, match=f"^The defence half has an {alone} alone, expected an adversary and an obj"):
        half.configure()


def test_a_defence_is_registered_once_and_takes_its_settings_by_name():
    with pytest.raises(UserError, match='defence "trades" is known already'):

        @defences.register_defence(title="Mine")
        def trades(): ...

    with pytest.raises(UserError, match='The setting "eps" of mine is expected by name alone, with a default'):

        @defences.register_defence(title="Mine")
        def mine(eps): ...
