from math import log
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from genaf_hf.training.genetic_regularization import genetic_regularization
from genaf_hf.training.global_batch import Logits
from genaf_hf.training.objectives.genetic import Genetic

# The authors' values, summed over all pairs, and their gradients, in float64.
GOLDEN = load_file(Path(__file__).with_name("golden") / "genetic_regularization.safetensors")
CASES = sorted({key.split(".")[0] for key in GOLDEN})


def golden(case: str) -> dict[str, torch.Tensor]:
    return {key.split(".")[1]: value for key, value in GOLDEN.items() if key.split(".")[0] == case}


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def inputs(case: str) -> tuple[torch.Tensor, ...]:
    known = golden(case)
    free = [known[name].clone().requires_grad_() for name in ("first", "second", "sample_weight")]
    return free[0], free[1], known["labels"], free[2]


def test_all_seven_golden_cases_are_there():
    assert CASES == ["0", "1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_the_authors(case):
    first, second, labels, sample_weight = inputs(case)
    loss = genetic_regularization(first, second, labels, sample_weight, reduction="sum")
    gradients = torch.autograd.grad(loss, (first, second, sample_weight))
    known = golden(case)
    assert_close(loss, known["loss"])
    for gradient, name in zip(gradients, ("grad_first", "grad_second", "grad_sample_weight"), strict=True):
        assert_close(gradient, known[name])


@pytest.mark.parametrize("case", CASES)
def test_gradient_through_the_weights_is_the_authors(case):
    known = golden(case)
    first, labels = known["first"].clone().requires_grad_(), known["labels"]
    sample_weight = F.cross_entropy(first, labels, reduction="none")
    assert_close(sample_weight, known["sample_weight"])
    loss = genetic_regularization(first, known["second"], labels, sample_weight, reduction="sum")
    assert_close(torch.autograd.grad(loss, first)[0], known["grad_first_through_weight"])


@pytest.mark.parametrize("case", CASES)
def test_mean_is_the_sum_over_the_number_of_rows_and_the_default(case):
    arguments = inputs(case)
    total = genetic_regularization(*arguments, reduction="sum")
    mean = genetic_regularization(*arguments, reduction="mean")
    assert_close(mean, total / len(arguments[0]))
    assert torch.equal(mean, genetic_regularization(*arguments))


def divergence(q: list[float], p: list[float]) -> float:
    """Both Kullback-Leibler terms of one row by hand; 0 log 0 is 0."""
    return sum(
        (a * log(a / b) if a else 0) + ((1 - a) * log((1 - a) / (1 - b)) if a < 1 else 0)
        for a, b in zip(q, p, strict=True)
    )


# The rows point right, up and left: distances 1, 2 and 1, less each row's smallest, 1, so that only the ends differ.
LOGITS = torch.tensor([[3.0, 0.0], [0.0, 0.5], [-2.0, 0.0]], dtype=torch.float64)
RELATIONS = [[0.4, 0.4, 0.2], [1 / 3, 1 / 3, 1 / 3], [0.2, 0.4, 0.4]]


def test_without_weight_the_target_is_followed():
    alike = torch.ones(3, 2, dtype=torch.float64)
    loss = genetic_regularization(LOGITS, alike, torch.tensor([0, 0, 1]), torch.zeros(3), reduction="sum")
    expected = sum(divergence([1 / 3, 1 / 3, 1 / 3], row) for row in RELATIONS)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_with_a_huge_weight_the_labels_are_followed():
    weight = torch.full((3,), 1e6, dtype=torch.float64)
    loss = genetic_regularization(LOGITS, LOGITS, torch.tensor([0, 0, 1]), weight, reduction="sum")
    by_labels = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    expected = sum(divergence(q, p) for q, p in zip(by_labels, RELATIONS, strict=True))
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_equal_relations_cost_nothing():
    loss = genetic_regularization(LOGITS, 5 * LOGITS, torch.tensor([0, 0, 1]), torch.zeros(3))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match='"average"'):
        genetic_regularization(LOGITS, LOGITS, torch.tensor([0, 0, 1]), torch.zeros(3), reduction="average")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "logits",
    [torch.ones(4, 3), torch.zeros(4, 3), torch.tensor([[1.0, 2.0, 3.0]]), torch.eye(3)[[0, 0, 1, 1]] * 1e4],
    ids=["identical rows", "zero logits", "one sample", "large logits"],
)
def test_value_and_gradients_stay_finite(logits, dtype):
    first, second = (logits.to(dtype).requires_grad_() for _ in range(2))
    labels = torch.arange(len(logits)) % 3
    sample_weight = F.cross_entropy(first, labels, reduction="none")
    loss = genetic_regularization(first, second, labels, sample_weight)
    assert loss.dtype == dtype
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, (first, second)):
        assert gradient.isfinite().all()


def test_the_weight_is_never_negative_where_clean_and_attacked_logits_are_the_same_but_for_rounding():
    weights = []
    for seed in range(60):
        torch.manual_seed(seed)
        labels = torch.arange(8) % 4
        clean = 11 * torch.nn.functional.one_hot(labels, 4) + 0.1 * torch.randn(8, 4)
        own = Logits(clean, clean + 1e-6 * torch.randn(8, 4), labels)
        terms = Genetic(0.5, 200.0, 0.2)(own, lambda own=own: own, eps_share=1.0, label_smoothing=0.0).terms
        weights.append((terms["genetic_loss"] / terms["genetic_regularization"]).item())
    assert min(weights) >= 0
    assert max(weights) <= 200.001
