"""Share of attacked images that are still classified correctly."""

import datasets
import evaluate

DESCRIPTION = """
The share of images that a classifier still gets right while they are attacked.
"""
INPUTS = """
Args:
    predictions: (n,) class ids that the model gave the attacked images.
    references: (n,) class ids that are right.

Returns:
    robust_accuracy: float in [0, 1]; NaN without images.
    correct: int, how many images were classified correctly.
    count: int, how many images there were.

Examples:
    >>> metric = evaluate.load("./robust_accuracy")
    >>> metric.compute(predictions=[0, 1, 2, 2], references=[0, 1, 1, 2])["robust_accuracy"]
    0.75
"""
CITATION = """
@inproceedings{croce2021robustbench,
  title={{RobustBench}: a standardized adversarial robustness benchmark},
  author={Croce, Francesco and Andriushchenko, Maksym and Sehwag, Vikash and Debenedetti, Edoardo and
          Flammarion, Nicolas and Chiang, Mung and Mittal, Prateek and Hein, Matthias},
  booktitle={NeurIPS Datasets and Benchmarks Track},
  year={2021},
  url={https://arxiv.org/abs/2010.09670}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class RobustAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            inputs_description=INPUTS,
            citation=CITATION,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
            reference_urls=["https://arxiv.org/abs/2010.09670"],
            license="Apache-2.0",
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float | int]:
        correct = sum(given == right for given, right in zip(predictions, references, strict=True))
        count = len(references)
        return {"robust_accuracy": correct / count if count else float("nan"), "correct": correct, "count": count}
