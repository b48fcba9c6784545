"""DINO, self-distillation with no labels (Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from accelerate.utils import gather
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback, TrainingArguments

from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.losses import dino_loss, next_center, teacher_momentum
from genaf_hf.pretraining.methods.registry import Settings, register_method
from genaf_hf.pretraining.projection import AroundEncoder, Projected, PrototypeHead, feature_size, headless_encoder
from genaf_hf.pretraining.view_trainer import ViewTrainer

GLOBAL_VIEWS = 2
COLORS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2}


@dataclass(frozen=True)
class DINOSettings(Settings):
    """Settings of DINO, by default those of the paper.

    Attributes:
        student_temperature, teacher_temperature: of the loss.
        teacher_momentum: at the beginning; it rises to 1 by a cosine.
        center_momentum: of the center.
        frozen_epochs: for which the head's last layer is kept as it is.
        hidden_size, bottleneck_size, prototypes: of the head.
        batch_norm: whether the head normalizes over the batch, as the authors' code can (`use_bn_in_head`). A small ViT
            on few images needs it.
    """

    shares: ClassVar = ("teacher_momentum", "center_momentum")
    counts: ClassVar = ("frozen_epochs",)

    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    teacher_momentum: float = 0.996
    center_momentum: float = 0.9
    frozen_epochs: int = 1
    hidden_size: int = 2048
    bottleneck_size: int = 256
    prototypes: int = 65536
    batch_norm: bool = False


class StudentAndTeacher(AroundEncoder):
    """A student, the teacher that follows it, and the center of the teacher's logits."""

    def __init__(self, student: Projected, prototypes: int):
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(prototypes))

    @property
    def encoder(self) -> PreTrainedModel:  # type: ignore[override]
        """The student's, as the teacher has no backward pass."""
        return self.student.encoder

    def forward(self, views: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The student's logits (n, prototypes) of all views, the teacher's of the global ones, which come first.

        Args:
            views: normalized, each (n, 3, h, w).
        """
        with torch.no_grad():
            teacher = self.teacher(torch.cat(views[:GLOBAL_VIEWS])).chunk(GLOBAL_VIEWS)
        student = []
        for _, same_size in groupby(views, lambda view: view.shape[-1]):
            together = list(same_size)
            student += self.student(torch.cat(together)).chunk(len(together))
        return student, list(teacher)


class DINOTrainer(ViewTrainer):
    """Trains a student to see in every view what its teacher sees in another, global one.

    The temperature of the teacher and the weight decay are constant here; the paper's code can raise both.
    """

    kept = "teacher.encoder"

    def __init__(self, model: StudentAndTeacher, args: TrainingArguments, *others, settings: DINOSettings):
        super().__init__(model, args, *others)
        self.settings = settings
        self.add_callback(FollowStudent(settings))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        student, teacher = model(self.views(inputs))
        own = self.accelerator.unwrap_model(model)
        loss = dino_loss(
            student,
            teacher,
            own.center,
            student_temperature=self.settings.student_temperature,
            teacher_temperature=self.settings.teacher_temperature,
        )
        own.center.copy_(next_center(own.center, gather(torch.cat(teacher)), self.settings.center_momentum))
        return (loss, student) if return_outputs else loss


class FollowStudent(TrainerCallback):
    """Keeps the head's last layer in the first epochs, and moves the teacher after every update of the student."""

    def __init__(self, settings: DINOSettings):
        self.settings = settings

    def on_pre_optimizer_step(self, args, state, control, model: StudentAndTeacher, **kwargs):
        if state.epoch < self.settings.frozen_epochs:
            model.student.head.prototypes.grad = None

    def on_optimizer_step(self, args, state, control, model: StudentAndTeacher, **kwargs):
        momentum = teacher_momentum(self.settings.teacher_momentum, state.global_step / state.max_steps)
        with torch.no_grad():
            for ours, students in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
                ours.lerp_(students, 1 - momentum)


@register_method(
    title="DINO (Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294)",
    views=(
        Augmentation(224, scale=(0.4, 1.0), **COLORS, blur=1.0),
        Augmentation(224, scale=(0.4, 1.0), **COLORS, blur=0.1, solarize=0.2),
    ),
    local_view=Augmentation(96, scale=(0.05, 0.4), **COLORS, blur=0.5),
    settings=DINOSettings,
)
def dino(config: PreTrainedConfig, settings: DINOSettings, *others) -> DINOTrainer:
    """A ViT or a ResNet, which learns without labels; the teacher, the better one, is kept without its head."""
    head = PrototypeHead(
        *(feature_size(config), settings.hidden_size, settings.bottleneck_size, settings.prototypes),
        settings.batch_norm,
    )
    model = StudentAndTeacher(Projected(headless_encoder(config), head), settings.prototypes)
    return DINOTrainer(model, *others, settings=settings)
