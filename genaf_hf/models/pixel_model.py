"""The one place that owns normalisation."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from inspect import Parameter, signature
from typing import Any

import torch
from PIL import Image as PILImage
from torch import Tensor, nn

from genaf_hf.errors import UserError, first_line
from genaf_hf.models.blocks import encoder_blocks
from genaf_hf.models.families import family_in
from genaf_hf.models.head import head_of, name_of
from genaf_hf.models.partial_forward import called, input_of, inputs_of, outputs_of, producers_of
from genaf_hf.values.device import are_trusted

ROUNDING = 1e-3
LARGEST = 1e4  # of the numbers that images are normalised by


class PixelModel(nn.Module):
    """An image classifier seen from its pixels: images in [0, 1] go in, the processor's normalisation is inside.

    Attacks and evaluation see a model only through this class, so that an `eps` always means pixels. It shares its
    weights with `model`.

    Args:
        model: a `transformers` image classifier, also wrapped by PEFT.
        processor: its image processor; only the normalisation is read (`do_rescale`, `do_normalize`, `image_mean`,
            `image_std`) and the size of its images.
        autocast: precision that it computes in, also where an attack leaves that of its caller; default the weights'.

    Raises:
        UserError: when these are no classifier and image processor, or the processor rescales to something else than
            [0, 1].
    """

    model: Any  # an nn.Module with the configuration of `transformers`
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, processor, *, autocast: torch.dtype | None = None):
        super().__init__()
        check_classifier(model, processor)
        self.model = model
        self.processor = processor
        self.autocast = autocast
        self._layer_names: list[str] = []
        device = next(model.parameters()).device
        with torch.inference_mode(False):  # what is made in it cannot take part in gradients
            for name, values in zip(("mean", "std"), pixel_statistics(processor), strict=True):
                self.register_buffer(name, values.to(device), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.mean.device

    @property
    def class_names(self) -> list[str]:
        """By class id."""
        names = self.model.config.id2label
        return [str(names[i]) for i in range(self.model.config.num_labels)]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that the processor makes."""
        return image_sizes(self.processor)[0]

    def to_pixel_values(self, images: Tensor) -> Tensor:
        """Normalises images in [0, 1], shape (n, 3, h, w).

        Raises:
            UserError: when they are no such images.
        """
        if images.ndim != 4 or (images.shape[1] not in (1, self.mean.shape[1]) and self.mean.shape[1] > 1):
            raise UserError(f"The images have shape {tuple(images.shape)}, expected (n, 3, h, w).")
        return (images - self.mean) / self.std

    def to_images(self, pixel_values: Tensor) -> Tensor:
        """Undoes the processor's normalisation: the images in [0, 1], on the model's device.

        Raises:
            UserError: when the result is not finite or outside [0, 1] by more than rounding.
        """
        images = pixel_values.to(self.device) * self.std + self.mean
        if not are_trusted():
            check_range(images)
        return images.clamp(0, 1)

    def _normalised(self, images: Tensor) -> Tensor:
        """Pixel values in the model's own precision."""
        floats = (each.dtype for each in self.model.parameters() if each.is_floating_point())
        return self.to_pixel_values(images).to(next(floats, torch.float32))

    def _answer(self, pixel_values: Tensor, **asked):
        """What the model gives.

        Args:
            pixel_values: normalised.
            asked: of it, beside the logits.

        Raises:
            UserError: when it cannot take images of this size.
        """
        try:
            with torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext():
                return self.model(pixel_values=pixel_values, **asked)
        except (RuntimeError, ValueError) as error:
            given = tuple(pixel_values.shape[-2:])
            if isinstance(error, UserError) or given == self.image_size:
                raise
            sizes = [" x ".join(map(str, size)) for size in (given, self.image_size)]
            raise UserError(
                f"The model was given images of {sizes[0]} pixels, its processor makes {sizes[1]}: {first_line(error)}."
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes), in float32 or wider also under autocast."""
        return at_least_float32(self._answer(self._normalised(images)).logits)

    def features(self, images: Tensor) -> Tensor:
        """What the classification head reads, (n, d), in float32 or wider; the head itself is not run."""
        read = input_of(head_of(self.model), lambda: self._answer(self._normalised(images)))
        return at_least_float32(read.flatten(1))

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` and `features` give, by one pass."""
        with inputs_of(head_of(self.model)) as read:
            logits = self(images)
        return logits, at_least_float32(read[0].flatten(1))

    def hidden_states(self, images: Tensor, up_to: int | str | None = None) -> tuple[Tensor, ...]:
        """Activations from the embeddings (index 0) to the last layer, (n, tokens, d) or feature maps (n, d, h, w).

        Args:
            images: (n, 3, h, w) in [0, 1].
            up_to: the last one wanted, by index or by name (see `layer_names`); no layer above it is run.

        Raises:
            UserError: when there is no such layer, or the model does not tell its hidden states.
        """
        if up_to is None and family_in(self.model).stem is None:
            pixel_values = self._normalised(images)
            states = self._answer(pixel_values, output_hidden_states=True).hidden_states
            if states is None:
                raise UserError(f"The {type(self.model).__name__} gives no hidden states, which were asked for.")
            return tuple(state for state in states if state is not pixel_values)  # which some count as the first one
        names = self.layer_names(images)
        if up_to is not None:
            names = names[: self.layer_index(up_to, images) + 1]
        modules = [self.model.get_submodule(name) for name in names]
        return outputs_of(modules, lambda: self._answer(self._normalised(images)))

    def layer_names(self, images: Tensor) -> list[str]:
        """Names of the submodules of `model` that put out the hidden states, e.g. `vit.embeddings`, `vit.layers.0`.

        The first call follows one of the images through the whole encoder, later ones remember. Of an encoder of timm
        they are the stem and the repeated blocks.
        """
        if self._layer_names:
            return self._layer_names
        stem = family_in(self.model).stem
        with evaluating(self), torch.no_grad():
            if stem is None:
                self._layer_names = producers_of(self.model, lambda: self.hidden_states(images[:1]))
            else:
                parts = [name_of(stem(self.model), self.model), *encoder_blocks(self.model)]
                self._layer_names = called(self.model, parts, lambda: self(images[:1]))
        return self._layer_names

    def layer_index(self, layer: int | str, images: Tensor) -> int:
        """Index of a hidden state that is given by index or by name.

        Raises:
            UserError: when there is no such layer; lists them.
        """
        names = self.layer_names(images)
        if layer in names:
            return names.index(layer)
        if layer not in range(len(names)):
            raise UserError(
                f"layer is {layer}, expected 0 to {len(names) - 1}, the hidden states of this encoder, or the name of "
                f"one: {', '.join(names)}."
            )
        return int(layer)


def check_classifier(model: object, processor: object) -> None:
    """Refuses what is no image classifier of `transformers`, or no image processor of it.

    Raises:
        UserError: says what is expected.
    """
    parameters = signature(model.forward).parameters.values() if isinstance(model, nn.Module) else ()
    if not any(each.name == "pixel_values" or each.kind is Parameter.VAR_KEYWORD for each in parameters):
        raise UserError(
            f"The model is a {type(model).__name__}, expected an image classifier of transformers, which takes "
            "pixel_values and gives logits."
        )
    if not hasattr(processor, "do_rescale"):
        raise UserError(f"The processor is a {type(processor).__name__}, expected an image processor of transformers.")


def check_range(images: Tensor) -> None:
    """Refuses what the processor's normalisation was undone of and is not in [0, 1], but for rounding.

    Raises:
        UserError: names what was found.
    """
    low, high = images.amin().item(), images.amax().item()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise UserError(
            f"The images span [{low:.4g}, {high:.4g}] after the processor's normalisation is undone, expected "
            "[0, 1]: prepare them with the image processor that was given, and with no other normalisation."
        )


def pixel_statistics(processor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation by which an image processor normalises images in [0, 1].

    Each is a (1, c, 1, 1) in float32, of one value for all channels, or one for each.

    Raises:
        UserError: when it rescales 8-bit pixels to something else than [0, 1], or the two are no such numbers.
    """
    if not maps_to_unit_range(processor):
        raise UserError(
            f"The image processor has do_rescale={processor.do_rescale} and rescale_factor="
            f"{processor.rescale_factor}, expected 1/255, which maps 8-bit pixels to [0, 1]."
        )
    if not processor.do_normalize:
        return torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    return per_channel(processor, "image_mean", -LARGEST), per_channel(processor, "image_std", 1 / LARGEST)


def maps_to_unit_range(processor) -> bool:
    """Whether an image processor maps 8-bit pixels to [0, 1] before it normalises them."""
    return processor.do_rescale and abs(processor.rescale_factor * 255 - 1) <= 1e-3


def per_channel(processor, name: str, least: float) -> Tensor:
    """A setting of an image processor that has one number or three, (1, c, 1, 1).

    Raises:
        UserError: when one is no number that a statistic of images in [0, 1] can have.
    """
    given = getattr(processor, name)
    numbers = list(given) if isinstance(given, (list, tuple)) else [given]
    sound = [isinstance(each, (int, float)) and least <= each <= LARGEST for each in numbers]
    if len(numbers) not in (1, 3) or not all(sound):
        raise UserError(
            f"The image processor has {name}={given}, expected one or three numbers from {least:g} to {LARGEST:g}."
        )
    return torch.tensor(numbers, dtype=torch.float32).view(1, -1, 1, 1)


def image_sizes(processor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of what a processor makes of a wide image and of a high one."""
    images = PILImage.new("RGB", (80, 50)), PILImage.new("RGB", (50, 80))
    wide, high = (tuple(processor(image, return_tensors="pt")["pixel_values"].shape[-2:]) for image in images)
    return wide, high


def at_least_float32(values: Tensor) -> Tensor:
    """Widens half precision, leaves float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts every submodule into eval mode and gives each its own mode back."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training


@contextmanager
def only_trainable(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Freezes every parameter but the named ones, and gives each its own setting back.

    Raises:
        UserError: when a name is no parameter of the model.
    """
    parameters = dict(model.named_parameters())
    names = set(names)
    if unknown := sorted(names - parameters.keys()):
        raise UserError(
            f'"{unknown[0]}" is no parameter of the model; the last ones are {", ".join(list(parameters)[-3:])}.'
        )
    required = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in names)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(required[name])
