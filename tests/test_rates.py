"""At which rates the stages train, by which optimizer and schedule."""

import copy

import pytest
import torch
from recorder import Recorder
from train_tiny import tiny_model, tiny_trainer

from genaf_hf import GenAFConfig
from genaf_hf.cli.command_line import FlagParser
from genaf_hf.cli.settings_file import CONFIGS
from genaf_hf.errors import UserError
from genaf_hf.models.head import HEAD, in_head
from genaf_hf.pipelines.harden import HardeningArguments

pytestmark = pytest.mark.slow(reason="trains")


def test_encoder_and_head_have_their_own_rates_on_one_schedule(tmp_path):
    recorder = Recorder()
    trainer = tiny_trainer(
        tmp_path, learning_rate=2e-3, head_learning_rate=5e-3, warmup_steps=2, max_steps=5, callbacks=[recorder]
    )
    trainer.adversarial_finetune()
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    grouped = [names[parameter] for group in recorder.groups[0] for parameter in group["params"]]
    assert sorted(grouped) == sorted(names.values())
    for step, groups in enumerate(recorder.groups, start=1):
        share = min(step / 2, (5 - step) / 3)
        for group in groups:
            (head,) = {in_head(names[parameter], HEAD) for parameter in group["params"]}
            assert group["lr"] == pytest.approx((5e-3 if head else 2e-3) * share, rel=1e-12)
            assert group["weight_decay"] in (0, 0.05)
            matrices = {names[p].endswith("weight") and "norm" not in names[p] for p in group["params"] if p.ndim < 3}
            assert matrices <= {group["weight_decay"] > 0}


def test_stage_2_has_one_rate(tmp_path):
    recorder = Recorder()
    trainer = tiny_trainer(
        tmp_path, adapt_learning_rate=7e-4, lr_scheduler_type="constant", warmup_steps=0, callbacks=[recorder]
    )
    trainer.adapt(["classifier.weight", "vit.layers.0.mlp.fc1.weight"])
    assert [group["lr"] for groups in recorder.groups for group in groups] == [7e-4] * 10


def test_decay_per_epoch_is_on_top_of_the_schedule(tmp_path):
    recorder = Recorder()
    tiny_trainer(
        tmp_path,
        learning_rate=2e-3,
        warmup_steps=0,
        lr_scheduler_kwargs={"epoch_decay": 0.5},
        max_steps=5,
        callbacks=[recorder],
    ).adversarial_finetune()
    encoder = [min(group["lr"] / group["initial_lr"] for group in groups) for groups in recorder.groups]
    assert encoder == pytest.approx([0.8, 0.6, 0.4 / 2, 0.2 / 2, 0])


def test_decay_counts_the_epochs_that_drop_the_last_batch(tmp_path):
    recorder = Recorder()
    tiny_trainer(
        tmp_path,
        lr_scheduler_type="constant",
        warmup_steps=0,
        lr_scheduler_kwargs={"epoch_decay": 0.5},
        dataloader_drop_last=True,
        callbacks=[recorder],
    ).adversarial_finetune()
    assert [groups[0]["lr"] / groups[0]["initial_lr"] for groups in recorder.groups] == [1, 0.5, 0.5, 0.25, 0.25]


def test_the_papers_settings_are_adam_with_a_decay_per_epoch(tmp_path):
    recorder = Recorder()
    written = FlagParser((HardeningArguments, GenAFConfig)).settings_of(CONFIGS / "paper.yaml")
    ours = {*GenAFConfig.__annotations__, "optim_args", "lr_scheduler_type", "lr_scheduler_kwargs", "max_grad_norm"}
    paper = {name: value for name, value in written.items() if name in ours} | {"per_device_train_batch_size": 10}
    trainer = tiny_trainer(
        tmp_path,
        **paper,
        max_steps=8,
        callbacks=[recorder],
    )
    start = copy.deepcopy(trainer.model)
    trainer.adversarial_finetune()
    assert len(recorder.groups) == 8
    for step, groups in enumerate(recorder.groups, start=1):
        assert {group["initial_lr"] for group in groups} == {1e-4, 5e-3}
        for group in groups:
            assert group["decoupled_weight_decay"] is False
            assert group["weight_decay"] in (0, 8e-4)
            assert group["lr"] == pytest.approx(group["initial_lr"] * 0.96 ** (step // 3), rel=1e-12)
    assert trainer.args.genetic_weight == 20 * 256

    again = tiny_trainer(
        tmp_path,
        model=start,
        **paper,
        max_steps=1,
    )
    expected = copy.deepcopy(start)
    for name, parameter in expected.named_parameters():
        parameter.grad = recorder.gradients[name]
    decayed = set(again.get_decay_parameter_names(expected))
    torch.optim.Adam(
        [
            {"params": [p], "lr": 5e-3 if in_head(name, HEAD) else 1e-4, "weight_decay": 8e-4 if name in decayed else 0}
            for name, p in expected.named_parameters()
        ]
    ).step()
    again.adversarial_finetune()
    torch.testing.assert_close(again.model.state_dict(), expected.state_dict(), rtol=1e-5, atol=1e-7)


def test_optimizer_class_that_is_given_keeps_the_rates(tmp_path):
    trainer = tiny_trainer(tmp_path, optimizer_cls_and_kwargs=(torch.optim.SGD, {"momentum": 0.5}))
    trainer.adversarial_finetune()
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)
    assert {(group["initial_lr"], group["momentum"]) for group in trainer.optimizer.param_groups} == {
        (3e-3, 0.5),
        (1e-3, 0.5),
    }


def test_optimizer_that_is_given_is_that_of_stage_1(tmp_path):
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    recorder = Recorder()
    trainer = tiny_trainer(tmp_path, model=model, optimizers=(optimizer, schedule), callbacks=[recorder])
    trainer.train()
    assert [groups[0]["lr"] for groups in recorder.groups[:5]] == [0.5] * 5
    assert len(recorder.groups) == 10
    assert all(group["initial_lr"] == 3e-3 for groups in recorder.groups[5:] for group in groups)


@pytest.mark.parametrize(("metric", "mode"), [("clean_accuracy", "max"), ("loss", "min")])
def test_a_plateau_is_one_of_what_is_to_rise_or_to_fall(tmp_path, metric, mode):
    kind = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "metric_for_best_model": metric}
    trainer = tiny_trainer(tmp_path, **kind, adapt_max_steps=-1)
    trainer.train()
    assert trainer.lr_scheduler.mode == mode


@pytest.mark.parametrize(
    ("kind", "decay", "sentence"),
    [
        ("reduce_lr_on_plateau", 0.5, "takes no epoch_decay"),
        ("linear", 0, "epoch_decay is 0, expected a positive number"),
        ("linear", "fast", "epoch_decay is fast, expected a positive number"),
    ],
)
def test_a_decay_per_epoch_that_cannot_be_is_refused(kind, decay, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        tiny_trainer(
            tmp_path,
            lr_scheduler_kwargs={"epoch_decay": decay},
            lr_scheduler_type=kind,
            eval_strategy="steps",
            metric_for_best_model="loss",
        )
