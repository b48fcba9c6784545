"""Vision transformers whose classifiers read tokens, not a pooler's output."""

from genaf_hf.models.families.family import FAMILIES, Family

for model_type in ("vit", "deit", "vit_msn"):
    FAMILIES.add(model_type, Family(pooling="cls"))
FAMILIES.add("ijepa", Family(pooling="mean"))
FAMILIES.add("vit_mae", Family(classifier="vit"))  # a masked autoencoder's decoder is left behind
