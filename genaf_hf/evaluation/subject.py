"""A model that is asked about images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from types import MappingProxyType

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch import Tensor

from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import NOT_FINITE, Answers, answer
from genaf_hf.evaluation.batch_size import BatchSize
from genaf_hf.evaluation.measurement import ANSWERS, CLEAN, Check
from genaf_hf.evaluation.neighbors import Neighbors
from genaf_hf.evaluation.self_checks import self_checks
from genaf_hf.evaluation.threats import ImageThreat, Threat
from genaf_hf.models.identity import digest
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.runs.journal import Journal
from genaf_hf.values.numbers import class_ids

WITHOUT_GRADIENTS = 4  # times as many images fit, and of these ever fewer are left: small batches are slow


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that is asked about images, and what is remembered of its answers.

    Attributes:
        name: of the model in the report.
        model, dataset, seed: as for `evaluate_robustness`.
        batch_size: that fits.
        workers: as for `evaluate_threats`.
        neighbors: classifies its features; None where nobody asks.
        journal: of the answers.
        identity: what they depend on beside the attack.
    """

    name: str
    model: PixelModel
    dataset: Dataset
    neighbors: Neighbors | None
    batch_size: BatchSize
    workers: int
    seed: int
    journal: Journal
    identity: str

    def answers(
        self,
        step: str,
        attack: Callable | None = None,
        settings: Mapping = MappingProxyType({}),
        made_of: Mapping[str, Tensor] = MappingProxyType({}),
        rows: Sequence[int] | None = None,
        times: int = 1,
    ) -> Answers:
        """What the model answers.

        Args:
            step: its name in the journal.
            attack: as `Threat.on` gives it; None for clean images.
            settings, made_of: what the attack is.
            rows: of the images; None for all.
            times: as many images at once as usual.
        """

        def ask() -> dict:
            asked = partial(
                answer,
                self.model,
                self.dataset,
                attack,
                norm=settings.get("norm", "linf"),
                neighbors=self.neighbors,
                workers=self.workers,
                seed=self.seed,
                rows=rows,
                title=f"{self.name}: {step}",
            )
            return asdict(self.batch_size.fitting(lambda fits: asked(batch_size=times * fits)))

        of = digest((self.identity, len(self.dataset) if rows is None else list(rows), settings), made_of)
        return Answers(**self.journal.once(f"answers.{self.name}.{step}", ask, of=of))

    def clean(self) -> Answers:
        """Its answers to clean images.

        Raises:
            UserError: when one is not finite.
        """
        found = self.answers(CLEAN)
        if broken := found.predictions.count(NOT_FINITE):
            raise UserError(
                f'"{self.name}" gives logits that are not finite for {broken} of {len(self.dataset)} clean images: '
                "check its weights for NaN, no accuracy of it can be told."
            )
        return found

    def under(self, threat: Threat, step: str, rows: Sequence[int] | None = None) -> Answers:
        """Its answers under a threat, on some of the images or all."""
        of_threat = threat.settings(self.name), threat.tensors(self.name)
        times = WITHOUT_GRADIENTS if threat.knowledge == ANSWERS else 1
        return self.answers(step, threat.on(self.name), *of_threat, rows=rows, times=times)

    def under_after(self, threat: ImageThreat, found: Mapping[str, Answers]) -> tuple[Answers, dict]:
        """Its answers under a threat that attacks what others leave right, and how many images these are.

        Where another one fools the model already, its answers are that one's. Of fewer images than are left, those that
        it attacks lie evenly among them: of a test set in the order of its classes they are of all classes.

        Args:
            threat: after others, or after none, which leave what is right without an attack.
            found: answers under these, and clean.
        """
        answers = found[CLEAN]
        standing = [row for row, right in enumerate(answers.right) if right]
        for name in threat.after:
            fooled = [row for row in standing if not found[name].right[row]]
            answers = answers.but(fooled, found[name].of(fooled))
            standing = [row for row in standing if found[name].right[row]]
        most = threat.attack.settings.get("max_images") or len(standing)
        tried = standing if most >= len(standing) else [standing[i * len(standing) // most] for i in range(most)]
        if tried:
            answers = answers.but(tried, self.under(threat, threat.name, tried))
        return answers, {"standing": len(standing), "attacked": len(tried)}

    def under_noise(self, threat: Threat, known: dict[str, Answers]) -> Answers:
        """Its answers under noise of the norm and the size of a threat.

        Args:
            threat: that is held against it.
            known: what was asked before, by step, to which this is added.
        """
        size, random = threat.noise(self.name)
        step = ".".join(map(str, ("noise", *size.values())))
        if step not in known:
            known[step] = self.answers(step, random, size)
        return known[step]

    def under_shuffled(self, threat: Threat) -> Answers | None:
        """Its answers under a threat whose pixels are shuffled; None where there is nothing to shuffle."""
        if (mixed := threat.shuffled(self.name)) is None:
            return None
        return self.answers(f"{threat.name}.shuffled", mixed, threat.settings(self.name), threat.tensors(self.name))

    def checks(self, rows: Sequence[int], eps: float, claimed: Mapping[str, list[bool]]) -> list[Check]:
        """The self-checks of the model on some of the images, of which `claimed` are right under some attacks.

        Every process gets the main one's.
        """

        def run() -> list[dict]:
            examples = [self.dataset[row] for row in rows]
            pixel_values = torch.stack([torch.as_tensor(each["pixel_values"]) for each in examples])
            images = self.model.to_images(pixel_values)
            labels = class_ids([each["labels"] for each in examples], len(images)).to(images.device)
            checked = partial(self_checks, self.model, images, labels, eps=eps, name=self.name, claimed=claimed)
            found = self.batch_size.fitting(lambda fits: checked(batch_size=fits))
            [found] = broadcast_object_list([found])
            return [asdict(each) for each in found]

        found = self.journal.once(f"checks.{self.name}", run, of=digest((self.identity, eps, claimed), {}))
        return [Check(**each) for each in found]
