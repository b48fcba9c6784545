"""Tasks of an encoder's users: linear probes of its features on labelled images, which are attacked."""

from collections.abc import Mapping, Sequence

from datasets import Dataset

from genaf_hf.attacks import Attack
from genaf_hf.data import ImageSet, load_images, with_pixel_values
from genaf_hf.errors import UserError
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.evaluate import craft_and_evaluate, try_out
from genaf_hf.evaluation.probing import probed
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.evaluation.threats import Threat
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.runs.run import Run
from genaf_hf.sharing.layout import report_of_task
from genaf_hf.values.provenance import public_name


def load_tasks(names: Sequence[str], **options) -> list[ImageSet]:
    """Labelled images by Hub id or local folder, as `load_images` gives them with these options.

    Raises:
        UserError: for images that cannot be used, and two whose reports would lie at one place.
    """
    if len({report_of_task(public_name(name)) for name in names}) < len(names):
        raise UserError(
            f"probe_datasets is {', '.join(names)}, of which two have one name, or the same "
            "letters (a to z) and digits in it: leave one out or rename it."
        )
    return [ImageSet(name, load_images(name, **options)) for name in names]


def contents(tasks: Sequence[ImageSet]) -> dict[str, str]:
    """What stands behind the names of tasks, which may have changed when a run goes on."""
    return {f"content of {public_name(each.name)}": each.content for each in tasks}


def try_out_on_tasks(tasks: Sequence[ImageSet], attacks: Mapping[str, Attack], public: PixelModel) -> None:
    """Tries attacks with the images and classes of each task before any long work.

    Raises:
        UserError: for a setting that one refuses.
    """
    for task in tasks:
        attacker = Attacker.of(task.data["train"], task.name, public, public)
        classes = task.data["train"].features["label"].num_classes
        try_out(attacks, attacker, probed(public, attacker.images, attacker.labels, classes))


def attack_tasks(
    tasks: Sequence[ImageSet],
    models: Mapping[str, PixelModel],
    public: PixelModel,
    attacks: Mapping[str, Attack],
    run: Run,
    **settings,
) -> dict[str, RobustnessReport]:
    """What linear probes keep on each task, by the place of its report.

    Args:
        tasks: as `load_tasks` gives them.
        models: by the names that reports will use.
        public: the encoder that attackers have.
        attacks: by the names that reports will use.
        run: which remembers what was measured.
        settings: of `evaluate_threats`.
    """
    reports = {}
    for task in tasks:  # one at a time: what is decoded of them is large
        place = report_of_task(public_name(task.name))
        reports[place] = attack_probes(
            models,
            {split: with_pixel_values(task.data[split], public.processor) for split in ("train", "test")},
            task.data["train"].features["label"].num_classes,
            attacks,
            Attacker.of(task.data["train"], task.name, public, public),
            dataset_info=task.measured,
            journal=run.journal(place),
            **settings,
        )[1]
    return reports


def attack_probes(
    models: Mapping[str, PixelModel],
    pixels: Mapping[str, Dataset],
    classes: int,
    attacks: Mapping[str, Attack],
    attacker: Attacker,
    *,
    dataset_info: Mapping,
    **settings,
) -> tuple[dict[str, PixelModel], RobustnessReport, list[Threat]]:
    """Linear probes of the features of models, what these keep, and the threats that were crafted.

    Args:
        models: by the names that the report will use.
        pixels: of the splits train and test, as `with_pixel_values` makes them.
        classes: of the labels.
        attacks: by the names that the report will use.
        attacker: whose images the probes are fitted to.
        dataset_info, settings: for `craft_and_evaluate`.
    """
    probes = {name: probed(model, attacker.images, attacker.labels, classes) for name, model in models.items()}
    told = {**dataset_info, "probe_images": len(attacker.images)}
    given = probes, pixels["test"], attacks, attacker
    report, threats = craft_and_evaluate(*given, bank=pixels["train"], dataset_info=told, **settings)
    return probes, report, threats
