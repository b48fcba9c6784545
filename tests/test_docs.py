"""What docs/ and CONTRIBUTING tell their readers: that it is there, and that it runs."""

import re
from pathlib import Path

import pytest
from test_house import FLOORS

import genaf_hf
from genaf_hf.attacks import ATTACKS, registry

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"))
}
NAMED = r"(?<![\w./-])(?:recipes|benchmarks|tests|model_cards|genaf_hf|docs)/[\w./-]*\w"
MADE = {"docs/reference", "docs/reference/index.html"}  # by the reader


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
    return [text for kind, text in found if kind == language]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    links = {link.split("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[page])} - {""}
    assert [link for link in sorted(links) if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_is_there(page):
    named = set(re.findall(NAMED, PAGES[page])) - MADE
    assert [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).exists()] == []


def test_the_picture_of_the_house_is_the_one_that_holds():
    [picture] = [block for block in blocks("CONTRIBUTING.md", "") if "pipelines" in block]
    names = [name for line in picture.splitlines() for name in re.split(" {3,}", line)[0].split()]
    assert names == [*FLOORS]


def test_the_attacks_of_the_page_can_be_used_as_it_says(encoders, monkeypatch):
    monkeypatch.setattr(registry, "ATTACKS", ATTACKS.__class__(ATTACKS))
    monkeypatch.setattr("genaf_hf.attacks.ATTACKS", registry.ATTACKS)
    used, names = {}, {}
    for block in blocks("docs/add-an-attack.md", "python"):
        exec(compile(block.replace("facebook/dino-vits16", encoders["dino"]), "add-an-attack.md", "exec"), names)
        used |= names
    images = used["images"]
    assert 0 < used["perturbation"].delta.abs().max() <= 10 / 255
    assert 0 < (used["attacked_images"] - images).abs().max() <= 0.05 + 1e-6
    assert registry.ATTACKS["random-search"].knowledge == "model's answers"


@pytest.mark.slow  # imports all that is documented, and renders some fifty pages
def test_the_reference_is_built_without_a_warning_and_holds_every_public_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from reference import build

    build(tmp_path)
    page = (tmp_path / "genaf_hf.html").read_text(encoding="utf-8")
    assert [name for name in genaf_hf.__all__ if f'id="{name}"' not in page] == []
    assert (tmp_path / "index.html").exists()
