"""What benchmarks/ensembles.py makes of what it measured."""

import pytest
from conftest import benchmark_module


@pytest.fixture(scope="module")
def benchmark():
    return benchmark_module("ensembles")


def test_a_set_is_held_against_each_of_its_own_and_the_best(benchmark):
    alone = {0: [9, 30, 40], 1: [50, 9, 60], 2: [70, 80, 9]}
    sets = {(0, 1): [12, 13, 44], (0, 2): [14, 50, 15], (1, 2): [58, 16, 17]}
    # Of the third the sets leave 44, where their own leave 40 and 60; 50, where these leave 30 and 80; 58, 50 and 70.
    assert benchmark.differences(sets, alone, among=False) == [-6, -5, -2]
    assert benchmark.differences(sets, alone, among=False, of=min) == [4, 20, 8]
    # Of the first of their own 12, where these leave 9 and 50, and so on.
    assert benchmark.differences(sets, alone, among=True) == [-17.5, -6.5, -25.5, -9.5, -28.5, -17.5]


def test_the_interval_is_student_s(benchmark):
    # Of 1, 2, 3: the mean 2, the standard error 1 / sqrt(3), and 4.3027 of them with two degrees of freedom.
    assert benchmark.interval([1, 2, 3]) == "+2.0 [-0.5, +4.5]"
