"""Share of the correctly classified images that an attack gets misclassified."""

import datasets
import evaluate

DESCRIPTION = """
The share of images that a classifier gets wrong while they are attacked, among those it gets right when they are clean.
"""
INPUTS = """
Args:
    predictions: (n,) class ids that the model gave the attacked images.
    references: (n,) class ids that are right.
    clean_predictions: (n,) class ids that the model gave the clean images.

Returns:
    attack_success_rate: float in [0, 1]; NaN when no clean image was classified correctly.
    fooled: int, how many images were classified correctly clean and wrongly attacked.
    count: int, how many images were classified correctly clean.

Examples:
    >>> metric = evaluate.load("./attack_success_rate")
    >>> results = metric.compute(predictions=[1, 1, 0, 2], references=[0, 1, 1, 2], clean_predictions=[0, 1, 0, 2])
    >>> results["fooled"], results["count"]
    (1, 3)
"""
CITATION = """
@inproceedings{dong2020benchmarking,
  title={Benchmarking Adversarial Robustness on Image Classification},
  author={Dong, Yinpeng and Fu, Qi-An and Yang, Xiao and Pang, Tianyu and Su, Hang and Xiao, Zihao and Zhu, Jun},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2020},
  url={https://arxiv.org/abs/1912.11852}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class AttackSuccessRate(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            inputs_description=INPUTS,
            citation=CITATION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("int64"),
                    "references": datasets.Value("int64"),
                    "clean_predictions": datasets.Value("int64"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/1912.11852"],
            license="Apache-2.0",
        )

    def _compute(
        self, predictions: list[int], references: list[int], clean_predictions: list[int]
    ) -> dict[str, float | int]:
        rows = zip(predictions, references, clean_predictions, strict=True)
        wrong = [given != right for given, right, clean in rows if clean == right]
        fooled, count = sum(wrong), len(wrong)
        return {"attack_success_rate": fooled / count if count else float("nan"), "fooled": fooled, "count": count}
