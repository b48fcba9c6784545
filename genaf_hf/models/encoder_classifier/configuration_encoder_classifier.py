"""Configuration of an image classifier made of any encoder."""

from transformers import AutoConfig, PreTrainedConfig

POOLINGS = ("cls", "mean", "pooler")
HEADS = ("linear", "mlp")


class EncoderClassifierConfig(PreTrainedConfig):
    """Configuration of `EncoderForImageClassification`.

    Args:
        encoder_config: of the encoder, as `AutoModel` takes it, or a dictionary of it.
        cifar_stem: whether a ResNet begins with a 3 x 3 convolution of stride 1 and no max-pooling.
        stem_padding: of that convolution.
        pooling: what the head reads: `"cls"`, the first token; `"mean"`, that of the patches or of the feature map;
            `"pooler"`, the encoder's own.
        prefix_tokens: tokens before those of the patches, which `"mean"` leaves out.
        feature_size: width of what the head reads.
        head: `"linear"`, or `"mlp"`, that of Gen-AF (Zhou et al., IEEE S&P 2024): three linear layers.

    Raises:
        ValueError: for an unknown pooling or head.
    """

    model_type = "encoder_classifier"
    sub_configs = {"encoder_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        encoder_config: PreTrainedConfig | dict | None = None,
        cifar_stem: bool = False,
        stem_padding: int = 1,
        pooling: str = "pooler",
        prefix_tokens: int = 1,
        feature_size: int = 768,
        head: str = "linear",
        **kwargs,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f'pooling is "{pooling}", expected one of {", ".join(POOLINGS)}.')
        if head not in HEADS:
            raise ValueError(f'head is "{head}", expected one of {", ".join(HEADS)}.')
        if isinstance(encoder_config, dict):
            encoder_config = AutoConfig.for_model(**encoder_config)
        self.encoder_config = AutoConfig.for_model("vit") if encoder_config is None else encoder_config
        self.cifar_stem = cifar_stem
        self.stem_padding = stem_padding
        self.pooling = pooling
        self.prefix_tokens = prefix_tokens
        self.feature_size = feature_size
        self.head = head
        super().__init__(**kwargs)
