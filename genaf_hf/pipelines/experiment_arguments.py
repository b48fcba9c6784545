"""Which encoder is worked with on which images, and what the result is attacked with."""

from dataclasses import dataclass, field, fields

from genaf_hf.pipelines.attack_arguments import ATTACKS_HELP, DEFAULT_ATTACKS, SETTINGS_HELP
from genaf_hf.pipelines.dataset_arguments import DatasetArguments


@dataclass
class ExperimentArguments(DatasetArguments):
    """The part that hardening and the search for adapters are both asked for."""

    model_name_or_path: str = field(metadata={"help": "Public encoder: Hub id or local folder."})
    dataset_name: str = field(metadata={"help": "Hub id, local folder (also of images in class folders), or digits."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the encoder."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "As in from_pretrained; eager for bf16 on CPU."}
    )
    validation_split: str | None = field(
        default=None, metadata={"help": "Split to make choices by; else held out of train."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Split to report, never used to choose anything."})
    held_out_share: float = field(default=0.1, metadata={"help": "Share of train held out for each missing split."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on a stratified subset of this size."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Validate and report on stratified subsets of this size."}
    )
    streaming: bool | None = field(
        default=None,
        metadata={
            "help": "True to draw these samples from a stream, False to download the whole dataset; default True only "
            "for datasets known to be large."
        },
    )
    attacks: str = field(default=DEFAULT_ATTACKS, metadata={"help": ATTACKS_HELP})
    attack_settings: dict | str | None = field(
        default=None,
        metadata={
            "help": f"{SETTINGS_HELP} Eps is 10/255 of one perturbation for all images, and that of training for "
            "single ones."
        },
    )

    @property
    def given(self) -> dict:
        """What differs from the defaults, by name."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) != each.default}

    @property
    def encoder_options(self) -> dict:
        """Arguments for `load_encoder`."""
        return {"revision": self.model_revision, "attn_implementation": self.attn_implementation}

    @property
    def labelled_options(self) -> dict:
        splits = ("validation_split", "test_split", "held_out_share")
        sizes = ("max_train_samples", "max_eval_samples", "streaming")
        return {**super().labelled_options, **{name: getattr(self, name) for name in splits + sizes}}
