"""The undefended baseline."""

from genaf_hf.training.defences.registry import register_defence


@register_defence(title="plain fine-tuning, without any defence")
def none() -> tuple[None, None]:
    """All weights on clean images, by the model's own loss."""
    return None, None
