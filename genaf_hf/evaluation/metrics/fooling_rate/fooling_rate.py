"""Share of images whose prediction an attack changes."""

import datasets
import evaluate

DESCRIPTION = """
The share of images that a classifier predicts otherwise when they are attacked than when they are clean. It needs no
labels.
"""
INPUTS = """
Args:
    predictions: (n,) class ids that the model gave the attacked images.
    references: (n,) class ids that the model gave the clean images; not the labels.

Returns:
    fooling_rate: float in [0, 1]; NaN without images.
    changed: int, how many predictions changed.
    count: int, how many images there were.

Examples:
    >>> metric = evaluate.load("./fooling_rate")
    >>> metric.compute(predictions=[0, 1, 2, 2], references=[0, 1, 1, 2])["fooling_rate"]
    0.25
"""
CITATION = """
@inproceedings{moosavidezfooli2017universal,
  title={Universal Adversarial Perturbations},
  author={Moosavi-Dezfooli, Seyed-Mohsen and Fawzi, Alhussein and Fawzi, Omar and Frossard, Pascal},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2017},
  url={https://arxiv.org/abs/1610.08401}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class FoolingRate(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            inputs_description=INPUTS,
            citation=CITATION,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
            reference_urls=["https://arxiv.org/abs/1610.08401"],
            license="Apache-2.0",
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float | int]:
        changed = sum(attacked != clean for attacked, clean in zip(predictions, references, strict=True))
        count = len(references)
        return {"fooling_rate": changed / count if count else float("nan"), "changed": changed, "count": count}
