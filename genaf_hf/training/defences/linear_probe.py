"""A linear probe: what the public encoder is worth as it is."""

from genaf_hf.training.defences.registry import register_defence


@register_defence(title="a head on the frozen public encoder, without any defence", head_alone=True)
def linear_probe() -> tuple[None, None]:
    """The head on clean images, by the model's own loss; the encoder stays as it is."""
    return None, None
