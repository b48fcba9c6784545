"""What docs/, CONTRIBUTING and the notebook tell their readers: that it is there, and that it runs."""

import ast
import json
import re
from functools import cache
from importlib.metadata import metadata
from pathlib import Path

import pytest
import torch
import yaml
from cards import blocks
from test_house import FLOORS
from test_readme import commands
from train_tiny import copied_weights, tiny_trainer

import genaf_hf
from genaf_hf.attacks import ATTACKS
from genaf_hf.cli.command_line import FlagParser
from genaf_hf.cli.help_pages import COMMANDS, module_of
from genaf_hf.evaluation.gate import check_gate
from genaf_hf.evaluation.threats import threats_of
from genaf_hf.pipelines.attack_arguments import named_attacks
from genaf_hf.pipelines.audit_arguments import AuditArguments
from genaf_hf.sharing.layout import AUDITED

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"))
}
NAMED = r"(?<![\w./-])(?:recipes|benchmarks|tests|model_cards|genaf_hf|docs)/[\w./-]*\w"
MADE = {"docs/reference", "docs/reference/index.html"}  # by the reader


def anchors(page: str) -> set[str]:
    """What the headings of a page are called in links, as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", PAGES[page], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[page]):
        place, _, anchor = link.partition("#")
        path = (ROOT / page).parent.joinpath(place).resolve() if place else ROOT / page
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(str(path.relative_to(ROOT))), link


def test_every_extra_that_is_named_is_there():
    known = {*metadata("genaf_hf").get_all("Provides-Extra")}
    [sentence] = re.findall(r"Extras are ([^.]*)\.", PAGES["docs/getting-started.md"])
    assert set(re.findall("`(.*?)`", sentence)) == known
    given = re.findall(r"genaf_hf\[([\w,]+)\]|'\.\[([\w,]+)\]'", "".join(PAGES.values()) + said())
    assert {name for found in given for names in found for name in names.split(",") if name} <= known


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_is_there(page):
    named = set(re.findall(NAMED, PAGES[page])) - MADE
    assert [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).exists()] == []


def test_the_picture_of_the_house_is_the_one_that_holds():
    [picture] = [block for block in blocks(PAGES["CONTRIBUTING.md"], "") if "pipelines" in block]
    names = [name for line in picture.splitlines() for name in re.split(" {3,}", line)[0].split()]
    assert names == [*FLOORS]


def said() -> str:
    """All sentences of the package, without what is filled in."""
    files = (path.read_text(encoding="utf-8") for path in Path(genaf_hf.__file__).parent.rglob("*.py"))
    nodes = (node for file in files for node in ast.walk(ast.parse(file)))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_what_is_said_to_be_said_is():
    sentences = said()
    quoted = re.findall(r'^\| "([^"]+)" \|', PAGES["docs/troubleshooting.md"], re.MULTILINE)
    assert len(quoted) > 10
    assert [words for words in quoted if words not in sentences] == []


def run(page: str, encoder: str = "") -> dict:
    """All names after the Python of a page was run."""
    names = {}
    for block in blocks(PAGES[page], "python"):
        exec(compile(block.replace("facebook/dino-vits16", encoder), page, "exec"), names)
    return names


@pytest.mark.usefixtures("own_registries")
def test_the_attacks_of_the_page_can_be_used_as_it_says(encoders):
    names = run("docs/add-an-attack.md", encoders["dino"])
    assert 0 < names["perturbation"].delta.abs().max() <= torch.tensor(10 / 255)
    assert 0 < (names["attacked_images"] - names["images"]).abs().max() <= 0.05 + 1e-6
    assert ATTACKS["random-search"].knowledge == "model's answers"


@pytest.mark.slow  # trains
@pytest.mark.usefixtures("own_registries")
def test_the_defence_of_the_page_trains(tmp_path):
    names = run("docs/add-a-defence.md")
    assert names["config"].eps == 2 / 255
    settings = {"defence": "logit-pairing", "defence_settings": {"weight": 2.0}, "logging_steps": 1, "max_steps": 1}
    trainer = tiny_trainer(tmp_path, **settings)
    before = copied_weights(trainer.model)
    trainer.adversarial_finetune()
    [logged] = [log for log in trainer.state.log_history if "pairing" in log]
    assert logged["loss"] == pytest.approx(logged["adversarial_loss"] + logged["pairing"], abs=1e-4)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


# Of all commands, and of launchers.
OF_OTHERS = {"debug", "help", "help-all", "fix", "multi_gpu", "num_processes", "nproc_per_node"}


@cache
def flags_of(command: str) -> set[str]:
    return set(module_of(command).parser().named)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(PAGES[page], "bash")])
def test_every_flag_of_a_command_is_one_of_its_own(page):
    for command, words in commands("\n".join(blocks(PAGES[page], "bash"))):
        flags = {word.removeprefix("--") for word in words if word.startswith("--")}
        assert flags - flags_of(command) == set()


def test_the_commands_of_the_workflow_can_be_run():
    [workflow] = (yaml.safe_load(block) for block in blocks(PAGES["docs/gate.md"], "yaml"))
    steps = [step["run"] for step in workflow["jobs"]["audit"]["steps"] if "run" in step]
    (_, audited), (_, compared) = (found for step in steps for found in commands(step))
    arguments = FlagParser((AuditArguments,)).parse_args(audited)
    threats = threats_of(named_attacks(arguments.attacks))
    check_gate(arguments.fail_under, arguments.under, {each.name: each.knowledge for each in threats})
    assert compared[:2] == ["released", arguments.output_dir]
    assert arguments.answers


def test_what_an_audit_leaves_is_told():
    assert set(AUDITED) <= {name.rstrip("/") for name in re.findall(r"`([a-z_A-Z/.]+)`", PAGES["docs/gate.md"])}


@pytest.mark.parametrize("page", [page for page in PAGES if page == "README.md" or page.startswith("docs/")])
def test_every_flag_that_is_told_is_there(page):
    known = set().union(*map(flags_of, COMMANDS))
    text = re.sub(r"`python benchmarks/[^`]*`", "", PAGES[page])
    assert set(re.findall(r"(?<![-\w])--([a-z][a-z0-9_-]+)", text)) - known - OF_OTHERS == set()


@pytest.mark.slow  # trains two models and measures them
@pytest.mark.usefixtures("quick_checks")
def test_the_notebook_runs_as_it_is_written(encoders, tmp_path, monkeypatch):
    import matplotlib as mpl

    cells = json.loads((ROOT / "docs/digits.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    monkeypatch.chdir(tmp_path)
    names = {}
    with mpl.rc_context({"backend": "agg"}):
        for cell in (cell for cell in cells if cell["cell_type"] == "code"):
            code = "".join(cell["source"]).replace("digits-supervised", encoders["dino"])
            code = code.replace(
                'load_images("digits"', 'load_images("digits", max_train_samples=200, max_eval_samples=60'
            )
            code = re.sub(r"STEPS = \d+", "STEPS = 2", re.sub(r"\bsteps=\d\d+", "steps=2", code))
            exec(compile(code, cell["id"], "exec"), names)
    assert [*names["report"].models] == ["undefended", "hardened"]
    assert [*names["findings"].models] == ["hardened-model"]
    assert 0 < names["perturbation"].delta.abs().max() <= torch.tensor(0.3)
    assert (tmp_path / "digits-notebook/hardened-model/model.safetensors").exists()


@pytest.mark.slow  # imports all that is documented, and renders some fifty pages
def test_the_reference_is_built_without_a_warning_and_holds_every_public_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from reference import build

    build(tmp_path)
    page = (tmp_path / "genaf_hf.html").read_text(encoding="utf-8")
    assert [name for name in genaf_hf.__all__ if f'id="{name}"' not in page] == []
    assert (tmp_path / "index.html").exists()
