"""benchmarks/time_spent.py: that it knows what it counts, and counts all of a command."""

import re
import sys
from pathlib import Path

import pytest
from audits import images, model
from conftest import BENCHMARKS, benchmark_module

import genaf_hf

__all__ = ["images", "model"]  # fixtures
OF_OTHERS = {"_find_and_load", "savefig"}


def test_the_functions_that_parts_are_told_by_are_there():
    text = "".join(path.read_text(encoding="utf-8") for path in Path(genaf_hf.__file__).parent.rglob("*.py"))
    names = set().union(*benchmark_module("time_spent").PARTS.values()) - OF_OTHERS
    assert {name for name in names if f"def {name}(" not in text} == set()


@pytest.mark.slow(reason="starts a process")
def test_what_was_counted_of_an_audit_adds_up(processes, model, images, encoders):
    audit = ["audit", "--model_name_or_path", model, "--dataset_name", images, "--encoder", encoders["dino"]]
    script = str(Path(BENCHMARKS, "time_spent.py"))
    few = ["--attacks", "l4a,pgd", "--attack_settings", '{"steps": 300}']  # so many that looks at them meet each
    done = processes.run([sys.executable, script, *audit, *few])
    assert done.returncode == 0, done.stderr[-2000:]
    rows = dict(re.findall(r"^\| (.+?) \| ([\d.]+) \|", done.stdout, flags=re.MULTILINE))
    assert {"crafting l4a", "measuring pgd", "all"} <= rows.keys()
    total = float(rows.pop("all"))
    assert sum(map(float, rows.values())) == pytest.approx(total, abs=0.05 * (len(rows) + 1))
