"""What `import genaf_hf` gives, and what it leaves alone."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

import genaf_hf
from genaf_hf.errors import UserError


def test_importing_the_package_imports_neither_torch_nor_matplotlib(processes):
    code = "import sys, genaf_hf; print({'torch', 'transformers', 'datasets', 'matplotlib', 'numpy'} & {*sys.modules})"
    done = processes.run_alone([sys.executable, "-c", code])
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("name", genaf_hf.__all__)
def test_each_public_name_is_there(name):
    assert getattr(genaf_hf, name) is not None
    assert name in dir(genaf_hf)


def test_checkers_of_types_see_the_public_names_where_they_are():
    tree = ast.parse(Path(genaf_hf.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"genaf_hf.{module}" for name, module in genaf_hf.MODULES.items()}
    assert sorted(seen) == genaf_hf.__all__


def test_another_name_is_none_of_ours():
    with pytest.raises(AttributeError, match="has no attribute 'l4b'"):
        getattr(genaf_hf, "l4b")  # noqa: B009


@pytest.mark.parametrize("first", ["transformers.models.auto.modeling_auto", "genaf_hf"])
def test_the_auto_classes_know_our_class_whichever_is_imported_first(processes, first):
    code = (
        f"import {first}, genaf_hf; from transformers import AutoModelForImageClassification as auto; "
        "from genaf_hf.models.encoder_classifier import EncoderClassifierConfig, EncoderForImageClassification; "
        "print(auto._model_mapping[EncoderClassifierConfig] is EncoderForImageClassification)"
    )
    assert processes.run([sys.executable, "-c", code], check=True).stdout == "True\n"


def test_without_optuna_the_search_says_what_to_install(monkeypatch):
    search = importlib.import_module("genaf_hf.adapter_search")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"\[search\]"):
        importlib.reload(search)
