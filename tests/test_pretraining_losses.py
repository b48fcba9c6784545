"""Losses of pre-training: values from the papers' equations."""

import math

import pytest
import torch

from genaf_hf.pretraining.losses import dino_loss, next_center, nt_xent, teacher_momentum


def test_nt_xent_is_the_papers_equation():
    """Equation 1, for every ordered pair of views of one image, with 1 for k != i."""
    n, temperature = 5, 0.3
    first, second = torch.randn(2, n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = [row.tolist() for pair in zip(first, second, strict=True) for row in pair]

    def similarity(u: list[float], v: list[float]) -> float:
        dot = sum(a * b for a, b in zip(u, v, strict=True))
        return dot / math.sqrt(sum(a * a for a in u) * sum(b * b for b in v))

    def loss(i: int, j: int) -> float:
        others = sum(math.exp(similarity(z[i], z[k]) / temperature) for k in range(2 * n) if k != i)
        return -math.log(math.exp(similarity(z[i], z[j]) / temperature) / others)

    expected = sum(loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k) for k in range(n)) / (2 * n)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_nt_xent_of_views_that_are_all_alike_is_the_log_of_the_number_of_others():
    same = torch.ones(4, 3, dtype=torch.float64)
    assert nt_xent(same, same, 0.1).item() == pytest.approx(math.log(7))


def test_dino_loss_by_hand():
    """Two global views and a local one, one image, two prototypes, both temperatures 1."""
    teacher = [torch.tensor([[math.log(3.0), 1.0]]), torch.tensor([[0.0, 1.0 + math.log(4.0)]])]
    center = torch.tensor([0.0, 1.0])  # leaves shares 3/4, 1/4 and 1/5, 4/5
    student = [torch.log(torch.tensor([row])) for row in ([0.5, 0.5], [0.9, 0.1], [0.2, 0.8])]
    pairs = [
        0.75 * math.log(0.9) + 0.25 * math.log(0.1),
        0.75 * math.log(0.2) + 0.25 * math.log(0.8),
        0.2 * math.log(0.5) + 0.8 * math.log(0.5),
        0.2 * math.log(0.2) + 0.8 * math.log(0.8),
    ]
    loss = dino_loss(student, teacher, center, student_temperature=1.0, teacher_temperature=1.0)
    assert loss.item() == pytest.approx(-sum(pairs) / 4, abs=1e-6)


def test_dino_sharpens_the_teacher_and_warms_the_student():
    """A teacher at temperature 1/2 squares its odds; a student at 2 takes the root of its odds."""
    teacher = [torch.log(torch.tensor([[2.0, 1.0]])), torch.log(torch.tensor([[2.0, 1.0]]))]
    student = [torch.log(torch.tensor([[9.0, 1.0]])), torch.log(torch.tensor([[9.0, 1.0]]))]
    loss = dino_loss(student, teacher, torch.zeros(2), student_temperature=2.0, teacher_temperature=0.5)
    assert loss.item() == pytest.approx(-(0.8 * math.log(0.75) + 0.2 * math.log(0.25)), abs=1e-6)


def test_dino_has_no_gradient_to_the_teacher():
    logits = [torch.randn(3, 4, requires_grad=True) for _ in range(4)]
    dino_loss(logits[:2], logits[2:], torch.zeros(4), student_temperature=0.1, teacher_temperature=0.04).backward()
    assert all(each.grad is not None for each in logits[:2])
    assert all(each.grad is None for each in logits[2:])


def test_center_follows_the_mean_of_the_teachers_logits():
    center = next_center(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 0.0], [5.0, 4.0]]), momentum=0.9)
    assert center.tolist() == pytest.approx([0.9 * 1 + 0.1 * 4, 0.9 * 2 + 0.1 * 2])


def test_teacher_momentum_rises_to_one_by_a_cosine():
    assert [teacher_momentum(0.996, share) for share in (0, 1 / 3, 0.5, 1)] == pytest.approx(
        [0.996, 0.997, 0.998, 1.0], abs=1e-12
    )
