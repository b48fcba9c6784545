"""What a report is evidence for, by the names that standards, taxonomies and laws have for its attacks."""

from functools import cache
from pathlib import Path

import yaml

from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.values.markup import markdown, plain

SOURCES = Path(__file__).with_name("evidence.yaml")


@cache
def sources() -> list[dict]:
    """What `evidence.yaml` holds."""
    return yaml.safe_load(SOURCES.read_text(encoding="utf-8"))


def evidence(report: RobustnessReport, model: str, *, hardened: bool) -> str:
    """A Markdown table: a row for each name that others have for attacks of a report; empty where it has none.

    Args:
        report: what was measured.
        model: its name in the report.
        hardened: whether it was trained against attacks.
    """
    attacked = report.attacked(model)
    rows = [["by", "id", "name", "attacks of this report"]]
    for source in sources():
        by = f"[{plain(source['by'])}]({source['source']}) ({source['edition']})"
        for each in source["entries"]:
            found = [one.attack for one in attacked if one.knowledge in each.get("knows", [one.knowledge])]
            if found and (hardened or not each.get("hardened")):
                told = "all" if len(found) == len(attacked) else ", ".join(map(plain, found))
                rows.append([by, plain(each["id"]), plain(each["name"]), told])
    return markdown(rows) if rows[1:] else ""
