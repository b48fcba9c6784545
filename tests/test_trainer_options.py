"""Options of the Trainer that could change model, data or result unseen: each works, or is refused before any work."""

import pytest
import torch
from datasets import Dataset, DatasetDict
from pretrain_tiny import METHODS, pretrain_tiny, tiny_config
from safetensors.torch import load_file
from torch.utils.data import IterableDataset, TensorDataset
from train_tiny import copied_weights, tensors, tiny_model, tiny_trainer
from transformers import EarlyStoppingCallback, ResNetConfig, ResNetForImageClassification, TrainerCallback

from genaf_hf import GenAFConfig, GenAFTrainer
from genaf_hf.errors import UserError
from genaf_hf.sharing.record import ADAPT
from genaf_hf.training.trained_weights import must_train

pytestmark = pytest.mark.slow(reason="trains")

TOKEN = "hf_plantedSoThatItCanBeSearchedFor"
REFUSED = {
    "auto_find_batch_size": True,
    "enable_jit_checkpoint": True,
    "ignore_data_skip": True,
    "save_only_model": True,
    "neftune_noise_alpha": 5.0,
    "use_liger_kernel": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": True},
    "activation_checkpointing_kwargs": {"use_reentrant": True},
    "train_sampling_strategy": "group_by_length",
    "dataloader_persistent_workers": True,
    "fp16": True,
    "save_strategy": "best",
    "per_device_train_batch_size": 0,
    "per_device_eval_batch_size": 0,
    "gradient_accumulation_steps": 0,
    "max_steps": 0,
    "adapt_max_steps": 0,
    "num_train_epochs": -1.0,
    "label_smoothing_factor": 1.5,
    "max_grad_norm": -1.0,
    "seed": -1,
    "warmup_steps": -2,
    "torch_empty_cache_steps": 0,
    "report_to": "wandb",
    "optim": "adamw_bnb_8bit",
    "adam_beta1": 1.5,
    "accelerator_config": {"nonsense": True},
    "dataloader_num_workers": -1,
    "deepspeed": "zero.json",
    "eval_accumulation_steps": 0,
    "learning_rate": -1e-4,
}
SAYS = {
    "accelerator_config": "AcceleratorConfig.*nonsense",
    "activation_checkpointing_kwargs": "checkpointing_kwargs has use_reentrant",
    "adam_beta1": "optim is adamw_torch.* beta",
    "torch_empty_cache_steps": "torch_empty_cache_steps",
    "optim": "optim is adamw_bnb_8bit.*bitsandbytes",
    "report_to": 'report_to is "wandb".*not installed.*--report_to none',
}


def config(tmp_path, **changes) -> GenAFConfig:
    return GenAFConfig(**{"output_dir": str(tmp_path / "run"), "report_to": "none", "use_cpu": True, **changes})


@pytest.mark.parametrize("name", [name for name in REFUSED if name in GenAFConfig.__dataclass_fields__])
def test_what_cannot_be_honoured_is_one_sentence(tmp_path, name):
    with pytest.raises(UserError, match=SAYS.get(name, f"^{name} ")) as refusal:
        config(tmp_path, **{name: REFUSED[name]})
    assert "\n" not in str(refusal.value)


def test_what_is_set_later_is_refused_by_the_trainer(tmp_path):
    late = config(tmp_path)
    late.auto_find_batch_size = True
    with pytest.raises(UserError, match="auto_find_batch_size is True"):
        GenAFTrainer(tiny_model(), late, processing_class=object())


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_checkpoints_are_not_shared(tmp_path, strategy):
    with pytest.raises(UserError, match=f"hub_strategy is {strategy}, but checkpoints are not shared: .*choose end"):
        config(tmp_path, push_to_hub=True, hub_strategy=strategy)


@pytest.mark.parametrize("optim", ["galore_adamw", "lomo"])
def test_optimizers_that_group_the_weights_themselves_are_refused(tmp_path, optim):
    with pytest.raises(UserError, match=f"optim is {optim}, which groups the weights itself"):
        config(tmp_path, optim=optim)


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"nonsense": 2}},
        {"lr_scheduler_type": "warmup_stable_decay"},
        {"lr_scheduler_type": "cosine_with_min_lr"},
    ],
)
def test_a_schedule_that_cannot_be_made_is_refused(tmp_path, changes):
    with pytest.raises(UserError, match=f"lr_scheduler_type is {changes['lr_scheduler_type']} .*do not fit"):
        tiny_trainer(tmp_path, **changes)


@pytest.mark.parametrize("optim", ["sgd", "adafactor", "rmsprop"])
def test_other_optimizers_train(tmp_path, optim):
    trainer = tiny_trainer(tmp_path, optim=optim, max_steps=1, adapt_max_steps=1)
    before = copied_weights(trainer.model)
    trainer.train()
    assert not all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


def test_images_that_look_as_if_nobody_had_normalised_them_are_told(tmp_path, caplog):
    trainer, told = tiny_trainer(tmp_path, max_steps=1, adapt_max_steps=1), "is darker than the mean of the image proc"
    trainer.train()
    assert told not in caplog.text
    trainer.train_dataset = [{**row, "pixel_values": (row["pixel_values"] + 1) / 2} for row in trainer.train_dataset]
    trainer.train()
    assert caplog.text.count(told) == 1


@pytest.mark.parametrize("name", ["eval_strategy", "eval_on_start"])
def test_pre_training_has_nothing_to_evaluate_on(tmp_path, name):
    with pytest.raises(UserError, match="pre-training has no images to evaluate on"):
        tiny_config(tmp_path, **{name: "steps" if name == "eval_strategy" else True})


def test_pre_training_smooths_no_labels(tmp_path):
    with pytest.raises(UserError, match=r"label_smoothing_factor is 0.1, but no loss of pre-training has it"):
        tiny_config(tmp_path, label_smoothing_factor=0.1)


@pytest.mark.parametrize(("variable", "name"), [("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")])
def test_a_launch_that_takes_the_model_apart_is_refused(tmp_path, monkeypatch, variable, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")  # as accelerate launch leaves it
    with pytest.raises(UserError, match=rf"^{name} is configured for accelerate, .*: launch with [^.]*\.$"):
        tiny_trainer(tmp_path)
    with pytest.raises(UserError, match=f"^{name} is configured"):
        pretrain_tiny("simclr", tmp_path / "encoder")


def test_several_gpus_in_one_process_are_refused(tmp_path):
    args = tiny_trainer(tmp_path).args
    args._n_gpu = 3  # as the arguments count them where no launcher started the process
    with pytest.raises(UserError, match=r"^This one process has 3 GPUs, .*CUDA_VISIBLE_DEVICES=0, .*accelerate launch"):
        GenAFTrainer(tiny_model(), args, processing_class=object())


# ---- data ----


class Stream(IterableDataset):
    def __iter__(self):
        yield from tensors(8, 0, torch.float32)


class SizedStream(Stream):
    def __len__(self) -> int:
        return 8


def test_a_training_without_a_step_is_refused(tmp_path):
    few = tiny_trainer(tmp_path, images=6, dataloader_drop_last=True)
    for stage in ("train", "standard_finetune"):
        with pytest.raises(UserError, match=r"6 image.*fewer than one batch of 8.*dataloader_drop_last"):
            getattr(few, stage)()
    for dataset, sentence in (([], "train_dataset is empty"), (None, "train_dataset is missing")):
        few.train_dataset = dataset
        with pytest.raises(UserError, match=sentence):
            few.train()
    with pytest.raises(UserError, match=r"0\.0 epochs, expected a positive number"):
        tiny_trainer(tmp_path, adapt_max_steps=-1, adapt_epochs=0.0).adapt(["classifier.weight"])


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"labels": 3}, "A label is 3, expected a class id from 0 to 2"),
        ({"labels": -100}, "A label is -100"),
        ({"labels": 0.5}, "labels are float32"),
        ({"labels": [0, 1]}, "labels are int64 of shape"),
    ],
)
@pytest.mark.parametrize("place", [0, 9])
def test_labels_that_are_no_class_ids_are_refused(tmp_path, row, sentence, place):
    trainer = tiny_trainer(tmp_path, num_train_epochs=1, max_steps=-1, per_device_train_batch_size=1)
    trainer.train_dataset = list(trainer.train_dataset)
    trainer.train_dataset[place] = {**trainer.train_dataset[place], **row}
    with pytest.raises(UserError, match=sentence):
        trainer.standard_finetune()


def test_images_without_labels_are_refused(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.train_dataset = [{"pixel_values": row["pixel_values"]} for row in trainer.train_dataset]
    with pytest.raises(UserError, match="train_dataset has no labels, only pixel_values"):
        trainer.train()


def test_a_stream_that_tells_its_length_trains_where_no_layers_are_assessed(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=2, adapt_max_steps=-1, adapt_epochs=0)
    trainer.train_dataset = SizedStream()
    assert trainer.train().global_step == 2
    trainer.args.adapt_epochs = 1
    with pytest.raises(UserError, match="train_dataset has no length or no rows by number"):
        trainer.train()


@pytest.mark.parametrize("name", [str, lambda label: label + 1])
def test_labels_are_those_that_a_transform_makes_of_its_column(tmp_path, name):
    rows = tensors(6, 0, torch.float32)
    labels = [row["labels"].item() for row in rows]
    ids = {name(label): label for label in labels}
    dataset = Dataset.from_dict({"label": list(map(name, labels)), "row": range(6)}).with_transform(
        lambda batch: {
            "pixel_values": [rows[i]["pixel_values"] for i in batch["row"]],
            "labels": [ids[each] for each in batch["label"]],
        }
    )
    trainer = tiny_trainer(tmp_path, max_steps=1)
    trainer.train_dataset = dataset
    assert trainer.standard_finetune().global_step == 1


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        (DatasetDict(train=Dataset.from_dict({"image": [0]})), "train_dataset is a dict of train, expected one of"),
        (Dataset.from_dict({"image": [0], "label": [0]}), "train_dataset has no pixel_values, only image, label"),
        (TensorDataset(torch.zeros(2, 3, 8, 8), torch.zeros(2)), "train_dataset has rows of type tuple"),
        ([{"pixel_values": torch.zeros(3, 16, 16), "labels": 0}], r"of shape \(3, 16, 16\), which the model does not"),
    ],
)
def test_what_are_no_rows_of_pixel_values_and_labels_is_refused(tmp_path, dataset, sentence):
    trainer = tiny_trainer(tmp_path)
    trainer.train_dataset = dataset
    with pytest.raises(UserError, match=sentence):
        trainer.train()


def test_a_collator_that_makes_no_mapping_is_refused(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.data_collator = lambda rows: tuple(torch.stack([row[name] for row in rows]) for name in rows[0])
    with pytest.raises(UserError, match="data_collator makes a tuple of train_dataset, expected a mapping with pixel"):
        trainer.train()


@pytest.mark.parametrize(
    ("row", "sentence"), [({"labels": 7}, "A label is 7"), ({"labels": None}, "eval_dataset has no labels")]
)
def test_images_that_cannot_be_evaluated_are_refused_before_any_step(tmp_path, row, sentence):
    trainer = tiny_trainer(tmp_path, eval_strategy="epoch")
    trainer.eval_dataset = [{**each, **row} for each in trainer.eval_dataset]
    with pytest.raises(UserError, match=sentence):
        trainer.train()
    assert trainer.state.global_step == 0


def test_no_image_is_left_out_of_an_evaluation(tmp_path):
    settings = {"eval_strategy": "epoch", "load_best_model_at_end": True, "max_steps": 1}
    plain, dropping = (
        tiny_trainer(tmp_path / str(drop), dataloader_drop_last=drop, **settings) for drop in (False, True)
    )
    assert dropping.evaluate()["eval_clean_accuracy"] == plain.evaluate()["eval_clean_accuracy"]
    dropping.args.per_device_eval_batch_size = 64
    assert dropping.standard_finetune().global_step == 1
    assert dropping.args.dataloader_drop_last


def test_labels_of_a_whole_column_are_seen_before_any_step(vit, pixels, tmp_path):
    model, processor = vit
    model.config.num_labels = 2
    trainer = GenAFTrainer(model, config(tmp_path), train_dataset=pixels["train"], processing_class=processor)
    with pytest.raises(UserError, match="A label is 2, expected a class id from 0 to 1"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_evaluation_images_are_one_sized_dataset(tmp_path):
    parts = {"a": tensors(4, 0, torch.float32), "b": tensors(4, 1, torch.float32)}
    for dataset, sentence in ((parts, "eval_dataset is a dict of a, b"), (Stream(), "eval_dataset is empty or has no")):
        with pytest.raises(UserError, match=sentence):
            GenAFTrainer(tiny_model(), config(tmp_path), eval_dataset=dataset, processing_class=object())
    trainer = tiny_trainer(tmp_path)
    assert {"eval_a_robust_accuracy", "eval_b_robust_accuracy"} <= trainer.evaluate(parts).keys()


def test_a_metric_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(UserError, match='metric_for_best_model is "accuracy", expected one of loss, clean_accuracy'):
        tiny_trainer(tmp_path, metric_for_best_model="eval_accuracy", eval_strategy="steps", save_strategy="best")


@pytest.mark.parametrize(("metric", "greater"), [("robust_accuracy", False), ("eval_loss", True)])
def test_the_worst_is_not_taken_for_the_best(tmp_path, metric, greater):
    best = {"eval_strategy": "steps", "load_best_model_at_end": True, "metric_for_best_model": metric}
    with pytest.raises(UserError, match=f"greater_is_better is {greater}, with which the worst"):
        tiny_trainer(tmp_path, greater_is_better=greater, **best)
    tiny_trainer(tmp_path, greater_is_better=not greater, **best)


@pytest.mark.parametrize("settings", [{"load_best_model_at_end": True}, {"metric_for_best_model": "robust_accuracy"}])
def test_the_best_is_not_chosen_under_perturbations_that_grow_stronger(tmp_path, settings):
    for defence in ("universal", "gen-af-universal", "universal-n-fgsm"):
        with pytest.raises(UserError, match=f"but that of {defence} is under perturbations that grow stronger"):
            config(tmp_path, defence=defence, eval_strategy="epoch", **settings)
    assert config(tmp_path, defence="pgd-at", eval_strategy="epoch", **settings).metric_for_best_model
    by = {"load_best_model_at_end": True, "metric_for_best_model": "eval_clean_accuracy"}
    assert config(tmp_path, defence="universal", eval_strategy="epoch", **by).load_best_model_at_end


def test_evaluation_needs_images(tmp_path):
    with pytest.raises(UserError, match="eval_strategy is epoch, but eval_dataset is missing"):
        GenAFTrainer(tiny_model(), config(tmp_path, eval_strategy="epoch"), processing_class=object())


def test_early_stopping_needs_evaluations_and_a_metric(tmp_path):
    patience = [EarlyStoppingCallback(1)]
    with pytest.raises(UserError, match='EarlyStoppingCallback is given, but eval_strategy is "no"'):
        tiny_trainer(tmp_path, callbacks=patience).train()
    with pytest.raises(UserError, match="EarlyStoppingCallback is given, but metric_for_best_model does not say"):
        tiny_trainer(tmp_path, callbacks=patience, eval_strategy="epoch").train()


def test_a_schedule_of_another_optimizer_is_refused(tmp_path):
    other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match="optimizers has a scheduler but no optimizer"):
        tiny_trainer(tmp_path, optimizers=(None, torch.optim.lr_scheduler.ConstantLR(other)))


# ---- training ----


def test_weights_in_half_precision_are_said(tmp_path, caplog):
    tiny_trainer(tmp_path, model=tiny_model(torch.bfloat16))
    assert "Weights are bfloat16, in which small steps of a training are lost" in caplog.text


def test_a_model_without_trainable_weights_is_refused(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.model.requires_grad_(False)
    with pytest.raises(UserError, match="The model has no trainable weight"):
        trainer.train()


def test_the_first_weights_may_be_the_best(tmp_path):
    best = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    trainer = tiny_trainer(tmp_path, learning_rate=1e-6, head_learning_rate=1e-6, warmup_steps=1, max_steps=2, **best)
    before = copied_weights(trainer.model)
    trainer.standard_finetune()  # of which the first step has a learning rate of 0
    torch.testing.assert_close(copied_weights(trainer.model), before, rtol=0, atol=0)


def test_half_precision_of_evaluation_leaves_the_weights(tmp_path, caplog):
    trainer = tiny_trainer(tmp_path, bf16_full_eval=True)
    assert "bf16_full_eval would cast the weights for good" in caplog.text
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    plain = tiny_trainer(tmp_path)
    plain.train()
    torch.testing.assert_close(copied_weights(trainer.model), copied_weights(plain.model), rtol=0, atol=0)


def test_a_last_batch_of_one_is_left_out_where_batches_are_normalized(resnet, tmp_path):
    model, _ = resnet
    epochs = {"max_steps": -1, "num_train_epochs": 1, "adapt_max_steps": -1, "adapt_epochs": 1}
    trainer = tiny_trainer(tmp_path, model=model, images=17, **epochs)
    assert trainer.standard_finetune().global_step == 2
    assert trainer.train().global_step == 5  # BatchNorm is frozen in stage 2, which sees all images
    assert tiny_trainer(tmp_path, images=17, **epochs).standard_finetune().global_step == 3
    with pytest.raises(UserError, match=r"per_device_train_batch_size is 1.*expected at least 2"):
        tiny_trainer(tmp_path, model=model, per_device_train_batch_size=1).standard_finetune()


def test_a_last_batch_of_two_is_left_out_where_half_of_it_is_normalized(tmp_path):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 8], "depths": [1, 1, 1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(**sizes, id2label=dict(enumerate("abc"))))  # to one pixel
    settings = {"model": model, "defence": "twins", "max_steps": -1, "num_train_epochs": 1, "adapt_epochs": 0}
    settings |= {"adapt_max_steps": -1}
    assert tiny_trainer(tmp_path, images=18, **settings).train().global_step == 2
    assert tiny_trainer(tmp_path, images=19, **settings).train().global_step == 3
    with pytest.raises(UserError, match=r"per_device_train_batch_size is 2.*expected at least 3 of both"):
        tiny_trainer(tmp_path, per_device_train_batch_size=2, **settings).train()


def test_a_metric_that_no_evaluation_gives_is_told_with_those_that_it_gives(tmp_path):
    named = {"metric_for_best_model": "f1", "load_best_model_at_end": True, "compute_metrics": lambda _: {"recall": 1}}
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(UserError, match=r'metric_for_best_model is "f1", but an evaluation gives .*eval_recall'):
        tiny_trainer(tmp_path, **named, **often).standard_finetune()


def test_one_step_has_a_learning_rate(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=1, warmup_steps=0.1)
    before = copied_weights(trainer.model)
    trainer.standard_finetune()
    assert not all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


def test_a_stage_that_changes_no_weight_is_an_error(tmp_path):
    other = torch.nn.Parameter(torch.zeros(1))
    trainer = tiny_trainer(tmp_path, optimizers=(torch.optim.SGD([other], lr=1.0), None))
    with pytest.raises(UserError, match="The stage standard_finetune changed no weight"):
        trainer.standard_finetune()
    model = torch.nn.Linear(2, 2)
    with must_train(model, "It"):
        model.bias.data[1] += 1e-6


def test_evaluation_at_the_start_leaves_the_training_as_it_is(tmp_path):
    plain, evaluated = (tiny_trainer(tmp_path, eval_on_start=start) for start in (False, True))
    for trainer in (plain, evaluated):
        trainer.train()
    torch.testing.assert_close(copied_weights(evaluated.model), copied_weights(plain.model), rtol=0, atol=0)


class Worse(TrainerCallback):
    """Makes every evaluation worse than the one before."""

    def on_step_begin(self, args, state, control, model, **kwargs):
        with torch.no_grad():
            model.classifier.weight.mul_(-3)


def test_a_stage_is_not_stopped_by_the_patience_that_another_lost(tmp_path):
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    settings |= {"load_best_model_at_end": True, "warmup_steps": 0, "max_steps": 6}
    patience = EarlyStoppingCallback(early_stopping_patience=1)
    trainer = tiny_trainer(tmp_path, callbacks=[Worse(), patience], **settings)
    trainer.standard_finetune()
    steps = trainer.state.global_step
    assert steps < 6
    assert patience.early_stopping_patience_counter == 1
    trainer.remove_callback(Worse)
    trainer.adversarial_finetune()
    assert trainer.state.log_history[-1]["step"] >= 2

    again = tiny_trainer(tmp_path, callbacks=[EarlyStoppingCallback(1)], **settings)
    again.standard_finetune(resume_from_checkpoint=True)
    assert again.state.log_history[-1]["step"] == steps  # it was finished


# ---- secrets ----


def files_with(text: str, folder) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_the_token_is_in_no_file(tmp_path):
    trainer = tiny_trainer(tmp_path / "run", hub_token=TOKEN, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model()
    assert trainer.args.hub_token == TOKEN
    assert list((tmp_path / "run" / ADAPT).rglob("training_args.bin"))
    pretrain_tiny("simclr", tmp_path / "encoder", hub_token=TOKEN, save_strategy="steps", save_steps=2)
    assert files_with(TOKEN, tmp_path) == []


# ---- pre-training that diverges ----


@pytest.mark.parametrize("method", METHODS)
def test_pre_training_that_diverges_saves_nothing_that_is_not_finite(tmp_path, method):
    settings = {"learning_rate": 1e30, "optim": "sgd", "max_grad_norm": 0.0, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(UserError, match=r"is not finite (at|after) step.*Lower the learning rate"):
        pretrain_tiny(method, tmp_path / "encoder", max_steps=8, **settings)
    assert not (tmp_path / "encoder/config.json").exists()
    [saved] = tmp_path.rglob("*.safetensors")  # of the step before
    assert all(tensor.isfinite().all() for tensor in load_file(saved).values())
