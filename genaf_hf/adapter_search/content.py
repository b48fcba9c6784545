"""What tells encoders and images of the same name apart, on any machine."""

from datasets import DatasetDict
from transformers import PreTrainedModel

from genaf_hf.data import commit, identity
from genaf_hf.models.identity import encoder_digest
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.values.provenance import model_source


def encoder_content(encoder: PreTrainedModel, processor) -> str:
    """The commit of a public encoder; else what tells it from others, its head left out."""
    _, revision = model_source(encoder.config)
    return revision or encoder_digest(PixelModel(encoder, processor))


def images_content(data: DatasetDict) -> str:
    """The commit of images on the Hub; else SHA-256 of all of them with their labels."""
    return commit(data["test"]) or identity.images_content(data)
