"""What README tells its reader to type."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml
from cards import blocks
from transformers import HfArgumentParser

from genaf_hf.attacks import ATTACKS
from genaf_hf.pipelines.attack_arguments import DEFAULT_ATTACKS, named_attacks
from genaf_hf.pipelines.audit_arguments import AuditArguments

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXTRAS = {"autoattack"}  # attacks that need more than the first installation


def commands(shell: str) -> list[tuple[str, list[str]]]:
    """The words of each command of ours: its name, and what comes after it."""
    lines = shell.replace("\\\n", " ").splitlines()
    parts = [shlex.split(part.strip()) for line in lines for part in line.split("&&")]
    found = []
    for words in parts:
        for at, word in enumerate(words):
            if re.fullmatch(r"recipes/\w+\.py", word):
                found.append((re.search(r'main\("(\w+)"', (ROOT / word).read_text())[1], words[at + 1 :]))
            elif word in ("genaf-hf", "genaf_hf.cli"):
                found.append((words[at + 1], words[at + 2 :]))
    return found


def test_the_audit_needs_no_more_than_the_first_installation():
    [words] = [words for command, words in commands("\n".join(blocks(README, "bash"))) if command == "audit"]
    (arguments,) = HfArgumentParser(AuditArguments).parse_args_into_dataclasses(words)
    assert arguments.attacks is None
    assert not EXTRAS & set(DEFAULT_ATTACKS.split(","))
    assert named_attacks(None).keys() - EXTRAS == set(DEFAULT_ATTACKS.split(","))


def test_every_attack_is_in_the_table():
    assert [name for name in ATTACKS if f"`{name}`" not in README] == []


def test_the_python_example_trains_as_the_recipe_of_its_family_does():
    [example] = [block for block in blocks(README, "python") if "GenAFTrainer(" in block]
    [call] = [
        node
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "GenAFConfig"
    ]
    given = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
    recipe = yaml.safe_load((ROOT / "genaf_hf/cli/configs/encoder.yaml").read_text(encoding="utf-8"))
    trained_by = {name: value for name, value in recipe.items() if not name.startswith("save_")}
    assert {name: value for name, value in given.items() if name != "output_dir"} == trained_by


@pytest.mark.slow(reason="trains")
def test_the_python_example_runs_as_written(dataset, encoders, tmp_path, monkeypatch):
    [example] = [block for block in blocks(README, "python") if "GenAFTrainer(" in block]
    dataset.save_to_disk(tmp_path / "colours")
    quick = 'max_steps=2, warmup_steps=0, save_strategy="no", report_to="none", use_cpu=True'
    for written, here in (
        ("uoft-cs/cifar10", str(tmp_path / "colours")),
        ("facebook/dino-vits16", encoders["dino"]),
        ("GenAFConfig(\n", f"GenAFConfig({quick},\n"),
    ):
        assert example.count(written) == 1
        example = example.replace(written, here)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "dino-cifar10-genaf/model.safetensors").exists()
