"""The whole circle against a local Hub: harden, push, pull elsewhere, audit, update the card, leaderboard, browser."""

from pathlib import Path

import pytest
from browser import browser  # noqa: F401
from hub_user import TOKEN, run_as_user
from test_hub import PUSH_PUBLIC_THINGS, QUICK, QUICK_ATTACKS

from genaf_hf.evaluation.report import RobustnessReport

ROOT = Path(__file__).parents[1]
AUDIT = {"attacks": "l4a,fgsm", "attack_settings": '{"l4a": {"steps": 2}}', "sweep": "2", "update_card": True}


@pytest.fixture(scope="module")
def walked(hub, tmp_path_factory, dataset, encoders) -> Path:
    """A folder with the hardened model, the audit and the leaderboard, each made by its recipe from the Hub alone."""
    place = tmp_path_factory.mktemp("circle")
    dataset.save_to_disk(place / "images")

    def run(*command, token: str | None = TOKEN, **flags) -> None:
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        done = run_as_user(hub, place, *command, *words, token=token)
        assert done.returncode == 0, done.stderr

    run("-c", PUSH_PUBLIC_THINGS, place / "images", encoders["mae"])
    names = {"dataset_name": "someone/colours", "model_name_or_path": "someone/encoder"}
    pushing = {"push_to_hub": True, "push_anyway": True}
    run(ROOT / "recipes/genaf_vit.py", **names, output_dir="hardened", **pushing, **QUICK, **QUICK_ATTACKS)
    names["model_name_or_path"] = "someone/hardened"
    run(ROOT / "recipes/audit.py", **names, output_dir="audit", **AUDIT)
    run(ROOT / "recipes/leaderboard.py", output_dir="leaderboard", token=None)
    for path, content in hub.repositories["models", "someone/hardened"].files().items():
        (place / "published" / path).parent.mkdir(parents=True, exist_ok=True)
        (place / "published" / path).write_bytes(content)
    return place


def test_the_published_reports_are_those_of_the_runs(walked):
    for ours, published in (("hardened/report.json", "report.json"), ("audit/report.json", "audit/report.json")):
        assert (walked / "published" / published).read_bytes() == (walked / ours).read_bytes()


def test_the_numbers_of_both_reports_are_on_the_leaderboard(walked, browser):  # noqa: F811
    page = browser.new_page()
    page.goto((walked / "leaderboard/index.html").as_uri())
    page.get_by_role("button", name="Show all").click()
    table = page.locator("table").inner_text()
    found = [
        (report.measurement(model, attack), attack)
        for place, model in (("hardened", "hardened"), ("audit", "someone/hardened"))
        for report in [RobustnessReport.load(walked / place / "report.json")]
        for attack in report.attacks
        if attack != "clean"
    ]
    assert [attack for _, attack in found] == ["l4a", "l4a-adaptive", "pgd", "l4a", "l4a-adaptive", "fgsm"]
    for measurement, attack in found:
        assert attack in table
        assert f"{measurement.correct}/{measurement.count}" in table
        assert f"{measurement.accuracy.value:.1%}" in table
    assert "someone/hardened" in table
    page.close()
