"""A card that is there already is updated without touching what people wrote."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import yaml

from genaf_hf.errors import UserError
from genaf_hf.evaluation.comparison import Change
from genaf_hf.evaluation.measurement import Rate
from genaf_hf.sharing.eval_results import CLEAN_METRIC, ROBUST_METRIC
from genaf_hf.sharing.existing_card import FRONT_MATTER, card_metadata
from genaf_hf.sharing.hub_metadata import dump
from genaf_hf.values.numbers import is_whole

MARK = "<!-- genaf_hf:"
BEGIN, END = "<!-- genaf_hf: begin of the audit -->", "<!-- genaf_hf: end of the audit -->"
SECTION = re.compile(f"{BEGIN}(?:(?!{BEGIN}).)*?{END}", re.DOTALL)
TOP, END_OF_TOP = "<!-- genaf_hf: begin of the verdict -->", "<!-- genaf_hf: end of the verdict -->"
COUNTS = range(1, 2**63)  # of images, as far as any statistics can count
HEADLINE = re.compile(f"{TOP}(?:(?!{TOP}).)*?{END_OF_TOP}(?:\r?\n){{0,2}}", re.DOTALL)


def update_card(card: str, section: str, additions: Mapping, headline: str = "") -> str:
    """A card with the findings of an audit; everything else stays as it is, byte for byte.

    The section stands between two comments, and a later audit replaces it. Of the metadata, `tags` and `model-index`
    get what they lack; results of an earlier audit with a report at the same place are replaced.

    Args:
        card: its text, which may be empty.
        section: Markdown.
        additions: metadata, of which a card that is there gets `tags` and `model-index`, and a new one everything.
        headline: Markdown that stands above all else; an earlier one is replaced, and by an empty one removed.

    Raises:
        UserError: when the card's metadata cannot be read, or not be changed without touching the rest of it.
    """
    known = card_metadata(card)
    body = f"{BEGIN}\n\n{without_marks(section)}\n\n{END}"
    if not card.strip():
        return f"---\n{dump(additions)}---\n\n{body}\n"
    newline = "\r\n" if "\r\n" in card else "\n"
    body = body.replace("\n", newline)
    start = end_of_metadata(card)
    if found := SECTION.search(card, start):
        updated = card[: found.start()] + body + card[found.end() :]
    else:
        updated = f"{card}{newline * (1 if card.endswith(newline) else 2)}{body}{newline}"
    updated = updated[:start] + HEADLINE.sub("", updated[start:])
    changes = {
        "tags": [*(listed := as_list(known.get("tags"))), *(tag for tag in additions["tags"] if tag not in listed)],
        "model-index": merged_index(known.get("model-index"), additions["model-index"]),
    }
    changes = {name: value for name, value in changes.items() if value != known.get(name)}
    wanted = dump({**known, **changes})
    try:
        for name, value in changes.items():
            updated = replace_key(updated, name, value, newline)
        changed = dump(card_metadata(updated))
    except (ValueError, yaml.YAMLError):
        changed = None
    if changed != wanted:
        raise UserError("its tags or model-index stand there in a way that cannot be changed without the rest of it")
    if not headline:
        return updated
    top = f"{TOP}\n\n{without_marks(headline)}\n\n{END_OF_TOP}\n\n".replace("\n", newline)
    start = end_of_metadata(updated)
    return updated[:start] + top + updated[start:]


def end_of_metadata(card: str) -> int:
    found = FRONT_MATTER.match(card)
    return found.end() if found else 0


def without_marks(text: str) -> str:
    """A text of ours, in which a name could be one of the comments that ours are found by."""
    return text.strip().replace(MARK, "<!-- genaf_hf ")


def found_less(card: str, additions: Mapping) -> bool:
    """Whether an audit found less than a card tells of the same data, by more than chance, or what cannot be trusted.

    Held against each other are the lowest accuracies, clean and under attack, of the audit and of other reports.

    Args:
        card: its text.
        additions: metadata of the audit, as for `update_card`.

    Raises:
        UserError: when the card's metadata cannot be read.
    """
    mine = [*metrics_of(additions["model-index"])]
    on, path = (mine[0][0], mine[0][1]["args"]["report"]) if mine else (None, None)
    others = [each for data, each in metrics_of(card_metadata(card).get("model-index")) if data == on]
    others = [each for each in others if each["args"].get("report") not in (None, path)]
    if any(not each["args"]["reliable"] for _, each in mine):
        return bool(others)
    own = [each for _, each in mine]
    lowest = [(least(others, kind), least(own, kind)) for kind in (CLEAN_METRIC, ROBUST_METRIC)]
    return any(before and now and Change("", "", before, now).verdict == "worse" for before, now in lowest)


def metrics_of(index) -> Iterator[tuple[Any, dict]]:
    """All metrics of a model-index that have the form of ours, each with the dataset that it was measured on."""
    models = [each for each in as_list(index) if isinstance(each, dict)]
    for result in (each for model in models for each in as_list(model.get("results")) if isinstance(each, dict)):
        for metric in as_list(result.get("metrics")):
            if isinstance(metric, dict) and isinstance(metric.get("args"), dict):
                yield result.get("dataset"), metric


def least(metrics: Sequence[Mapping], kind: str) -> Rate | None:
    """The lowest accuracy among metrics of one type that have counts; None where none has."""
    counts = [(each["args"].get("correct"), each["args"].get("count")) for each in metrics if each.get("type") == kind]
    rates = [Rate(*each) for each in counts if all(map(is_whole, each)) and 0 <= each[0] <= each[1] in COUNTS]
    return min(rates, key=lambda rate: rate.value, default=None)


def as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def merged_index(known, new: list) -> list:
    """A model-index with new results, less those of the report that these take the place of.

    Raises:
        UserError: when the known one is no list of models with their results.
    """
    if not known:
        return new
    if not isinstance(known, list) or not isinstance(known[0], dict) or not isinstance(known[0].get("results"), list):
        raise UserError("its model-index is no list of models with their results")
    [ours] = new
    replaced = partial(is_of_report, ours["results"][0]["metrics"][0]["args"]["report"])
    kept = []
    for result in known[0]["results"]:
        metrics = result.get("metrics") if isinstance(result, dict) else None
        if isinstance(metrics, list) and any(map(replaced, metrics)):
            result = {**result, "metrics": [each for each in metrics if not replaced(each)]}
            kept += [result] if result["metrics"] else []
        else:
            kept.append(result)
    return [{**known[0], "results": [*kept, *ours["results"]]}, *known[1:]]


def is_of_report(path: str, metric) -> bool:
    """Whether a metric of a model-index is of the report that lies there."""
    args = metric.get("args") if isinstance(metric, dict) else None
    return isinstance(args, dict) and args.get("report") == path


def replace_key(card: str, name: str, value, newline: str) -> str:
    """A card whose front matter has another value for one name, every other line as it was."""
    found = FRONT_MATTER.match(card)
    if found is None:
        text = dump({name: value}).replace("\n", newline)
        start = card.startswith("\ufeff")
        return f"{card[:start]}---{newline}{text}---{newline}{newline}{card[start:]}"
    start, stop = found.span(1)
    tree = yaml.compose(found[1])
    entries = tree.value if tree else []
    indent = " " * (entries[0][0].start_mark.column if entries else 0)
    text = "".join(f"{indent}{line}{newline}" for line in dump({name: value})[:-1].split("\n"))
    places = [start + key.start_mark.index - key.start_mark.column for key, _ in entries] + [stop]
    for (key, _), begin, end in zip(entries, places, places[1:], strict=False):
        if key.value == name:
            return card[:begin] + text + card[end_of_lines(card, begin, end) :]
    return card[:stop] + text + card[stop:]


def end_of_lines(card: str, begin: int, end: int) -> int:
    """Where a value between two places ends, without the comments and empty lines before the next name."""
    lines = re.findall(".*\n", card[begin:end])
    while not lines[-1].strip() or lines[-1].lstrip().startswith("#"):
        end -= len(lines.pop())
    return end
