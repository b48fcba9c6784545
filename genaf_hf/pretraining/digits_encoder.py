"""Public encoders of the digits, which are pre-trained where none is named: ViTs of 4 layers of width 64."""

from collections.abc import Callable
from pathlib import Path

from transformers import TrainingArguments, ViTConfig, ViTImageProcessor, ViTMAEConfig, set_seed

from genaf_hf.data import DIGITS, load_images
from genaf_hf.pretraining import METHODS, Augmentation, DINOSettings, SimCLRSettings, pretrain_encoder
from genaf_hf.pretraining.encoder import LEAVES
from genaf_hf.runs.output_folder import locked
from genaf_hf.runs.run import FINISHED, Run

SIZE = 8
VIT = {
    "image_size": SIZE,
    "patch_size": 2,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    # Of the order of 1 / sqrt(64). With the default of 0.02, which is for width 768, little is learned in a minute.
    "initializer_range": 0.1,
}
DECODER = {
    "decoder_hidden_size": 64,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 128,
}


def pretrain_digits_encoder(name: str, use_cpu: bool) -> Path:
    """One of `DIGITS_ENCODERS`, trained on the training split; made once in a folder of its name, and then kept.

    Raises:
        UserError: when there is an unfinished run with other settings.
    """
    run = Run(name, {}, leaves=LEAVES)
    if run.state != FINISHED:
        with locked(Path(f".{name}.lock"), wait=True):  # others that start at once find it made
            DIGITS_ENCODERS[name](name, use_cpu)
    return run.folder


def pretrain_where_named(model_name_or_path: str, use_cpu: bool) -> None:
    """Makes the encoder where the name is one of `DIGITS_ENCODERS`; any other is made by somebody else.

    Raises:
        UserError: when there is an unfinished run with other settings.
    """
    if model_name_or_path in DIGITS_ENCODERS:
        pretrain_digits_encoder(model_name_or_path, use_cpu)


def mae(name: str, use_cpu: bool) -> Path:
    """A masked autoencoder, which sees crops, and more of each than the paper's quarter."""
    training = {"max_steps": 1500, "learning_rate": 2e-3, "adam_beta2": 0.95}
    config = ViTMAEConfig(**VIT, **DECODER, mask_ratio=0.6)
    return pretrain_encoder(METHODS["mae"], *prepared(config, name, use_cpu, **training), [view(0.7)], data=DIGITS)


def dino(name: str, use_cpu: bool) -> Path:
    """DINO of two global views alone, which fit more steps into the time."""
    training = {"max_steps": 1000, "learning_rate": 2e-3, "max_grad_norm": 3.0}
    # Without the norm the probe reads hardly more from it than from random weights.
    head = DINOSettings(hidden_size=256, bottleneck_size=64, prototypes=128, batch_norm=True, teacher_momentum=0.99)
    given, views = prepared(ViTConfig(**VIT), name, use_cpu, **training), [view(0.4), view(0.4)]
    return pretrain_encoder(METHODS["dino"], *given, views, head, data=DIGITS)


def simclr(name: str, use_cpu: bool) -> Path:
    """SimCLR of crops, by a smaller head than the paper's."""
    training = {"max_steps": 400, "learning_rate": 2e-3}
    head = SimCLRSettings(temperature=0.2, hidden_size=128, output_size=64)
    given, views = prepared(ViTConfig(**VIT), name, use_cpu, **training), [view(0.4), view(0.4)]
    return pretrain_encoder(METHODS["simclr"], *given, views, head, data=DIGITS)


def supervised(name: str, use_cpu: bool) -> Path:
    """A classifier of the ten digits, with its head."""
    given = prepared(ViTConfig(**VIT), name, use_cpu, max_steps=600, learning_rate=2e-3)
    return pretrain_encoder(METHODS["supervised"], *given, [view(0.6)], data=DIGITS)


DIGITS_ENCODERS: dict[str, Callable[[str, bool], Path]] = {
    "digits-mae": mae,
    "digits-dino": dino,
    "digits-simclr": simclr,
    "digits-supervised": supervised,
}


def view(smallest: float, largest: float = 1.0, size: int = SIZE) -> Augmentation:
    """Crops alone: a mirrored digit is none, and digits have no color."""
    return Augmentation(size, scale=(smallest, largest), flip=False)


def prepared(config, name: str, use_cpu: bool, **settings) -> tuple:
    """Training images, configuration, image processor and arguments of a training, by a fixed seed."""
    set_seed(0)
    args = TrainingArguments(
        output_dir=name,
        per_device_train_batch_size=64,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.05,
        logging_steps=500,
        save_total_limit=1,
        report_to="none",
        remove_unused_columns=False,
        use_cpu=use_cpu,
        **settings,
    )
    return load_images(DIGITS)["train"], config, ViTImageProcessor(size={"height": SIZE, "width": SIZE}), args
