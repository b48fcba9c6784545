"""The card of an encoder that was pre-trained here."""

from collections.abc import Mapping

from huggingface_hub import ModelCard

from genaf_hf.pretraining.methods import Method
from genaf_hf.sharing.hub_metadata import CardData, card
from genaf_hf.values.markup import plain


def encoder_card(method: Method, data: str, images: int, settings: Mapping) -> ModelCard:
    """A model card that says how an encoder was trained and how to harden it.

    Args:
        method: by which it was trained.
        data: name of the images.
        images: their number.
        settings: what is told of the training, by name.
    """
    metadata = CardData(
        library_name="transformers",
        pipeline_tag="image-classification" if method.labelled else "image-feature-extraction",
        tags=[method.name] if method.labelled else ["self-supervised", method.name],
    )
    rows = "\n".join(f"| {plain(name)} | {plain(value)} |" for name, value in settings.items())
    content = f"""\
# Image encoder, pre-trained by {method.title.split(" (")[0]}

Pre-trained by genaf_hf on {images:,} images of {plain(data)}, by {method.title}.

| setting | value |
|---|---|
{rows}

It is not hardened: whoever has it can craft perturbations that fool models fine-tuned from it.
`genaf-hf harden --model_name_or_path` this folder, with your data, makes a hardened classifier of it."""
    return card(metadata, content)
