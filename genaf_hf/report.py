"""What an evaluation found, as a value that tables, pictures and cards read."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scipy.stats import binomtest

SCHEMA_VERSION = 1
CLEAN = "clean"


@dataclass(frozen=True)
class Measurement:
    """How many images one model classified correctly under one attack.

    Attributes:
        model: the model's name in the report.
        attack: name of the attack, `"clean"` for none.
        knowledge: what the attacker knew: `"nothing"`, `"public encoder"` or `"model"`.
        settings: eps (pixel units), norm, steps and whatever else the attack was run with.
        correct: correctly classified images.
        count: all images.
    """

    model: str
    attack: str
    knowledge: str
    settings: dict
    correct: int
    count: int

    @property
    def accuracy(self) -> float:
        """Share of correct images, in [0, 1]."""
        return self.correct / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        low, high = binomtest(self.correct, self.count).proportion_ci(0.95, method="wilson")
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.accuracy:.1%} [{low:.1%}, {high:.1%}] ({self.correct}/{self.count})"


@dataclass(frozen=True)
class RobustnessReport:
    """Clean and attacked accuracies of one or more models on one set of images.

    Attributes:
        dataset: name, split, revision and number of the images.
        models: for each model its source, revision, class and number of parameters.
        measurements: one per model and attack.
        seed: of random starts; image i starts from seed + i.
        environment: versions of the packages, and the hardware.
        schema_version: of this format.
    """

    dataset: dict
    models: dict[str, dict]
    measurements: list[Measurement]
    seed: int
    environment: dict = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks in the order in which they were run, `"clean"` first."""
        return list(dict.fromkeys(measurement.attack for measurement in self.measurements))

    def measurement(self, model: str, attack: str) -> Measurement:
        """What was found for one model under one attack.

        Raises:
            KeyError: when this was not measured.
        """
        for each in self.measurements:
            if (each.model, each.attack) == (model, attack):
                return each
        raise KeyError(f'the report has no "{attack}" for "{model}"')

    def table(self, text: Callable[[str], str] = str) -> str:
        """A Markdown table: a row per attack, a column per model, accuracies with 95 % interval and count.

        Args:
            text: what names pass through, to be escaped where the table is to be rendered.
        """
        rows = [["attack", "attacker knows", "norm", "eps", "steps", *map(text, self.models)]]
        for attack in self.attacks:
            found = [self.measurement(model, attack) for model in self.models]
            settings = found[0].settings
            norm, eps, steps = "-", "-", "-"
            if attack != CLEAN:
                norm, eps, steps = settings["norm"], f"{settings['eps']:.4g}", settings.get("steps") or "-"
            rows.append([text(attack), text(found[0].knowledge), norm, eps, str(steps), *map(str, found)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
        ]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([lines[0], rule, *lines[1:]])

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "RobustnessReport":
        """Reads what `to_json` wrote.

        Raises:
            ValueError: when it is no report, or one of another version.
        """
        try:
            values = json.loads(text)
            if values["schema_version"] != SCHEMA_VERSION:
                raise ValueError(
                    f"its schema_version is {values['schema_version']}, this version reads {SCHEMA_VERSION}"
                )
            values["measurements"] = [Measurement(**each) for each in values["measurements"]]
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"This is not a report of genaf_hf: {error}.") from error

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "RobustnessReport":
        return cls.from_json(Path(path).read_text(encoding="utf-8"))
