"""The card of an encoder that was pre-trained here."""

from collections.abc import Mapping

from huggingface_hub import ModelCard, ModelCardData

from genaf_hf.values.markup import plain

PAPERS = {
    "mae": "a masked autoencoder (He et al., CVPR 2022, https://arxiv.org/abs/2111.06377)",
    "dino": "DINO (Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294)",
    "simclr": "SimCLR (Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709)",
    "supervised": "cross-entropy on the labels",
}


def encoder_card(method: str, data: str, images: int, settings: Mapping) -> ModelCard:
    """A model card that says how an encoder was trained and how to harden it.

    Args:
        method: one of `PAPERS`.
        data: name of the images.
        images: their number.
        settings: what is told of the training, by name.
    """
    labelled = method == "supervised"
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification" if labelled else "image-feature-extraction",
        tags=[method] if labelled else ["self-supervised", method],
    )
    rows = "\n".join(f"| {plain(name)} | {plain(value)} |" for name, value in settings.items())
    return ModelCard(f"""---
{metadata.to_yaml()}
---

# Image encoder, pre-trained by {PAPERS[method].split(" (")[0]}

Pre-trained by genaf_hf on {images:,} images of {plain(data)}, by {PAPERS[method]}.

| setting | value |
|---|---|
{rows}

It is not hardened: whoever has it can craft perturbations that fool models fine-tuned from it.
`genaf-hf harden --model_name_or_path` this folder, with your data, makes a hardened classifier of it.
""")
