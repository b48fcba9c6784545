"""What a training passes through and what it changes, for the tests of trainers."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback, TrainingArguments

CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)


class Recorder(TrainerCallback):
    """Keeps what a run passes through: events, rates by step, the gradients before the first step."""

    def __init__(self):
        self.events, self.groups, self.gradients = [], [], None

    def on_step_end(self, args, state, control, optimizer, **kwargs):
        self.events.append("step_end")
        self.groups.append([{**group, "params": list(group["params"])} for group in optimizer.param_groups])

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if self.gradients is None:
            self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def on_log(self, args, state, control, **kwargs):
        self.events.append("log")

    def on_evaluate(self, args, state, control, **kwargs):
        self.events.append("evaluate")

    def on_save(self, args, state, control, **kwargs):
        self.events.append("save")


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in after.items() if not torch.equal(before[name], tensor)}


def lora_model(model: torch.nn.Module, targets: list[str]) -> torch.nn.Module:
    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=targets, modules_to_save=["classifier"], init_lora_weights=False)
    return get_peft_model(model, settings)
