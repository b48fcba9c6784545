"""The two stages, their losses, logs and evaluations, in one process."""

import copy
import math

import numpy as np
import pytest
import torch
from one_step import ADVERSARY, ONE_STEP, check_gradients, one_step
from peft import PeftModel
from recorder import CHECKPOINTING, Recorder, changed, lora_model
from torch.nn import functional as F
from train_tiny import ODD, PROCESSOR, copied_weights, tiny_model, tiny_trainer
from transformers import TrainingArguments

from genaf_hf import GenAFTrainer, PixelModel, pgd
from genaf_hf.errors import UserError
from genaf_hf.training.genetic_regularization import genetic_regularization

pytestmark = pytest.mark.slow(reason="trains")


def image_trainer(pair, pixels, arguments, **kwargs) -> GenAFTrainer:
    """A trainer on PNG images that are decoded by a transform, as in the recipes."""
    model, processor = pair
    return GenAFTrainer(
        model,
        arguments,
        processing_class=processor,
        train_dataset=pixels["train"],
        eval_dataset=pixels["validation"],
        **kwargs,
    )


def batch_of(rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([row["pixel_values"] for row in rows]), torch.stack([row["labels"] for row in rows])


# ---- what the stages change ----


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_stage_1_moves_every_parameter(request, pixels, config, family):
    pair = request.getfixturevalue(family)
    before = copied_weights(pair[0])
    image_trainer(pair, pixels, config(max_steps=3)).adversarial_finetune()
    assert changed(before, copied_weights(pair[0])) == before.keys()


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_stage_2_changes_the_chosen_weights_and_not_a_bit_else(request, pixels, config, family):
    pair = request.getfixturevalue(family)
    trainer = image_trainer(pair, pixels, config(layer_assessment="first_order", redundant_share=0.3))
    trainer.adversarial_finetune()
    contributions = trainer.assess_layers()
    before = copied_weights(pair[0])
    trainer.adapt()
    chosen = sorted(contributions, key=contributions.get)[: int(0.3 * len(contributions))]
    assert len(chosen) >= 1
    assert changed(before, copied_weights(pair[0])) == set(chosen)
    assert all(parameter.requires_grad for parameter in pair[0].parameters())


def test_both_stages_run_as_train_and_give_their_logs_and_steps(tmp_path):
    trainer = tiny_trainer(tmp_path, logging_steps=1)
    output = trainer.train()
    assert output.global_step == 10
    assert {"adversarial_finetune_train_loss", "adapt_train_loss"} <= output.metrics.keys()
    logged = [log["stage"] for log in trainer.state.log_history if "loss" in log]
    assert logged == ["adversarial_finetune"] * 5 + ["adapt"] * 5
    assert (tmp_path / "layer_robustness.json").exists()


def test_a_training_shorter_than_an_epoch_logs_its_loss(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=2, adapt_max_steps=-1, adapt_epochs=0)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [2]


def test_a_search_for_hyperparameters_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="GenAFTrainer has no hyperparameter_search"):
        tiny_trainer(tmp_path).hyperparameter_search(n_trials=1)


def test_stage_2_can_be_left_out(tmp_path):
    trainer = tiny_trainer(tmp_path, adapt_max_steps=-1, adapt_epochs=0)
    assert trainer.train().global_step == 5
    assert not (tmp_path / "layer_robustness.json").exists()


def test_second_training_has_all_weights_again(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.train()
    before = copied_weights(trainer.model)
    trainer.adversarial_finetune()
    assert changed(before, copied_weights(trainer.model)) == before.keys()


def test_standard_finetuning_is_clean_cross_entropy_on_all_weights(tmp_path):
    recorder = Recorder()
    trainer = tiny_trainer(tmp_path, callbacks=[recorder], **ONE_STEP)
    model = PixelModel(copy.deepcopy(trainer.model), PROCESSOR)
    trainer.standard_finetune()
    pixel_values, labels = batch_of(trainer.train_dataset)
    check_gradients(recorder.gradients, model, F.cross_entropy(model.model(pixel_values).logits, labels))
    assert trainer.state.log_history[0]["stage"] == "standard_finetune"
    assert "adversarial_loss" not in trainer.state.log_history[0]


def test_baseline_then_method_in_one_trainer_starts_a_fresh_optimizer(tmp_path):
    trainer = tiny_trainer(tmp_path / "both")
    trainer.standard_finetune()
    alone = tiny_trainer(tmp_path / "alone", model=copy.deepcopy(trainer.model))
    trainer.adversarial_finetune()
    alone.adversarial_finetune()
    torch.testing.assert_close(copied_weights(trainer.model), copied_weights(alone.model), rtol=0, atol=0)


# ---- the loss of stage 1 ----


@pytest.mark.parametrize(
    ("smoothing", "clean_share", "genetic_share"),
    [(0.0, 0.0, math.inf), (0.1, 0.25, math.inf), (0.0, 0.0, 1e-3), (0.1, 0.25, 1e-3), (0.0, 0.0, 1e6)],
)
def test_gradient_of_a_step_is_that_of_the_formula(tmp_path, smoothing, clean_share, genetic_share):
    settings = {"genetic_weight": 7.0, "genetic_share": genetic_share, "clean_share": clean_share}
    settings |= {"label_smoothing_factor": smoothing, "random_start": False, **ADVERSARY}
    trainer, gradients, model, images, labels = one_step(tmp_path, **settings)
    adversarial = pgd(model, images, labels, **ADVERSARY, random_start=False)
    benign_logits, adversarial_logits = model(images), model(adversarial)
    sample_weight = F.cross_entropy(benign_logits, labels, reduction="none")
    regularization = genetic_regularization(benign_logits, adversarial_logits, labels, sample_weight)
    adversarial_loss = F.cross_entropy(adversarial_logits, labels, label_smoothing=smoothing)
    clean_loss = F.cross_entropy(benign_logits, labels, label_smoothing=smoothing)
    largest = genetic_share * F.cross_entropy(adversarial_logits, labels).item() / regularization.item()
    assert (largest < 7) == (genetic_share < 1)
    loss = (1 - clean_share) * adversarial_loss + clean_share * clean_loss + min(7, largest) * regularization
    check_gradients(gradients, model, loss)
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx(loss.item(), abs=1e-6)  # the Trainer adds losses up in float32
    assert log["adversarial_loss"] == pytest.approx(adversarial_loss.item(), abs=1e-12)
    assert log["genetic_regularization"] == pytest.approx(regularization.item(), abs=1e-12)
    assert log["clean_accuracy"] == pytest.approx((benign_logits.argmax(1) == labels).double().mean().item())
    assert log["robust_accuracy"] == pytest.approx((adversarial_logits.argmax(1) == labels).double().mean().item())


def training_images(trainer: GenAFTrainer) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Clean and adversarial images of every training step."""
    seen = []

    def keep(module, args, kwargs):
        if module.training:
            seen.append((kwargs["pixel_values"] / 2 + 0.5).chunk(2))

    hook = trainer.model.register_forward_pre_hook(keep, with_kwargs=True)
    trainer.adversarial_finetune()
    hook.remove()
    return seen


@pytest.mark.parametrize("changes", [{}, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}])
def test_radius_grows_over_the_warm_up(tmp_path, changes):
    trainer = tiny_trainer(
        tmp_path,
        max_steps=8,
        images=24,
        eps=0.1,
        steps=1,
        step_size=0.1,
        random_start=False,
        eps_warmup_ratio=0.5,
        eval_strategy="steps",
        eval_steps=2,
        **changes,
    )
    trainer.model.eval()
    sizes = [(adversarial - clean).abs().max().item() for clean, adversarial in training_images(trainer)]
    repeats = len(sizes) // 8
    assert sizes == pytest.approx([size for size in (0.025, 0.05, 0.075, *[0.1] * 5) for _ in range(repeats)], abs=1e-6)


def test_random_starts_differ_between_steps_rows_and_seeds(tmp_path):
    def starts(seed: int) -> list[torch.Tensor]:
        changes = {"images": 24, "per_device_train_batch_size": 24, "data_seed": 0, "max_steps": 2}
        trainer = tiny_trainer(tmp_path, eps=0.1, steps=1, step_size=1e-9, eps_warmup_ratio=0, seed=seed, **changes)
        return [adversarial - clean for clean, adversarial in training_images(trainer)]

    first, second = starts(42)
    assert torch.equal(starts(42)[0], first)
    for other in (second, starts(43)[0], starts(20_250_101)[0], first.flip(0)):
        assert (other - first).abs().mean() > 0.02


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("pixel_values", 2.0, "after the processor's normalisation is undone"), ("labels", 3, "A label is 3, expected")],
)
def test_each_batch_is_looked_at(tmp_path, name, value, message):
    trainer = tiny_trainer(tmp_path)
    trainer.train_dataset[-1][name] = torch.full_like(torch.as_tensor(trainer.train_dataset[-1][name]), value)
    with pytest.raises(UserError, match=message):
        trainer.train()


# ---- logs and evaluation ----


def test_training_logs_name_the_stage_and_the_terms_of_its_loss(vit, pixels, config):
    trainer = image_trainer(vit, pixels, config(logging_steps=2))
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    terms = {"adversarial_loss", "clean_loss", "genetic_loss", "genetic_regularization"}
    terms |= {"clean_accuracy", "robust_accuracy"}
    assert [log["stage"] for log in logs] == ["adversarial_finetune"] * 3 + ["adapt"] * 2
    assert all(terms <= log.keys() for log in logs[:3])
    assert not any(terms & log.keys() for log in logs[3:])
    assert all(
        log["loss"] == pytest.approx((log["adversarial_loss"] + log["clean_loss"]) / 2 + log["genetic_loss"], abs=1e-5)
        for log in logs[:3]
    )


def test_regularization_is_brought_in_with_eps_and_bounded_by_the_cross_entropy(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=8, eps_warmup_ratio=0.5, genetic_weight=1e6, logging_steps=1)
    trainer.adversarial_finetune()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    shares = [log["genetic_loss"] / log["adversarial_loss"] for log in logs]
    most = trainer.args.genetic_share
    assert shares == pytest.approx([most * part for part in (0.25, 0.5, 0.75, *[1.0] * 5)], rel=1e-5)


def test_terms_that_stage_1_did_not_log_are_not_logged_by_stage_2(tmp_path):
    trainer = tiny_trainer(tmp_path, images=40, max_steps=5, adapt_max_steps=4, logging_steps=4)
    trainer.train()
    _, log = [log for log in trainer.state.log_history if "loss" in log]  # of stage 1 the last step is in none
    assert log["stage"] == "adapt"
    assert "adversarial_loss" not in log


def test_a_metric_of_the_users_own_is_left_as_it_is(tmp_path):
    trainer = tiny_trainer(tmp_path, compute_metrics=lambda prediction: {"robust_accuracy": 2.0})
    metrics = trainer.evaluate()
    assert metrics["eval_robust_accuracy"] == 2.0
    assert 0 <= metrics["eval_clean_accuracy"] <= 1


def test_evaluation_counts_are_those_by_hand(tmp_path):
    seen = []

    def compute_metrics(prediction):
        seen.append(prediction)
        return {"predictions": len(prediction.predictions)}

    recorder = Recorder()
    trainer = tiny_trainer(
        tmp_path,
        per_device_eval_batch_size=ODD,
        learning_rate=1e-2,
        max_steps=10,
        genetic_weight=20,
        logging_strategy="no",
        compute_metrics=compute_metrics,
        callbacks=[recorder],
        **ADVERSARY,
    )
    trainer.adversarial_finetune()
    metrics = trainer.evaluate()

    pixel_values, labels = batch_of(trainer.eval_dataset)
    model = PixelModel(trainer.model.eval(), PROCESSOR)
    images = model.to_images(pixel_values)
    adversarial = pgd(model, images, labels, **ADVERSARY)
    clean, robust = ((model(each).argmax(1) == labels).sum().item() for each in (images, adversarial))
    assert metrics["eval_clean_accuracy"] == clean / ODD
    assert metrics["eval_robust_accuracy"] == robust / ODD
    assert 0 < robust < clean
    assert metrics["eval_predictions"] == ODD
    assert (seen[0].predictions.argmax(1) == labels.numpy()).sum() == clean
    np.testing.assert_array_equal(seen[0].label_ids, labels.numpy())
    assert recorder.events == ["step_end"] * 10 + ["log", "log", "evaluate"] + ["log", "evaluate"]


def test_evaluation_leaves_gradients_and_weights_alone(tmp_path):
    trainer = tiny_trainer(tmp_path)
    before = copied_weights(trainer.model)
    trainer.evaluate()
    assert changed(before, copied_weights(trainer.model)) == set()
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_evaluating_during_training_does_not_change_the_training(tmp_path):
    final = []
    for changes in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        trainer = tiny_trainer(tmp_path, **changes)
        trainer.train()
        final.append(copied_weights(trainer.model))
    torch.testing.assert_close(*final, rtol=0, atol=0)


def test_evaluation_of_a_model_that_returns_hidden_states(tmp_path):
    trainer = tiny_trainer(tmp_path)
    plain = trainer.evaluate()
    trainer.model.config.output_hidden_states = True
    verbose = trainer.evaluate()
    for name in ("eval_clean_accuracy", "eval_robust_accuracy"):
        assert verbose[name] == plain[name]


def test_prediction_without_labels_gives_logits(tmp_path):
    trainer = tiny_trainer(tmp_path)
    rows = [{"pixel_values": row["pixel_values"]} for row in trainer.eval_dataset]
    output = trainer.predict(rows)
    expected = trainer.model(torch.stack([row["pixel_values"] for row in rows])).logits.detach().numpy()
    np.testing.assert_allclose(output.predictions, expected, atol=1e-6)
    assert "test_robust_accuracy" not in output.metrics


# ---- accumulation, precision, memory, adapters ----


LOGGED = ("loss", "train_loss", "adversarial_loss", "genetic_loss", "clean_accuracy", "robust_accuracy")


@pytest.mark.parametrize(
    ("stage", "genetic_weight"),
    [("standard_finetune", 20.0), ("adversarial_finetune", 20.0), ("adversarial_finetune", 0.0), ("adapt", 20.0)],
)
def test_accumulated_micro_batches_are_one_batch(tmp_path, stage, genetic_weight):
    final, logs = [], []
    for micro_batches in (1, 2, 4):
        trainer = tiny_trainer(
            tmp_path,
            dtype=torch.float64,
            images=24,
            per_device_train_batch_size=8 // micro_batches,
            gradient_accumulation_steps=micro_batches,
            genetic_weight=genetic_weight,
            optim="sgd",
            learning_rate=0.1,
            head_learning_rate=0.1,
            adapt_learning_rate=0.1,
        )
        arguments = {"redundant_layers": ["vit.layers.0.mlp.fc1.weight"]} if stage == "adapt" else {}
        start = copied_weights(trainer.model)
        getattr(trainer, stage)(**arguments)
        assert changed(start, copied_weights(trainer.model))
        final.append(copied_weights(trainer.model))
        logs.append([value for log in trainer.state.log_history for name, value in log.items() if name in LOGGED])
    assert logs[0]
    for weights, log in zip(final[1:], logs[1:], strict=True):
        torch.testing.assert_close(weights, final[0], rtol=0, atol=1e-9)
        assert log == pytest.approx(logs[0], abs=1e-4)


def test_activation_checkpointing_gives_the_same_weights(tmp_path):
    final = []
    for checkpointing in (False, True):
        trainer = tiny_trainer(tmp_path, dropout=0.1, **{CHECKPOINTING: checkpointing})
        trainer.train()
        final.append(copied_weights(trainer.model))
    torch.testing.assert_close(*final, rtol=0, atol=1e-6)


def test_a_model_without_activation_checkpointing_is_refused_it(tmp_path, resnet):
    resnet[0].supports_gradient_checkpointing = False  # as ConvNeXts have it
    with pytest.raises(UserError, match="a ResNetForImageClassification has no activation checkpointing: leave it out"):
        tiny_trainer(tmp_path, model=resnet[0], **{CHECKPOINTING: True})


def test_bf16_trains_both_stages_in_autocast(tmp_path):
    dtypes = set()
    trainer = tiny_trainer(tmp_path, bf16=True, logging_steps=1)
    trainer.model.vit.layers[0].mlp.fc1.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    before = copied_weights(trainer.model)
    trainer.train()
    metrics = trainer.evaluate()
    assert dtypes == {torch.bfloat16}
    assert changed(before, copied_weights(trainer.model)) == before.keys()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert 0 <= metrics["eval_robust_accuracy"] <= metrics["eval_clean_accuracy"] <= 1


def test_lora_adapters_train_in_both_stages_and_resume(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "per_device_eval_batch_size": ODD}
    trainer = tiny_trainer(tmp_path, model=lora_model(tiny_model(), ["q_proj", "v_proj"]), **settings)
    before = copied_weights(trainer.model)
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    trainer.adversarial_finetune()
    after_stage_1 = copied_weights(trainer.model)
    assert changed(before, after_stage_1) == trainable
    contributions = trainer.assess_layers()
    trainer.adapt()
    assert contributions.keys() == {name for name in trainable if name.endswith("weight")}
    assert changed(after_stage_1, copied_weights(trainer.model)) <= contributions.keys()
    assert changed(after_stage_1, copied_weights(trainer.model))
    assert trainer.evaluate().keys() >= {"eval_clean_accuracy", "eval_robust_accuracy"}

    again = tiny_trainer(tmp_path, model=lora_model(tiny_model(), ["q_proj", "v_proj"]), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "adversarial_finetune/checkpoint-2"))
    torch.testing.assert_close(copied_weights(again.model), copied_weights(trainer.model), rtol=0, atol=0)


def test_saved_adapters_of_a_resnet_are_the_trained_model(resnet, pixels, config, tmp_path):
    base = copy.deepcopy(resnet[0])
    trainer = image_trainer((lora_model(resnet[0], ["convolution"]), resnet[1]), pixels, config())
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(copied_weights(loaded), copied_weights(trainer.model), rtol=0, atol=0)


# ---- what is refused ----


def test_constructor_refuses_what_it_cannot_honour(vit, config):
    model, processor = vit
    arguments = TrainingArguments(output_dir=config().output_dir, use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="args is a TrainingArguments, expected a GenAFConfig"):
        GenAFTrainer(model, arguments, processing_class=processor)
    with pytest.raises(ValueError, match="args is a NoneType, expected a GenAFConfig"):
        GenAFTrainer(model, processing_class=processor)
    with pytest.raises(ValueError, match="processing_class is missing, expected the image processor"):
        GenAFTrainer(model, config())
    with pytest.raises(ValueError, match=r"compute_loss_func is given, .*leave it out"):
        GenAFTrainer(model, config(), processing_class=processor, compute_loss_func=F.cross_entropy)
    with pytest.raises(UserError, match="model is 'someone/model', expected an image classifier of transformers"):
        GenAFTrainer("someone/model", config(), processing_class=processor)


def test_stage_2_without_an_assessment_or_with_an_unknown_layer_is_refused(tmp_path):
    trainer = tiny_trainer(tmp_path)
    with pytest.raises(ValueError, match=r"layer_robustness.json is missing: call assess_layers\(\) first"):
        trainer.adapt()
    with pytest.raises(ValueError, match=r'"head" is no parameter of the model; the last ones are .*classifier.bias'):
        trainer.adapt(["head"])


def test_stage_2_reads_the_layers_that_another_process_assessed(tmp_path):
    contributions = tiny_trainer(tmp_path).assess_layers()
    trainer = tiny_trainer(tmp_path)
    before = copied_weights(trainer.model)
    trainer.adapt()
    chosen = sorted(contributions, key=contributions.get)[: len(contributions) // 5]
    assert changed(before, copied_weights(trainer.model)) == set(chosen)


class Weighted(GenAFTrainer):
    """As many write it who weigh classes."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        return F.cross_entropy(model(inputs["pixel_values"]).logits, inputs["labels"])


class Heavier(GenAFTrainer):
    def compute_loss(self, model, *args, **kwargs):
        loss = super().compute_loss(model, *args, **kwargs)
        return 2 * loss if model.training else loss


def test_a_loss_that_goes_past_the_defence_is_refused_and_one_that_adds_to_it_is_not(tmp_path):
    trainer = tiny_trainer(tmp_path, trainer_class=Weighted)
    with pytest.raises(UserError, match="compute_loss of Weighted does not call that of GenAFTrainer"):
        trainer.train()
    trainer = tiny_trainer(tmp_path, trainer_class=Heavier, logging_steps=1)
    trainer.adversarial_finetune()
    log = trainer.state.log_history[0]
    once = (log["adversarial_loss"] + log["clean_loss"]) / 2 + log["genetic_loss"]
    assert log["loss"] == pytest.approx(2 * once, abs=1e-3)


def test_a_trainer_goes_on_after_its_record_was_made(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=2)
    trainer.adversarial_finetune()
    before = trainer.evaluate()
    trainer.training_record()
    assert trainer.evaluate()["eval_clean_accuracy"] == before["eval_clean_accuracy"]
    trainer.adversarial_finetune()
