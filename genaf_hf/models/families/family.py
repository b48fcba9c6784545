"""What is odd about a family of encoders, as a value that is found by the type of a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from genaf_hf.values.registry import Registry


def encoder_part(config: Any) -> Any:
    """The configuration of the encoder inside one of several parts; itself where there is one part."""
    return getattr(config, "vision_config", None) or getattr(config, "encoder_config", None) or config


@dataclass(frozen=True)
class Family:
    """What is odd about a family; the defaults are what `transformers` does with most encoders.

    Attributes:
        classifier: type of the model whose classifier holds its weights, by the settings that both have.
        pooling: what the head of its native classifier reads, `"cls"` or `"mean"`; None for what the pooler gives.
        square_weights: for an encoder of patches in grids of varying sides, whose classifier holds one of square
            images: the weights of that, from the encoder, the configuration of that, and height and width.
        head: gives a classifier's head where it is not by its usual name, else None.
        stem: gives a classifier's module before its blocks, where hidden states are no outputs of modules: those of the
            stem and of the blocks then stand for them.
        image_size: gives the side, or height and width, that a model is built for; None where it takes any.
        resized: gives a model for images of another height and width, where it interpolates for itself.
    """

    classifier: str | None = None
    pooling: str | None = None
    square_weights: Callable[[Any, Any, tuple[int, int]], dict[str, Tensor]] | None = None
    head: Callable[[nn.Module], nn.Module | None] = lambda model: None
    stem: Callable[[nn.Module], nn.Module] | None = None
    image_size: Callable[[Any], Any] = lambda model: getattr(encoder_part(model.config), "image_size", None)
    resized: Callable[[Any, tuple[int, int]], Any] | None = None


FAMILIES: Registry[Family] = Registry("family of encoders")  # the odd ones, by type


def family_of(config: Any) -> Family:
    """The family of a model with this configuration."""
    return FAMILIES.get(getattr(config, "model_type", ""), Family())


def family_in(model: nn.Module) -> Family:
    """The family of the encoder inside of a classifier, also of one wrapped by PEFT."""
    return family_of(encoder_part(getattr(model, "config", None)))
