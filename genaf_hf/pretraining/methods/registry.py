"""Methods of pre-training by name, so that a flag, a card and a run speak of the same one by the same name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from transformers import AutoModel

from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.view_trainer import ViewTrainer
from genaf_hf.values.registry import Registry

MODEL_TYPES = {"vit": "vit", "resnet": "resnet"}


@dataclass(frozen=True)
class Settings:
    """Settings of a method, of which this one has none: numbers above 0, by default the paper's."""

    shares: ClassVar[tuple[str, ...]] = ()  # those that lie in [0, 1]
    counts: ClassVar[tuple[str, ...]] = ()  # those that may be 0


@dataclass(frozen=True)
class Method:
    """How an encoder is trained from scratch.

    Attributes:
        name: e.g. `"dino"`.
        trainer: makes a fresh model and its trainer of a configuration, settings of the method and what a `ViewTrainer`
            takes beside its model.
        title: what it is and who published it, for cards, e.g. `"SimCLR (Chen et al., ICML 2020, https://...)"`.
        views: of each image, as in the paper on images of 224 pixels.
        local_view: a smaller one, of which there are as many as wanted; None where the method has none.
        settings: the kind of its settings.
        labelled: whether it reads labels, which the encoder's head keeps.
        model_types: what it trains, by the encoder's `model_type`, as `transformers` names both.
        auto_class: by which `transformers` makes that.
    """

    name: str
    trainer: Callable[..., ViewTrainer]
    title: str
    views: tuple[Augmentation, ...]
    local_view: Augmentation | None = None
    settings: type[Settings] = Settings
    labelled: bool = False
    model_types: Mapping[str, str] = field(default_factory=lambda: MODEL_TYPES)
    auto_class: type = AutoModel

    @property
    def known_settings(self) -> list[str]:
        """The names of its settings."""
        return [each.name for each in fields(self.settings)]


METHODS: Registry[Method] = Registry("method of pre-training")


def register_method(*, title: str, views: tuple[Augmentation, ...], **others) -> Callable[[Callable], Callable]:
    """Adds a function to `METHODS`, under its own name with hyphens.

        @register_method(title="mine (Me, 2026)", views=(Augmentation(224),))
        def mine(config: PreTrainedConfig, settings: Settings, *others) -> ViewTrainer:
            return ViewTrainer(MyModel(config), *others)

    Args:
        title, views, others: as in `Method`.

    Raises:
        UserError: when the name is taken.
    """

    def register(function: Callable) -> Callable:
        name = function.__name__.replace("_", "-")
        METHODS.add(name, Method(name, function, title, views, **others))
        return function

    return register
