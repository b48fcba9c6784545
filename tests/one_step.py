"""One step of a tiny training in float64, to be compared with what a paper says."""

import copy

import torch
from conftest import CLASSES
from recorder import Recorder
from torch import nn
from train_tiny import PROCESSOR, tiny_trainer
from transformers import ResNetConfig, ResNetForImageClassification

from genaf_hf import PixelModel

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


def one_step(folder, **settings):
    """A trainer after one step, its gradients, the model before it, and images and labels in the order of that step."""
    recorder, batches = Recorder(), []
    trainer = tiny_trainer(folder, callbacks=[recorder], **ONE_STEP, **settings)
    model, collate = PixelModel(copy.deepcopy(trainer.model), PROCESSOR), trainer.data_collator
    trainer.data_collator = lambda rows: batches.append(collate(rows)) or batches[-1]
    trainer.adversarial_finetune()
    [batch] = [each for each in batches if len(each["labels"]) == 24]
    return trainer, recorder.gradients, model, model.to_images(batch["pixel_values"]), batch["labels"]


def state_before(folder, **settings) -> dict[str, torch.Tensor]:
    """What a defence's adversary holds before the step of `one_step`, of the same settings."""
    trainer = tiny_trainer(folder, **ONE_STEP, **settings)
    trainer.evaluate()
    return state_of(trainer)


class Clamped(torch.autograd.Function):
    """Clamps to [0, 1], and hands gradients on as if it did not."""

    @staticmethod
    def forward(ctx, images):
        return images.clamp(0, 1)

    @staticmethod
    def backward(ctx, gradients):
        return gradients


def clamped(images: torch.Tensor) -> torch.Tensor:
    return Clamped.apply(images)


def check_gradients(found: dict, model: PixelModel, loss: torch.Tensor) -> None:
    loss.backward()
    expected = {name: parameter.grad for name, parameter in model.model.named_parameters()}
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def state_of(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.tensors_beside_model().items()}


def batch_norm_model(dtype: torch.dtype = torch.float64) -> ResNetForImageClassification:
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(**sizes, id2label=dict(enumerate(CLASSES)))).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    return model
