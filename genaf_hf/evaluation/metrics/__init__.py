"""What an attack did to predictions, as metrics of `evaluate`; each folder is a Space of the Hub as it is."""

from pathlib import Path

import evaluate

FOLDER = Path(__file__).parent
METRICS = ("attack_success_rate", "fooling_rate", "robust_accuracy")


def load_metric(name: str) -> evaluate.Metric:
    """A metric of this package by name, from its own folder; nothing is fetched.

    It computes on what the calling process gives it, in memory, so that any number of processes can load and compute
    at the same time.

    Raises:
        ValueError: when there is no such metric; lists those there are.
    """
    if name not in METRICS:
        raise ValueError(f'There is no metric "{name}"; there are {", ".join(METRICS)}.')
    return evaluate.load(str(FOLDER / name), keep_in_memory=True)
