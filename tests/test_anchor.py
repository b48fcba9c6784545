"""Features that stay where the public encoder has them: what is trained on, by which drift."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from conftest import TINY_VIT
from one_step import ONE_STEP, STEP_SEEDS, clamped, state_of
from recorder import Recorder
from torch.utils.data import IterableDataset
from train_tiny import PROCESSOR, copied_weights, tensors, tiny_model, tiny_trainer
from transformers import ViTConfig, ViTForImageClassification

from genaf_hf import GenAFConfig, PixelModel
from genaf_hf.errors import UserError
from genaf_hf.pipelines.harden import HardeningArguments, harden
from genaf_hf.training.adversaries.adversary import Adversary
from genaf_hf.training.adversaries.universal import Universal, drawn
from genaf_hf.training.global_batch import Features, Logits
from genaf_hf.training.objectives.anchor import Anchor

pytestmark = pytest.mark.slow(reason="trains")

BANK = {"bank": ["l4a"], "bank_steps": 2, "patch_share": 0}


def without_labels(trainer):
    """Takes the labels out of the images to train on."""
    trainer.train_dataset = [{"pixel_values": row["pixel_values"]} for row in trainer.train_dataset]
    return trainer


def drift(features, public):
    return ((features - public).norm(dim=1) / public.norm(dim=1)) ** 2


def moved(model: PixelModel) -> PixelModel:
    """The model with other weights than the public encoder's, so that clean features have a gradient too."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.model.base_model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def test_features_are_not_held_to_another_encoder_when_a_training_goes_on(tmp_path):
    settings = {"defence": "anchor", "defence_settings": BANK, "adapt_max_steps": -1}
    settings |= {"save_strategy": "steps", "save_steps": 2}
    whole = tiny_trainer(tmp_path, **settings)
    whole.train()
    checkpoint = tmp_path / "adversarial_finetune/checkpoint-2"
    trained = tiny_trainer(tmp_path, model=copy.deepcopy(whole.model), **settings)
    with pytest.raises(UserError, match="holds features to those of another encoder than the model that is given"):
        trained.train(resume_from_checkpoint=checkpoint)
    again = tiny_trainer(tmp_path, **settings)
    again.train(resume_from_checkpoint=checkpoint)
    torch.testing.assert_close(copied_weights(again.model), copied_weights(whole.model), rtol=0, atol=0)


def test_features_of_clean_and_attacked_images_are_pulled_to_the_public_encoders_without_a_label(tmp_path):
    settings = {**ONE_STEP, "defence": "anchor", "defence_settings": BANK, "clean_share": 0.25, "adapt_max_steps": -1}
    begun = without_labels(tiny_trainer(tmp_path / "begun", **settings))
    begun.begin_adversary()
    before = state_of(begun)
    recorder, batches = Recorder(), []
    trainer = without_labels(tiny_trainer(tmp_path / "run", callbacks=[recorder], **settings))
    trainer.begin_adversary()
    public = PixelModel(copy.deepcopy(trainer.model), PROCESSOR)
    model = moved(PixelModel(copy.deepcopy(trainer.model), PROCESSOR))
    trainer.model.load_state_dict(model.model.state_dict())
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: batches.append(collate(rows)) or batches[-1]
    trainer.train()

    [batch] = [each for each in batches if len(each["pixel_values"]) == 24]
    images, live = model.to_images(batch["pixel_values"]), before["live"].requires_grad_()
    goal = public.features(images).detach()
    chosen = torch.from_numpy(drawn(STEP_SEEDS, len(live), 1))
    directions = goal / goal.norm(dim=1, keepdim=True)
    of_cluster = (directions[:, None] - before["pseudo_labels.centers"][None]).norm(dim=2).argmin(1)
    assert len(before["pseudo_labels.centers"]) == len(live)
    assert len(of_cluster.unique()) > 4
    chosen = torch.where(chosen < len(live), of_cluster, chosen)
    attacked = clamped(images + torch.cat([live, before["bank"]])[chosen])
    terms = [drift(model.features(each), goal).mean() for each in (attacked, images)]
    loss = 0.75 * terms[0] + 0.25 * terms[1]
    loss.backward()
    for name, parameter in model.model.base_model.named_parameters():
        found = recorder.gradients[f"{model.model.base_model_prefix}.{name}"]
        torch.testing.assert_close(found, parameter.grad, rtol=0, atol=1e-12)
    step = trainer.args.step_size * live.grad.sign()
    torch.testing.assert_close(
        state_of(trainer)["live"], (before["live"] + step).clamp(-10 / 255, 10 / 255).detach(), rtol=0, atol=1e-15
    )
    log = trainer.state.log_history[0]
    assert [log["attacked_drift"], log["clean_drift"]] == pytest.approx([each.item() for each in terms])
    assert not {"clean_accuracy", "robust_accuracy"} & log.keys()
    assert torch.equal(trainer.model.classifier.weight, model.model.classifier.weight)


@pytest.mark.parametrize("method", ["train", "standard_finetune", "adapt"])
def test_a_stage_that_trains_on_labels_is_refused_before_any_step(tmp_path, method):
    trainer = tiny_trainer(tmp_path, defence="anchor", adapt_max_steps=2)
    trainer.redundant_layers = [next(name for name, _ in trainer.model.named_parameters())]
    with pytest.raises(UserError, match=r"^The stage \w+ trains on labels, but the defence anchor reads none"):
        getattr(trainer, method)()
    assert trainer.state.global_step == 0


def test_labels_that_are_there_are_not_read(tmp_path):
    settings = {"defence": "anchor", "defence_settings": BANK, "adapt_max_steps": -1}
    with_labels = tiny_trainer(tmp_path / "with", **settings)
    without = without_labels(tiny_trainer(tmp_path / "without", **settings))
    for trainer in (with_labels, without):
        trainer.train()
        assert "robust_accuracy" not in trainer.state.log_history[0]
    torch.testing.assert_close(copied_weights(with_labels.model), copied_weights(without.model), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"clean_share": 1.5}, "clean_share is 1.5, expected a share"),
        ({"defence_settings": {"bank": ["pgd"]}}, "expected a list of universal attacks"),
    ],
)
def test_what_cannot_be_anchored_is_refused(tmp_path, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        without_labels(tiny_trainer(tmp_path, **{"defence": "anchor", **settings})).train()
    with pytest.raises(UserError, match="train_dataset has no labels"):
        without_labels(tiny_trainer(tmp_path, defence="universal")).train()


def test_attacks_of_a_bank_that_read_labels_are_refused_where_there_are_not_even_clusters():
    adversary = Universal(eps=0.1, bank=["l4a", "uapgd"])
    with pytest.raises(UserError, match="bank has uapgd, which needs labels, but none are read: leave it out"):
        adversary.begin(PixelModel(tiny_model(), PROCESSOR), lambda count: (torch.zeros(count, 3, 8, 8), None), seed=0)


@pytest.mark.parametrize(("share", "told"), [(0.5, r"0\.5"), (None, "None")])
def test_without_labels_nor_features_there_is_no_perturbation_of_a_class(share, told):
    adversary = Universal(eps=0.1, class_share=share, bank=["l4a"])
    with pytest.raises(UserError, match=f"class_share is {told}, but there are neither labels nor features that tell"):
        adversary.begin(PixelModel(tiny_model(), PROCESSOR), lambda count: (torch.zeros(count, 3, 8, 8), None), seed=0)


@pytest.mark.parametrize(("classes", "live", "expected"), [(3, None, 10), (40, None, 10), (3, 4, 4)])
def test_there_is_a_live_perturbation_for_each_cluster_however_many_classes_the_head_has(
    tmp_path, classes, live, expected
):
    model = ViTForImageClassification(ViTConfig(**TINY_VIT, num_labels=classes))
    trainer = tiny_trainer(tmp_path, images=40, model=model, defence="anchor", defence_settings={**BANK, "live": live})
    trainer.begin_adversary()
    assert len(trainer.defence.adversary.state["live"]) == expected
    assert len(trainer.pseudo_labels.centers) == 10


def test_an_evaluation_attacks_by_clusters_and_counts_by_labels(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path, defence="anchor", defence_settings=BANK)
    trainer.begin_adversary()
    model, craft, found = trainer.pixel_model(trainer.model), trainer.defence.adversary.craft, []

    def keep(model, batch):
        found.append((batch.images, batch.labels))
        return craft(model, batch)

    monkeypatch.setattr(trainer.defence.adversary, "craft", keep)
    metrics = trainer.evaluate()
    assert {"eval_clean_accuracy", "eval_robust_accuracy"} <= metrics.keys()
    images, labels = (torch.cat(each) for each in zip(*found, strict=True))
    assert torch.equal(labels, trainer.pseudo_labels(model.features(images)))
    assert labels.amax() > 2


class Noise(Adversary):
    """Asks for no images, and keeps nothing from step to step."""

    def craft(self, model, batch):
        return (batch.images + 0.1).clamp(0, 1)


class Stream(IterableDataset):
    def __iter__(self):
        return ({"pixel_values": row["pixel_values"]} for row in tensors(22, 0, torch.float32))


def test_an_adversary_that_asks_for_no_images_needs_no_clusters_and_no_rows_by_number(tmp_path):
    trainer = tiny_trainer(tmp_path, defence="anchor", defence_settings=BANK)
    trainer.train_dataset, trainer.defence = Stream(), replace(trainer.defence, adversary=Noise())
    trainer.adversarial_finetune()
    assert trainer.pseudo_labels.centers is None
    assert trainer.state.log_history[0]["attacked_drift"] > 0


def test_in_a_single_pass_each_image_is_anchored_once_clean_or_attacked(tmp_path):
    settings = {**BANK, "single_pass": True}
    trainer = without_labels(tiny_trainer(tmp_path, defence="anchor", defence_settings=settings, clean_share=0.25))
    sizes = []

    def keep(module, args, kwargs):
        if module.training:
            sizes.append(len(kwargs["pixel_values"]))

    trainer.model.register_forward_pre_hook(keep, with_kwargs=True)
    trainer.adversarial_finetune()
    assert {*sizes} == {8, 6}  # batches of 22 images, each image once
    assert {"clean_drift", "attacked_drift"} <= trainer.state.log_history[0].keys()
    objective = Anchor(0.25, single_pass=True)
    rows = torch.tensor([[1.0, 0], [0, 2], [2, 2]]), torch.tensor([[1.0, 1], [0, 1], [2, 1]])
    own = Logits(None, rows[0], None, torch.tensor([1.0, 0, 0]), Features(None, *rows))
    loss = objective(own, lambda: own, eps_share=1.0, label_smoothing=0.0)
    assert loss.of_rows.item() == pytest.approx((1 / 2 + 1 + 1 / 5) / 3)
    told = {name: value.tolist() for name, value in loss.terms.items()}
    assert told["clean_drift"] == pytest.approx([1 / 2, math.nan, math.nan], nan_ok=True)
    assert told["attacked_drift"] == pytest.approx([math.nan, 1, 1 / 5], nan_ok=True)


def test_a_classifier_is_not_hardened_without_its_labels(tmp_path):
    config = GenAFConfig(output_dir=str(tmp_path / "run"), defence="anchor", use_cpu=True)
    with pytest.raises(UserError, match="The defence anchor reads no labels, so that the classifier's head would stay"):
        harden(HardeningArguments("encoder", "digits"), config)
    assert not (tmp_path / "run").exists()
