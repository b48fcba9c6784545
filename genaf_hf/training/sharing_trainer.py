"""A Trainer that tells how its model was trained and how robust it is, and shares that on the Hub."""

import re
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch.utils.data import Subset
from transformers.trainer_utils import has_length

from genaf_hf.attacks import ATTACKS
from genaf_hf.data import commit
from genaf_hf.data.pixel_values import InMemoryDataset
from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import answer
from genaf_hf.evaluation.evaluate import evaluate_threats
from genaf_hf.evaluation.given_attacks import threats_from
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.evaluation.threats import Threat, at_hand
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.sharing.eval_results import UNNAMED
from genaf_hf.sharing.existing_card import base_model_of
from genaf_hf.sharing.layout import TRAINED_ON
from genaf_hf.sharing.publishing import on_the_hub, publish
from genaf_hf.sharing.record import TRAINING_EPS, TrainingRecord, settings_of_training
from genaf_hf.sharing.result_folder import write_results
from genaf_hf.training.attacking_trainer import AttackingTrainer
from genaf_hf.values.provenance import model_source, public_name

MEASURED, TRIED = 4, 256  # perturbations of a report, and images by which the worst are told
REPORTED = {"eps": TRAINING_EPS, "steps": 20}  # PGD's, where it was trained on no attack on single images
HUB_CACHE = re.compile("([^/]+)___([^/]+)/[^/]+/[^/]+/[0-9a-f]{40}/")  # namespace, name, configuration, version, commit


class SharingTrainer(AttackingTrainer):
    """The part of `GenAFTrainer` that comes after training: report, record, card and push."""

    def robustness_report(self) -> RobustnessReport:
        """Accuracy on `eval_dataset`, clean and under the training adversary at its full eps, and the self-checks.

        Universal perturbations that the model was trained on attack as they lie beside it, at hand for everybody: of
        many of them the worst, see `worst_at_hand`. Where it was trained on no attack on single images, it is measured
        under PGD at 4/255.

        Raises:
            UserError: when there is no `eval_dataset`.
        """
        if self.eval_dataset is None:
            raise UserError("There is no eval_dataset to measure robustness on: give the trainer one, or a report.")
        model = self.pixel_model(self.model)
        models = {self.defence.model_name: model}
        with evaluating(model):
            on_images = self.defence.attacks() or {"pgd": ATTACKS["pgd"].configure(**REPORTED)}
            threats = self.worst_at_hand(model) + threats_from(on_images, models)
            return evaluate_threats(
                models,
                self.eval_dataset,
                threats,
                batch_size=self.args.per_device_eval_batch_size,
                seed=self.args.seed,
                dataset_info=dataset_source(self.eval_dataset, "validation"),
            )

    def worst_at_hand(self, model: PixelModel) -> list[Threat]:
        """The universal perturbations that the model was trained on, of more than a few the worst, as threats.

        There may be one for each class, and a report measures each twice, as it is and shuffled: those are kept that
        leave the fewest of some images right.

        Args:
            model: that was trained.
        """
        name = self.defence.model_name
        threats: list[Threat] = [*at_hand(self.defence.perturbations(), {name: model})]
        if len(threats) <= MEASURED:
            return threats
        some = Subset(self.eval_dataset, self.drawn_rows(self.eval_dataset, TRIED))
        size = self.args.per_device_eval_batch_size

        def left(threat: Threat) -> int:
            return sum(answer(model, some, threat.on(name), batch_size=size).right)

        return sorted(threats, key=left)[:MEASURED]

    def training_record(self) -> TrainingRecord:
        """How the model was trained, so far as the trainer knows."""
        splits = {"train": self.train_dataset, "validation": self.eval_dataset}
        classes = self.model.config.id2label
        source = dataset_source(self.train_dataset, "train")
        return TrainingRecord(
            base_model=base_model_of(self.model.config, self.args.hub_token),
            data={
                **{key: source[key] for key in ("name", "config", "revision")},
                "splits": {split: len(data) for split, data in splits.items() if data is not None and has_length(data)},
                "class_names": [classes[i] for i in range(len(classes))],
            },
            **settings_of_training(self.args),
            history=self.state.log_history,
            defence=self.defence.record(),
        )

    def create_model_card(
        self,
        model_name: str | None = None,
        report: RobustnessReport | None = None,
        record: TrainingRecord | None = None,
    ) -> None:
        """Writes the card, with report, training record and their pictures, into the output folder.

        Args:
            model_name: Hub id or folder name under which the model is loaded, default those of the arguments.
            report: what was measured, default what `robustness_report` measures; all processes have to call it then.
            record: how the model was trained, default `training_record()`.
        """
        report = report or self.robustness_report()
        if self.is_world_process_zero():
            name = model_name or self.hub_model_id or Path(self.args.output_dir).resolve().name
            self.save_perturbations(self.args.output_dir)
            write_results(self.args.output_dir, report, record or self.training_record(), model_name=name)

    def save_results(self, folder: str | Path) -> None:
        self.save_perturbations(folder)

    def save_perturbations(self, folder: str | Path) -> None:
        """Writes the universal perturbations that the model was trained on, each in a folder of its own."""
        encoder, revision = model_source(self.model.config)
        shutil.rmtree(Path(folder, TRAINED_ON), ignore_errors=True)
        for name, each in self.defence.perturbations().items():
            told = replace(each, encoder=encoder, encoder_revision=revision, seed=self.adversary_seed)
            told.save_pretrained(Path(folder, TRAINED_ON, name))

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        push_anyway: bool = False,
        **kwargs,
    ) -> str | None:
        """Saves the model, writes its card, and shares what `sharing.layout.published_in` lists, and no checkpoint.

        Args:
            commit_message: of the commit, default one that names the defence.
            blocking: True; whether a push arrived is told by its end.
            token: default that of the arguments, else of `hf auth login`.
            revision: branch, default that of the arguments.
            private: whether a new repository is private, default as the arguments say.
            push_anyway: also a model that failed a self-check of its report.
            kwargs: for `create_model_card`.

        Returns:
            The address of the commit; None on other processes than the main one.

        Raises:
            UserError: when `blocking` is False; when the model failed a self-check, or the Hub does not take it: says
                why, and the command that goes on.
        """
        if not blocking:
            raise UserError("blocking is False, expected True: only the end of a push tells whether it arrived.")
        token = token or self.args.hub_token
        private = self.args.hub_private_repo if private is None else private
        for adapter in getattr(self.accelerator.unwrap_model(self.model), "peft_config", {}).values():
            adapter.base_model_name_or_path = public_name(adapter.base_model_name_or_path or "")
        self.save_here(self.args.output_dir)
        if self.hub_model_id is None:
            with suppress(UserError):  # the Hub is asked again below, where all is kept whatever it says
                self.init_hf_repo(token=token, private=private)
        self.create_model_card(**kwargs)
        if not self.is_world_process_zero():
            return None
        revision = revision or self.args.hub_revision
        return publish(
            self.args.output_dir,
            self.hub_model_id or self.args.hub_model_id,
            token=token,
            private=private,
            revision=revision,
            message=commit_message,
            push_anyway=push_anyway,
        )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As that of `Trainer`, for which the Hub is asked persistently.

        Raises:
            UserError: when it does not let the user write there.
        """
        name = self.args.hub_model_id or Path(self.args.output_dir).resolve().name
        made = partial(super().init_hf_repo, token=token, private=private)
        on_the_hub(made, f'The repository "{name}" of the Hub cannot be written to')

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Does nothing: a checkpoint holds the optimizer's state and the arguments, which are not shared."""


def dataset_source(dataset, split: str) -> dict[str, str | None]:
    """Where a trainer's images come from, so far as they tell."""
    if isinstance(dataset, InMemoryDataset):
        dataset = dataset.images
    info = getattr(dataset, "info", None)
    cached = [HUB_CACHE.search(Path(file["filename"]).as_posix()) for file in getattr(dataset, "cache_files", [])]
    hub_id = next(("/".join(found.groups()) for found in cached if found), None)
    return {
        "name": hub_id or getattr(info, "dataset_name", None) or UNNAMED,
        "config": getattr(info, "config_name", None),
        "revision": commit(dataset) if hasattr(dataset, "cache_files") else None,
        "split": str(getattr(dataset, "split", None) or split),
    }
