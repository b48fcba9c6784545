"""What benchmarks/transfer.py makes of what it measured."""

import pytest
from conftest import benchmark_module

pytestmark = pytest.mark.usefixtures("quick_checks")


@pytest.fixture(scope="module")
def benchmark():
    return benchmark_module("transfer")


def test_what_leads_to_an_image_says_how_many_are_taken_for_its_class(benchmark, vit, dataset):
    from genaf_hf import PixelModel, with_pixel_values
    from genaf_hf.evaluation.attacker import Attacker
    from genaf_hf.evaluation.evaluate import evaluate_threats
    from genaf_hf.evaluation.threats import CraftedThreat

    model = PixelModel(*vit).eval()
    attacker = Attacker.of(dataset["validation"], "colours", model, model)
    attacks = benchmark.wanted(model.image_size)
    names = [name for name in attacks if name.endswith("to an image")]
    assert len(names) == 3
    threats = [
        CraftedThreat(name, "public encoder", attack=attacks[name].configure(steps=2, eps=0.5)).crafted(
            attacker, {"m": model}
        )
        for name in names
    ]
    assert len({threat.perturbations["m"].delta.sum().item() for threat in threats}) == 3  # none is another's twin
    report = evaluate_threats({"m": model}, with_pixel_values(dataset["test"], model.processor), threats)
    wanted = model(attacker.images[:1]).argmax().item()
    table = benchmark.each_attack(report, threats, "m", model, attacker).splitlines()
    for name in names:
        [line] = (line for line in table if line.startswith(f"| {name}"))
        taken = [report.answers["m"][each].predictions.count(wanted) / 18 for each in (name, "clean")]
        assert "{:.1%} (no attack {:.1%})".format(*taken) in line
