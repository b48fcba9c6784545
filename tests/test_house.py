"""Where our modules stand, and what they may know."""

import ast
import re
import sys
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from importlib.util import find_spec, resolve_name
from pathlib import Path

import pytest

import genaf_hf

ROOT = Path(genaf_hf.__file__).parent
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
OF_TRANSFORMERS = {"transformers", "accelerate", "datasets", "peft"}
KNOW_ONLY_TORCH = [
    *(f"genaf_hf.models.{name}" for name in ("blocks", "head", "partial_forward", "pixel_model")),
    *(f"genaf_hf.models.families.{path.stem}" for path in sorted((ROOT / "models" / "families").glob("[!_]*.py"))),
    *("genaf_hf.training.genetic_regularization", "genaf_hf.training.layers"),
    *("genaf_hf.pretraining.losses", "genaf_hf.pretraining.augmentation"),
    *("genaf_hf.attacks", *(f"genaf_hf.attacks.{path.stem}" for path in sorted((ROOT / "attacks").glob("[!_]*.py")))),
]

# From the top down. A module imports what stands on its own floor or below; the doors are for others than us.
DOORS = ("__init__", "audit", "audit_arguments")
FLOORS = (
    *("cli", "adapter_search", "leaderboard", "demo", "pretraining", "pipelines", "training", "sharing"),
    *("evaluation", "attacks", "models", "data", "runs", "hub", "values", "errors"),
)
FILES_BESIDE_THE_FOLDERS = 5

# Modules of libraries of which we use what is private, in one file each name, and by versions with an upper bound;
# and of those of which we use nothing of that kind.
PRIVATE_IS_USED = {
    "transformers": ("configuration_utils", "hf_argparser", "modeling_utils", "trainer", "training_args"),
    "optuna": ("study.study",),
}
PRIVATE_IS_NOT_USED = (
    "accelerate.accelerator",
    "peft.peft_model",
    "peft.tuners.tuners_utils",
    "datasets.arrow_dataset",
)
FOR_SUBCLASSES = {"_init_weights", "_info"}  # which libraries ask every model, and every metric, to define


def source(module: str) -> Path | None:
    """The file of a module of ours; None for what is none."""
    path = ROOT.parent.joinpath(*module.split("."))
    files = [path.with_suffix(".py"), path / "__init__.py"] if module.split(".")[0] == "genaf_hf" else []
    return next((file for file in files if file.exists()), None)


@cache
def imported(module: str) -> set[str]:
    """Modules of ours and libraries that a module imports, also inside of its functions."""
    path, found = source(module), set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    ours = {name for name in found if source(name)}
    return ours | {name.split(".")[0] for name in found if name.split(".")[0] != "genaf_hf"}


def ways_to(libraries: set[str], module: str) -> list[str]:
    """How a module reaches libraries through modules of ours, beside what `genaf_hf/__init__.py` imports."""
    ways, seen, waiting = [], {module}, [(module,)]
    for way in waiting:
        for name in sorted(imported(way[-1]) - seen):
            if name in libraries:
                ways.append(" -> ".join((*way, name)))
            elif source(name):
                seen.add(name)
                waiting.append((*way, name))
    return ways


@pytest.mark.parametrize("module", KNOW_ONLY_TORCH)
def test_attacks_losses_and_layers_do_not_reach_transformers(module):
    assert ways_to(OF_TRANSFORMERS, module) == []


def test_the_hub_is_known_to_perturbations_alone():
    assert [module for module in KNOW_ONLY_TORCH if "huggingface_hub" in imported(module)] == [
        "genaf_hf.attacks.perturbation"
    ]


def test_ways_lead_through_our_modules_and_into_functions():
    assert ways_to({"jinja2"}, "genaf_hf.sharing.result_folder") == [
        "genaf_hf.sharing.result_folder -> genaf_hf.sharing.model_card -> jinja2"
    ]
    assert ways_to({"pyautoattack"}, "genaf_hf.attacks") == [
        "genaf_hf.attacks -> genaf_hf.attacks.autoattack -> pyautoattack"
    ]


def modules() -> list[str]:
    """All that are ours."""
    files = [file.relative_to(ROOT.parent).with_suffix("") for file in sorted(ROOT.rglob("*.py"))]
    return [".".join(file.parts).removesuffix(".__init__") for file in files]


def floor(module: str) -> int:
    """How far down a module stands; the doors stand above all floors."""
    place = module.split(".")[1] if "." in module else "__init__"
    return -1 if place in DOORS else FLOORS.index(place)


def ours(module: str) -> set[str]:
    """Modules of ours that a module imports."""
    return {name for name in imported(module) if source(name)}


def declared() -> set[str]:
    """Libraries that pyproject.toml names, needed and extra ones."""
    return set(re.findall(r'"([a-z0-9-]+)[>=]=', PYPROJECT.read_text(encoding="utf-8")))


def test_every_library_that_is_imported_is_declared():
    found = {name for module in modules() for name in imported(module) if not source(name)}
    called = packages_distributions()  # which tells PIL's own name, pillow, where it is installed
    libraries = {called.get(name, [name])[0].lower().replace("_", "-") for name in found - sys.stdlib_module_names}
    assert libraries - declared() == set()


def test_every_module_stands_on_a_floor():
    files = {path.stem for path in ROOT.glob("*.py")}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert len(files) <= FILES_BESIDE_THE_FOLDERS
    assert files | folders == {*DOORS, *FLOORS}


@pytest.mark.parametrize("module", modules())
def test_imports_run_downwards(module):
    assert [name for name in sorted(ours(module)) if floor(name) < floor(module)] == []


def test_no_module_imports_itself_through_others():
    assert len([*TopologicalSorter({module: ours(module) for module in modules()}).static_order()]) == len(modules())


@cache
def private_names(path: Path) -> set[str]:
    """Names with one underscore that a file uses, defines, passes or spells as a text."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    names = {getattr(node, field, None) for node in nodes for field in ("attr", "arg", "name", "value")}
    return {name for name in names if isinstance(name, str) and re.fullmatch(r"_[a-z]\w+", name)} - FOR_SUBCLASSES


def private_uses(*of_libraries: str) -> dict[str, set[str]]:
    """The files of ours in which each private name of these modules stands."""
    theirs = set().union(*(private_names(Path(find_spec(each).origin)) for each in of_libraries))
    uses = defaultdict(set)
    for path in sorted(ROOT.rglob("*.py")):
        for name in private_names(path) & theirs:
            uses[name].add(str(path.relative_to(ROOT)))
    return uses


@pytest.mark.parametrize(
    ("library", "name", "file"),
    [
        ("transformers", "_save_checkpoint", "training/resumable_trainer.py"),
        ("transformers", "_internal_call", "training/resumable_trainer.py"),
        ("transformers", "_commit_hash", "values/provenance.py"),
        ("optuna", "_study_id", "adapter_search/study.py"),
    ],
)
def test_what_is_private_to_a_library_is_used_in_one_file_and_of_bounded_versions(library, name, file):
    uses = private_uses(*(f"{library}.{module}" for module in PRIVATE_IS_USED[library]))
    assert uses[name] == {file}
    assert {name: files for name, files in uses.items() if len(files) > 1} == {}
    assert re.search(rf'"{library}>=[\d.]+,<[\d.]+"', PYPROJECT.read_text(encoding="utf-8"))


def test_nothing_private_is_used_of_other_libraries():
    of_transformers = private_uses(*(f"transformers.{module}" for module in PRIVATE_IS_USED["transformers"]))
    own = {node.name for path in ROOT.rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
           if isinstance(node, ast.FunctionDef)}  # fmt: skip
    assert private_uses(*PRIVATE_IS_NOT_USED).keys() - of_transformers.keys() - own == set()


def test_what_published_cards_import_is_where_it_was():
    from genaf_hf.audit import audit
    from genaf_hf.audit_arguments import AuditArguments

    assert {audit.__wrapped__.__module__, AuditArguments.__module__} == {
        "genaf_hf.pipelines.audit",
        "genaf_hf.pipelines.audit_arguments",
    }
