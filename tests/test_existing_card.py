import random
import re
from dataclasses import replace
from functools import cache

import pytest
import yaml
from cards import make_record, make_report
from huggingface_hub import ModelCard
from transformers import PretrainedConfig

from genaf_hf.evaluation.measurement import Check
from genaf_hf.sharing.audited_card import check_card, share_findings
from genaf_hf.sharing.card_update import BEGIN, END, END_OF_TOP, TOP, update_card
from genaf_hf.sharing.existing_card import base_model_of, card_metadata, read_card
from genaf_hf.sharing.model_card import findings, metadata, model_card

OURS = ["adversarial-robustness"]
PEOPLE = "# My model\n\nIt is *mine*.\n\n## Adversarial robustness\n\nI never looked.\n"


@cache
def additions(model: str = "hardened", folder: str = "audit") -> dict:
    return metadata(make_report(model), None, "someone/model", report_path=f"{folder}/report.json").to_dict()


def updated(card: str, section: str = "What we found.") -> str:
    return update_card(card, section, additions())


def dump(**values) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def expected(parts: list[str], body: str) -> str:
    """The card of these parts of a front matter and this body, with what has to be in it after an audit."""
    changed, missing = [], ["tags", "model-index"]
    for part in parts:
        key = next((name for name in missing if part.lstrip("\"' ").startswith(name)), None)
        if key is None:
            changed.append(part)
            continue
        missing.remove(key)
        [known] = yaml.safe_load(part.replace("*m", "[one]")).values()
        changed.append(
            ours(key, known).replace("\n", "\n  ").removesuffix("  ") if part[0] == " " else ours(key, known)
        )
        changed[-1] = "  " * (part[0] == " ") + changed[-1]
    front = "".join([*changed, *(ours(key, None) for key in missing)])
    blank = "\n" if body.endswith("\n") else "\n\n"
    return f"---\n{front}---\n{body}{blank}{BEGIN}\n\nWhat we found.\n\n{END}\n"


def ours(key: str, known) -> str:
    """YAML of a key that an audit changes, from what is there."""
    if key == "tags":
        return dump(tags=[*([known] if isinstance(known, str) else known or []), *OURS])
    new = additions()["model-index"]
    if known:
        new = [{**known[0], "results": [*known[0]["results"], *new[0]["results"]]}]
    return dump(**{"model-index": new})


# ---- what people wrote ----

FRONTS = {
    "plain": ["license: mit\nlanguage: en\n"],
    "comments": ["# first\nlicense: mit # why\n\n# tags\n", "tags:\n- one # a\n", "# next\n\nlanguage: en\n# last\n"],
    "tag as text": ["tags: one\n", "license: mit\n"],
    "flow tags": ["tags: [one, 'two']\n", "license: mit\n"],
    "flow tags on lines": ["license: mit\n", "tags: [\n  one,\n  two\n]\n", "language: en\n"],
    "quoted keys": ["'license': mit\n", '"tags":\n  - one\n', "\"language\": [en, 'de']\n"],
    "tags are last": ["license: mit\n", "tags:\n- one\n"],
    "tags are empty": ["license: mit\n", "tags:\n", "language: en\n"],
    "anchors elsewhere": ["base: &b {a: 1}\nother: *b\n", "tags:\n- one\n"],
    "alias as tags": ["mine: &m [one]\n", "tags: *m\n", "license: mit\n"],
    "text": ["text: |\n  # no comment\n  tags: [no]\n\n  model-index: x\n", "tags:\n- one\n", "license: mit\n"],
    "not ascii": ["author: Zoë \N{GRINNING FACE}\n", "tags: [ünï, \N{GRINNING FACE}]\n", "language: en\n"],
    "odd values": ["date: 2024-01-01\nnothing: ~\nflag: yes\nnumber: 1e3\nnan: .nan\n"],
    "nested": ["x:\n  tags: [no]\n  model-index: 1\n", "model-index:\n- name: a\n  results: []\n", "y: 2\n"],
    "only a comment": ["# nothing yet\n"],
    "nothing": [],
}


@pytest.mark.parametrize("parts", FRONTS.values(), ids=FRONTS)
@pytest.mark.parametrize(("newline", "start"), [("\n", ""), ("\r\n", "\ufeff"), ("\n", "\n")])
def test_people_keep_what_they_wrote(parts, newline, start):
    card = f"---\n{''.join(parts)}---\n{PEOPLE}"
    once = updated((start + card).replace("\n", newline))
    assert once == (start + expected(parts, PEOPLE)).replace("\n", newline)
    assert updated(once) == once


def test_indented_metadata_stays_indented():
    once = updated("---\n  license: mit\n  tags:\n  - one\n  language: en\n---\n# A\n")
    assert once.startswith(
        "---\n  license: mit\n  tags:\n  - one\n  - adversarial-robustness\n  language: en\n  model-index:"
    )
    assert card_metadata(once)["model-index"] == additions()["model-index"]
    assert updated(once) == once


@pytest.mark.parametrize(
    "card",
    [
        "# A model",
        "# A model\n",
        "---\n---\n# A model\n",
        "---\n\n---\n",
        "\ufeff# A model\n",
        "a\r\n",
        "---\nbut no end\n",
    ],
)
def test_cards_without_metadata_or_a_last_line_break(card):
    once = updated(card)
    assert once.replace("\ufeff", "").startswith("---\n") or once.startswith("---\r\n")
    assert once.startswith("\ufeff") == card.startswith("\ufeff")
    assert set(card_metadata(once)) == {"tags", "model-index"}
    front = "---\n---\n"
    body = card.removeprefix("\ufeff").replace("---\n\n---\n", "").replace(front, "")
    assert body in once
    assert updated(once) == once


@pytest.mark.parametrize("card", ["", "\n \n"])
def test_a_model_without_a_card_gets_a_whole_one(card):
    made = ModelCard(updated(card))
    assert made.data.tags == OURS
    assert made.data.pipeline_tag == "image-classification"
    assert made.text.strip() == f"{BEGIN}\n\nWhat we found.\n\n{END}"
    assert updated(str(updated(card))) == updated(card)


def test_a_later_audit_replaces_the_first_wherever_people_moved_it():
    first = updated(PEOPLE)
    moved = first.replace(f"{BEGIN}\n\nWhat we found.\n\n{END}\n", "").replace(
        "It is *mine*.", f"Before.{BEGIN}\n\nWhat we found.\n\n{END}After."
    )
    second = updated(moved, "What we found later.")
    assert second == moved.replace("What we found.", "What we found later.")


def test_lost_marks_cost_nobody_a_word():
    only_begin, only_end = (f"# A\n\n{mark}\n\nMine.\n" for mark in (BEGIN, END))
    for card in (only_begin, only_end):
        twice = updated(updated(card, "First."), "Second.")
        assert card in twice
        assert "First." not in twice
    doubled = f"{BEGIN}\nold\n{END}\nMine.\n{BEGIN}\nolder\n{END}\n"
    assert "\nMine.\n" in updated(doubled)


# ---- results ----


def test_results_of_others_stay_and_ours_are_replaced():
    theirs = {
        "name": "theirs",
        "results": [
            {"task": {"type": "text"}, "metrics": [{"type": "f1", "value": 0.5}, {"type": "x", "args": ["report"]}]},
            {"task": {"type": "empty"}},
            {"metrics": [{"type": "accuracy", "value": 1.0, "args": {"report": "report.json"}}]},
        ],
    }
    other = {"name": "other", "results": []}
    card = f"---\n{yaml.safe_dump({'model-index': [theirs, other]})}---\n{PEOPLE}"
    once = card_metadata(updated(card))["model-index"]
    assert [each["name"] for each in once] == ["theirs", "other"]
    assert once[0]["results"][:3] == theirs["results"]
    assert once[0]["results"][3:] == additions()["model-index"][0]["results"]
    assert once[1] == other
    again = card_metadata(update_card(updated(card), "", additions("undefended")))["model-index"]
    assert again[0]["results"] == theirs["results"] + additions("undefended")["model-index"][0]["results"]


def test_an_audit_of_our_own_card_stands_beside_the_results_of_its_training():
    card = str(model_card(make_report(), make_record(), model_name="someone/model"))
    index = card_metadata(updated(card))["model-index"][0]["results"]
    cited = [metric["args"]["report"] for result in index for metric in result["metrics"]]
    assert cited == ["report.json"] * 4 + ["audit/report.json"] * 4
    assert card_metadata(updated(card))["tags"] == ["genaf", *OURS]


# ---- the worst verdict ----


def shared(folder, card: str, report) -> str:
    """The card after an audit of the model in a folder."""
    (folder / "audit-of-it").mkdir(exist_ok=True)
    report.save(folder / "audit-of-it/report.json")
    (folder / "README.md").write_bytes(card.encode())
    share_findings(str(folder), folder / "audit-of-it", report, create_pr=False)
    return (folder / "README.md").read_bytes().decode()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_worse_audit_stands_above_the_verdict_of_the_training_and_leaves_with_it(tmp_path, newline):
    card = str(model_card(make_report("hardened"), make_record(), model_name="x")).replace("\n", newline)
    worse, better = make_report("undefended"), make_report("hardened")
    once = shared(tmp_path, card, worse)
    [first, second] = [line for line in once.splitlines() if "This model is right about" in line][:2]
    assert first.startswith("**An audit found less than is told below.** **Only 10 images")
    for line, accuracy in ((first, "0.0%"), (second, "50.0%")):
        assert re.search(rf" {accuracy} [^,;]*(, [\d.]+%\])? under the worst attack on the model itself", line)
    assert card.split(f"{newline}---{newline}", 1)[1] in once
    assert shared(tmp_path, once, worse) == once
    assert shared(tmp_path, once, better) == shared(tmp_path, card, better)
    assert "An audit found less" not in shared(tmp_path, card, better)


def test_less_by_chance_or_on_other_images_is_no_worse_verdict(tmp_path):
    report = make_report("hardened")
    card = str(model_card(report, make_record(), model_name="x"))
    by_one = [replace(each, correct=each.correct - 1) if each.attack == "pgd" else each for each in report.measurements]
    assert "An audit found less" not in shared(tmp_path, card, replace(report, measurements=by_one))
    others = make_report("undefended", dataset={**report.dataset, "name": "someone/harder"})
    assert "An audit found less" not in shared(tmp_path, card, others)


@pytest.mark.parametrize("mark", [BEGIN, END, TOP, END_OF_TOP])
def test_a_name_that_is_one_of_our_marks_is_none(tmp_path, mark):
    report = make_report("undefended", dataset={**make_report().dataset, "name": mark})
    card = str(model_card(make_report("hardened"), make_record(), model_name="x"))
    once = shared(tmp_path, f"{card}\n# People\n", report)
    assert "\n# People\n" in once
    assert shared(tmp_path, once, report) == once
    assert card_metadata(once)["model-index"][0]["results"][-1]["dataset"]["name"] == mark


def test_an_audit_that_cannot_be_trusted_is_no_better_than_the_training(tmp_path):
    card = str(model_card(make_report("hardened"), make_record(), model_name="x"))
    failed = make_report("hardened", checks=[Check("hardened", "gradients are not zero", False, {})])
    assert "**The robust accuracies of this model are *unreliable*" in shared(tmp_path, card, failed).split("# x")[0]


@pytest.mark.parametrize(
    "metrics",
    [
        "x",
        [{"type": "accuracy", "value": 0.99}],
        [{"type": "accuracy", "value": 0.99, "args": "report.json"}],
        [{"type": "accuracy", "value": "high", "args": {"report": "report.json"}}],
        [{"type": "accuracy", "value": 1, "args": {"report": "o.json", "correct": 10**20, "count": 10**20}}],
    ],
)
def test_results_that_are_not_ours_are_compared_with_nothing(tmp_path, metrics):
    index = [{"name": "m", "results": [{"metrics": metrics}, "x"]}]
    card = f"---\n{dump(**{'model-index': index})}---\n{PEOPLE}"
    assert "An audit found less" not in shared(tmp_path, card, make_report("undefended"))


# ---- any card ----


ANY = [
    *("license: mit\n", "x: {y: [1, 2]}\n", "z: >-\n  two\n  lines\n", "'q': \"a: b\"\n", "e:\n", "# comment\n", "\n"),
    *("n: &n 1\n", "nested:\n  tags:\n    - no\n  # in\n  model-index: 1\n", "list:\n- tags: x\n- - 1\n", "1: 2\n"),
]
TAGS = [
    "tags: a\n",
    "tags: [a, b]\n",
    "tags:\n- a\n- b\n",
    "tags:\n    -   a\n",
    "'tags' :   ['a']   # why\n",
    "tags: >-\n  a\n",
]
INDEX = ["model-index:\n- name: m\n  results: []\n", "model-index: [{results: [{metrics: []}], name: m}]\n"]
BODY = ["# T\n", "text\n", "\n", "---\n", "| a | b |\n", "```\n---\n```\n", "no line break"]


@pytest.mark.parametrize("seed", range(40))
def test_any_card_keeps_its_bytes(seed):
    draw = random.Random(seed)
    parts = draw.sample(ANY, draw.randint(0, len(ANY))) + draw.sample(TAGS, draw.randint(0, 1))
    parts += draw.sample(INDEX, draw.randint(0, 1))
    draw.shuffle(parts)
    body = "".join(draw.choices(BODY, k=6))
    newline = draw.choice(["\n", "\r\n"])
    once = updated(f"---\n{''.join(parts)}---\n{body}".replace("\n", newline))
    assert once == expected(parts, body).replace("\n", newline)
    assert updated(once) == once


# ---- what is refused ----

BROKEN = {
    "no YAML": (b"---\ntags: [a\n---\n", "cannot be updated, its metadata is no YAML: while parsing a flow sequence"),
    "no mapping": (b"---\n- a\n---\n", "cannot be updated, its metadata is a list, expected names and values"),
    "deep": (b"---\na: " + b"[" * 600 + b"\n---\n", "cannot be updated, its metadata is no YAML"),
    "no number": (b'---\na: !!float ""\n---\n', "cannot be updated, its metadata is no YAML"),
    "no truth": (b'---\na: !!bool "x"\n---\n', "cannot be updated, its metadata is no YAML"),
    "other encoding": (b"---\nauthor: Zo\xeb\n---\n", "cannot be read: 'utf-8' codec can't decode"),
    "index": (
        b"---\nmodel-index: none\n---\n",
        "cannot be updated, its model-index is no list of models with their results",
    ),
    "results": (b"---\nmodel-index: [{name: a}]\n---\n", "cannot be updated, its model-index is no list of models"),
    "all in braces": (
        b"---\n{license: mit, tags: [a]}\n---\n",
        "cannot be updated, its tags or model-index stand there in",
    ),
    "anchored tags": (
        b"---\ntags: &t [a]\nother: *t\n---\n",
        "cannot be updated, its tags or model-index stand there in",
    ),
    "tags twice": (b"---\ntags: a\ntags: b\n---\n", "cannot be updated, its tags or model-index stand there in"),
}


@pytest.mark.parametrize(("content", "sentence"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_updated_is_refused_and_left(tmp_path, content, sentence):
    (tmp_path / "README.md").write_bytes(content)
    with pytest.raises(ValueError, match="The card of") as refusal:
        check_card(str(tmp_path), create_pr=False)
    assert str(refusal.value).startswith(f'The card of "{tmp_path}" {sentence}')
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "README.md").read_bytes() == content


# ---- files ----


def test_findings_are_shared_in_a_local_folder(tmp_path):
    model, audit = tmp_path / "model", tmp_path / "out"
    for folder in (model, audit):
        folder.mkdir()
    (model / "README.md").write_bytes(PEOPLE.encode())
    report = make_report("hardened")
    report.save(audit / "report.json")
    (audit / "gallery.png").write_bytes(b"picture")
    (audit / "secret.txt").write_text("secret")
    assert share_findings(str(model), audit, report, create_pr=False) == str(model / "README.md")
    assert {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()} == {
        *("README.md", "audit/report.json", "audit/gallery.png"),
    }
    assert (model / "audit/report.json").read_bytes() == (audit / "report.json").read_bytes()
    card = (model / "README.md").read_text(encoding="utf-8")
    assert PEOPLE in card
    assert findings(report, model_name="model", pictures=["gallery.png"], folder="audit") in card
    assert str(tmp_path) not in card
    share_findings(str(model), audit, report, create_pr=False)
    assert (model / "README.md").read_text(encoding="utf-8") == card


@pytest.mark.parametrize(
    ("card", "told"),
    [
        (b"---\nlicense: apache-2.0\n---\n", {"license": "apache-2.0"}),
        (b"---\nlicense: mit\ntags: [genaf, hardened-encoder]\n---\n", {"license": "mit", "hardened": True}),
        (b"---\nlicense: [mit]\ntags: hardened-encoder\n---\n", {"license": None}),
        (b"# none", {"license": None}),
        (b"---\nlicense: [mit\n---\n", {"license": None}),
        (b"\xff", {"license": None}),
        (None, {"license": None}),
    ],
)
def test_what_the_card_of_a_base_model_tells(tmp_path, card, told):
    if card is not None:
        (tmp_path / "README.md").write_bytes(card)
    config = PretrainedConfig(name_or_path=str(tmp_path))
    assert base_model_of(config) == {"name": tmp_path.name, "revision": None, **told}


def test_a_model_that_was_loaded_from_nowhere_has_no_base_model():
    assert base_model_of(PretrainedConfig()) == {"name": None, "revision": None, "license": None}


def test_a_card_that_cannot_be_asked_for_is_not_taken_for_none():
    with pytest.raises(OSError, match="cannot find the requested files in the local cache"):
        read_card("someone/never-downloaded")
