"""From a public encoder and images, labelled or not, to a hardened encoder: what `genaf-hf harden-encoder` runs."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from accelerate import PartialState
from datasets import DatasetDict
from transformers import PreTrainedModel
from transformers.trainer_utils import IntervalStrategy

from genaf_hf.attacks import Attack
from genaf_hf.data import (
    ImageSet,
    LabelsError,
    load_unlabelled_splits,
    to_rgb,
    with_pixel_values,
)
from genaf_hf.errors import UserError
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.drift import Drift, measure_drift
from genaf_hf.evaluation.evaluate import try_out
from genaf_hf.evaluation.report import HARDENED, UNDEFENDED, RobustnessReport
from genaf_hf.evaluation.threats import Threat, threats_of
from genaf_hf.models.bare_encoder import load_bare_encoder, name_of_features, take_weights
from genaf_hf.models.loading import load_configuration, load_encoder
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.pipelines.attack_arguments import ATTACKS_HELP, DEFAULT_ATTACKS, SETTINGS_HELP, named_attacks
from genaf_hf.pipelines.experiment import Experiment, load_data
from genaf_hf.pipelines.experiment_arguments import ExperimentArguments
from genaf_hf.pipelines.hardening import (
    copy_results,
    hardening_run,
    repeated,
    train_or_go_on,
    training_config,
    write_attacked,
)
from genaf_hf.pipelines.probed_tasks import attack_probes, attack_tasks, contents, load_tasks, try_out_on_tasks
from genaf_hf.pipelines.trained_images import warn_of_duplicates
from genaf_hf.runs.run import Run
from genaf_hf.sharing.encoder_results import write_encoder_results
from genaf_hf.sharing.existing_card import is_hardened_encoder
from genaf_hf.sharing.layout import CARD, DRIFT, HARDENED_ENCODER, RECORD, REPORT
from genaf_hf.sharing.model_card import OWN_CLASS
from genaf_hf.sharing.publishing import open_result, push_result
from genaf_hf.sharing.record import TRAINING_EPS, TrainingRecord
from genaf_hf.sharing.trackers import track_results
from genaf_hf.training.config import GenAFConfig
from genaf_hf.training.options import refuse_resume_flag
from genaf_hf.training.trainer import GenAFTrainer
from genaf_hf.training.training_images import images_of_update

logger = logging.getLogger(__name__)

UNLABELLED_ATTACKS = "l4a,ssp,fff,advencoder-per,advencoder-pat,feature-pgd"
NO_CLASSES = ("a", "b")  # of a head that is neither trained nor kept
LOOKED_AT = 16  # images whose size is compared with the encoder's
SWEEP_FACTORS = (0.5, 1.5)  # factors on eps for the picture of accuracy against eps


@dataclass
class EncoderArguments(ExperimentArguments):
    """Which encoder is hardened on which images, and what the result is attacked with."""

    dataset_name: str = field(
        metadata={"help": "Hub id, local folder (also of images, in class folders or not), or digits."}
    )
    attacks: str | None = field(
        default=None,
        metadata={"help": f"{ATTACKS_HELP[:-1]}; default {DEFAULT_ATTACKS}, without labels {UNLABELLED_ATTACKS}."},
    )
    attack_settings: dict | str | None = field(
        default=None,
        metadata={
            "help": f"{SETTINGS_HELP} Eps is 10/255 of one perturbation for all images, and 4/255 for single ones."
        },
    )
    probe_datasets: list[str] | None = field(
        default=None,
        metadata={
            "help": "Labelled images of tasks, by Hub id or local folder: a linear probe on each is attacked too, and "
            "the card tells what it keeps."
        },
    )
    pooling: str | None = field(
        default=None,
        metadata={"help": "Which features: cls, mean or pooler, default what a head on the encoder reads."},
    )
    push_anyway: bool = field(
        default=False, metadata={"help": "With push_to_hub, push also one that failed a self-check of its report."}
    )

    @property
    def encoder_options(self) -> dict:
        return {**super().encoder_options, "pooling": self.pooling}


@dataclass(frozen=True, eq=False)
class EncoderExperiment(Experiment):
    """What is hardened on what, where images need no labels.

    Attributes:
        bare: the public encoder without a head, of the class that is saved.
        tasks: that it is probed on.
    """

    arguments: EncoderArguments
    bare: PreTrainedModel
    tasks: list[ImageSet]

    @classmethod
    def load(cls, arguments: EncoderArguments, config: GenAFConfig):
        source, hub = arguments.model_name_or_path, {"revision": arguments.model_revision, "token": config.hub_token}
        load_configuration(source, **hub)
        data = load_encoder_images(arguments, config.hub_token)
        tasks = load_tasks(
            arguments.probe_datasets or (),
            held_out_share=arguments.held_out_share,
            max_train_samples=arguments.max_train_samples,
            max_eval_samples=arguments.max_eval_samples,
            skip_broken_images=arguments.skip_broken_images,
            token=config.hub_token,
        )
        labelled = "label" in data["train"].column_names
        asked_attacks(arguments, config, labelled=labelled or bool(tasks))
        classes = data["train"].features["label"].names if labelled else NO_CLASSES
        encoder, processor = load_encoder(source, classes, token=config.hub_token, **arguments.encoder_options)
        bare = load_bare_encoder(encoder, source, PixelModel(encoder, processor).image_size, **hub)
        pixels = {split: with_pixel_values(images, processor) for split, images in data.items()}
        return cls(arguments, config, data, pixels, encoder, processor, bare, tasks)

    @property
    def labelled(self) -> bool:
        """Whether the images have labels, which are for the report."""
        return "label" in self.data["train"].column_names

    @property
    def classes(self) -> dict:
        """None, whether there are labels or not."""
        return {}

    @property
    def attacks(self) -> dict[str, Attack]:
        return asked_attacks(self.arguments, self.config, labelled=self.labelled or bool(self.tasks))

    @property
    def attacks_on_images(self) -> dict[str, Attack]:
        """Those that need no more than these images have, where tasks have labels."""
        return {name: each for name, each in self.attacks.items() if self.labelled or "labels" not in each.needs}

    @property
    def content(self) -> dict[str, str]:
        return {**super().content, **contents(self.tasks)}


def harden_encoder(arguments: EncoderArguments, config: GenAFConfig) -> tuple[list[Drift], dict[str, RobustnessReport]]:
    """Hardens an encoder without labels, attacks the public one and the hardened one, and writes everything down.

    `config.output_dir` then holds the hardened encoder, of the class of the public one, with its processor and card,
    the perturbations that it was trained on, `drift.json`, `training.json` and pictures; where images have labels also
    `report.json`, on a linear probe of the features of each, and such a report in `tasks` for each task that it is
    probed on. A run that was killed goes on where it was when it is started again with the same settings.

    Args:
        arguments: what is hardened on what, and what the result is attacked with.
        config: of the training, by a defence that reads no labels.

    Returns:
        How far attacks move the features, and the reports on probes by their places in the folder, that on the images
        of the training first; none where nothing has labels.

    Raises:
        UserError: for input that cannot be worked with, before any training.
    """
    check_training(config)
    if arguments.attacks:  # else they follow from whether there are labels
        asked_attacks(arguments, config, labelled=True)
    tasks = {f"dataset {i} to probe on": name for i, name in enumerate(arguments.probe_datasets or (), start=1)}
    leaves = {"leaves": (CARD, DRIFT, RECORD), "overwrites": HARDENED_ENCODER}
    run = hardening_run(arguments, config, **leaves, reads=tasks)
    run.check()
    case = EncoderExperiment.load(arguments, config)
    config.make_defence().check(case.encoder, images_of_update(config, case.data["train"]))
    features = tell_features(case.bare, case.public)
    tell_of_duplicates(case)
    hub = {"revision": arguments.model_revision, "token": config.hub_token}
    tell_of_encoder(arguments.model_name_or_path, **hub)
    if PartialState().is_main_process:
        tell_of_images(case)
    attacker = case.attacker
    try_out(case.attacks_on_images, attacker, case.public)
    try_out_on_tasks(case.tasks, case.attacks, case.public)
    case.public.cpu()  # while another is trained
    model_name = open_result(run.folder, config)
    with run.working(case.content):
        hardened, record = train(case, run)
        encoders = {UNDEFENDED: case.public.to(config.device), HARDENED: hardened}
        models, reports, threats = attack_features(case, encoders, attacker, run)
        on_features = [each for each in threats if each.universal or "labels" not in each.attack.needs]
        measuring = {**case.measuring, "journal": run.journal("drift")}
        drifts = measure_drift(models, case.public, case.pixels["test"], on_features, **measuring)
        reports |= attack_tasks(case.tasks, encoders, case.public, case.attacks, run, **case.measuring)
        if PartialState().is_main_process:
            take_weights(case.bare, hardened.model)
            case.bare.save_pretrained(run.folder)
            case.processor.save_pretrained(run.folder)
            copy_results(run)
            if case.labelled:
                write_attacked(run.folder, case, models, reports[REPORT], threats)
            command = run.command("harden-encoder", repeated(case, record))
            record = replace(record, data=case.record_of_images, command=command)
            write_encoder_results(
                run.folder,
                drifts,
                reports,
                record,
                model_name=model_name,
                encoder_class=type(case.bare).__name__,
                features=features,
                pooling=arguments.pooling if type(case.encoder).__name__ == OWN_CLASS else None,
            )
            if case.labelled:
                track_results(reports[REPORT], record, config)
    push_result(run.folder, config, model_name, push_anyway=arguments.push_anyway)
    PartialState().wait_for_everyone()
    return drifts, reports


def check_training(config: GenAFConfig) -> None:
    """Refuses a training of an encoder alone that needs labels or a head; the `UserError` names the setting."""
    refuse_resume_flag(config)
    if config.make_defence().reads_labels:
        raise UserError(
            f"defence is {config.defence}, which reads labels, but an encoder is hardened without: choose anchor, or "
            "harden a classifier by genaf-hf harden."
        )
    if config.eval_strategy != IntervalStrategy.NO or config.load_best_model_at_end:
        raise UserError(
            "eval_strategy or load_best_model_at_end is given, but an encoder is hardened without images to choose by: "
            "leave it out."
        )
    if config.adapt_epochs or config.adapt_max_steps > 0:
        raise UserError("adapt_epochs or adapt_max_steps is given, but an encoder has no head to be adapted with: "
                        "leave it out.")  # fmt: skip


def asked_attacks(arguments: EncoderArguments, config: GenAFConfig, *, labelled: bool) -> dict[str, Attack]:
    """The attacks of the final evaluation, with their settings.

    Raises:
        UserError: for settings that these could not be run with, or an attack that needs labels where there are none.
    """
    names = arguments.attacks or (DEFAULT_ATTACKS if labelled else UNLABELLED_ATTACKS)
    found = named_attacks(names, arguments.attack_settings, eps=TRAINING_EPS, norm=config.norm, seed=config.seed)
    needing = [name for name, each in found.items() if "labels" in each.needs]
    if needing and not labelled:
        raise UserError(
            f"attacks has {needing[0]}, which needs labels, but the images have none: choose for example "
            f"{UNLABELLED_ATTACKS}, or name labelled images by probe_datasets."
        )
    return found


def load_encoder_images(arguments: EncoderArguments, token: str | None) -> DatasetDict:
    """Images to train on and images to report, with labels where each image has one that can be read.

    Raises:
        UserError: when there are too few images, or some cannot be read.
    """
    try:
        data = load_data(arguments, token)
        return DatasetDict({split: data[split] for split in ("train", "test")})
    except LabelsError as error:
        logger.warning("The images are taken without labels, which are only for the report: %s", error)
    return load_unlabelled_splits(
        arguments.dataset_name,
        **arguments.unlabelled_options,
        test_split=arguments.test_split,
        held_out_share=arguments.held_out_share,
        max_train_samples=arguments.max_train_samples,
        max_eval_samples=arguments.max_eval_samples,
        streaming=arguments.streaming,
        token=token,
    )


def tell_features(bare: PreTrainedModel, public: PixelModel) -> str | None:
    """Which of the encoder's outputs are hardened, as `name_of_features` tells it; the log says it.

    Raises:
        UserError: when features are no numbers that can be compared.
    """
    images = public.mean.new_full((2, 3, *public.image_size), 0.5)
    images[1, :, ::2] = 0.2
    features = public.features(images).detach()
    if not features.square().sum().isfinite():
        raise UserError(
            f"Features of the {type(bare).__name__} are not finite, or their squares are not, though its weights are: "
            "take another checkpoint of it."
        )
    found = name_of_features(bare, public.to_pixel_values(images), features)
    words = (type(public.model).__name__, "" if found is None else f", {found} of a {type(bare).__name__}")
    logger.info("Hardened are the features that the head of a %s reads%s", *words)
    return found


def tell_of_images(case: EncoderExperiment) -> None:
    """Says what labels are for, and that images are smaller than those of the encoder."""
    size = case.public.image_size
    if case.labelled:
        logger.info("Labels are not trained on: they are for the report, on a linear probe of the features")
    sizes = [to_rgb(each).size for each in case.data["train"][:LOOKED_AT]["image"]]
    smaller = [(width, height) for width, height in sizes if width < size[1] or height < size[0]]
    if smaller:
        logger.warning(
            'Of the first %d images of "%s" %d are smaller than the encoder\'s, such as %d x %d pixels where it takes '
            "%d x %d: they are enlarged, and it is hardened for enlarged images.",
            *(len(sizes), case.arguments.dataset_name, len(smaller), *smaller[0], size[1], size[0]),
        )


def tell_of_duplicates(case: EncoderExperiment) -> None:
    """Says so where images that are reported, or a task's, are among those that the encoder is hardened on."""
    digests = [(each.name, each.digests["test"]) for each in (case.images, *case.tasks)]  # all processes make them
    if PartialState().is_main_process:
        for name, test in digests:
            warn_of_duplicates({"train": case.images.digests["train"], "test": test}, name)


def tell_of_encoder(model_name_or_path: str, **hub) -> None:
    """Says so where an encoder is hardened already."""
    if PartialState().is_main_process and is_hardened_encoder(model_name_or_path, **hub):
        logger.warning(
            '"%s" is hardened already, as its card says: the features that are kept are those of the hardened one, and '
            "move once more away from those of the encoder that it was made from.",
            model_name_or_path,
        )


def train(case: EncoderExperiment, run: Run) -> tuple[PixelModel, TrainingRecord]:
    """The hardened encoder, and how it was made."""
    trainer = GenAFTrainer(
        model=copy.deepcopy(case.encoder),
        args=training_config(case.config, run),
        train_dataset=case.pixels["train"],
        processing_class=case.processor,
    )
    return train_or_go_on(trainer, run)


def attack_features(
    case: EncoderExperiment, encoders: Mapping[str, PixelModel], attacker: Attacker, run: Run
) -> tuple[Mapping[str, PixelModel], dict[str, RobustnessReport], list[Threat]]:
    """What is attacked, the report on it by its place, and the threats as they were crafted.

    With labels these are linear probes of the encoders' features, else the encoders, of which there is no report.
    """
    if not case.labelled:
        return encoders, {}, [each.crafted(attacker, encoders) for each in threats_of(case.attacks_on_images)]
    probes, report, threats = attack_probes(
        encoders,
        case.pixels,
        case.data["train"].features["label"].num_classes,
        case.attacks,
        attacker,
        factors=SWEEP_FACTORS,
        dataset_info=case.images.measured,
        journal=run.journal("evaluation"),
        **case.measuring,
    )
    return probes, {REPORT: report}, threats
