"""Names and texts of others in a card: no markup, no code, and read as they are."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from cards import blocks, make_record, make_report
from huggingface_hub import ModelCard
from local_hub import card_errors
from markdown_it import MarkdownIt
from transformers import ViTConfig

from genaf_hf import GenAFConfig
from genaf_hf.evaluation.drift import Drift
from genaf_hf.evaluation.measurement import CLEAN, Check
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.sharing.encoder_results import write_encoder_results
from genaf_hf.sharing.layout import report_of_task
from genaf_hf.sharing.model_card import model_card, shell
from genaf_hf.sharing.record import TrainingRecord
from genaf_hf.values.markup import plain

HOSTILE = [
    '"> <script>alert(1)</script>',
    "`code` ```python",
    "a | b | c",
    "two\nlines\n\n# Title\n---\n```\n",
    "---",
    ": - {",
    "- {a: [b",
    "1. a",
    "{{ 7*7 }} {% raw %}",
    "\u202egnp.exe\u202c \u2066x\u2069",
    "![](https://x.example) [a](javascript:alert(1))",
    "<!-- *b* _i_ ~s~ $x$ -->",
    "it's; $(rm -rf /) && `id` \\",
    "\N{GRINNING FACE} 'both' \"quotes\"",
]


def shown(text: str) -> str:
    """What a reader of the rendered Markdown sees; markup that a name smuggled in would be missing."""
    said = []
    for token in MarkdownIt().enable("table").parse(text):
        said += [child.content for child in token.children or [] if child.type in ("text", "text_special")]
    return "".join(said)


def hostile_report(name: str) -> RobustnessReport:
    """A report in which every text that comes from outside is this one."""
    report = make_report()
    old = {"hardened": name, "undefended": f"not {name}"}
    settings = {"encoder": name, "data": name, "norm": name}
    measured = [
        replace(
            each,
            model=old[each.model],
            attack=each.attack if each.attack == "clean" else f"{each.attack} {name}",
            settings={**each.settings, **settings} if each.settings else {},
        )
        for each in report.measurements
    ]
    return replace(
        report,
        dataset={"name": name, "config": name, "split": name, "revision": name, "count": 10, "probe_images": 10},
        models={old[each]: report.models[each] for each in report.models},
        measurements=measured,
        checks=[Check(name, name, False, {name: 1}), Check(name, "passes", True, {})],
        environment={name: name},
    )


def hostile_record(name: str) -> TrainingRecord:
    """A training record in which every text that comes from outside is this one."""
    return make_record(
        base_model={"name": name, "revision": name, "license": name},
        data={
            "name": name,
            "config": name,
            "revision": name,
            "splits": {name: 3},
            "class_names": [name, f"{name}2"],
            "class_counts": {name: [1, 2]},
        },
        hyperparameters={name: name, "list": [name], "dict": {name: name}},
        defaults={f"{name}2": name},
        example={"label": name, "answer": name, "probability": 0.5},
    )


def hostile_card(name: str) -> ModelCard:
    """The card of a classifier with these."""
    return model_card(hostile_report(name), hostile_record(name), model_name=name)


def hostile_encoder_card(name: str, folder: Path) -> ModelCard:
    """The card of a hardened encoder with these, probed on what it was hardened on and on a task."""
    anchor = GenAFConfig(output_dir=str(folder), defence="anchor", use_cpu=True).make_defence().record()
    foreign = {"title": name, "settings": {name: name}, "perturbations": [name]}
    record = replace(hostile_record(name), defence={**anchor, **foreign})
    place, report = report_of_task(name), hostile_report(name)
    (folder / place).parent.mkdir(parents=True)
    drifts = [Drift(name, CLEAN, "nothing", {}, 0.1, 0.9, 10)]
    named = {"model_name": name, "encoder_class": "ViTModel", "features": None}
    ViTConfig().save_pretrained(folder)
    write_encoder_results(folder, drifts, {"report.json": report, place: report}, record, **named)
    return ModelCard.load(folder / "README.md")


def structure(text: str) -> list[tuple]:
    """Kinds and tags of all blocks and of all inline markup of a text."""
    tokens = MarkdownIt().enable(["table", "strikethrough"]).parse(text)
    found = [(each.type, each.tag, each.info) for each in tokens]
    inline = [child for each in tokens for child in each.children or []]
    return found + [(each.type, each.tag) for each in inline if each.type not in ("text", "text_special")]


@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_text_is_no_markup(name, tmp_path):
    card, tame = hostile_card(name), hostile_card("tame")
    assert structure(card.text) == structure(tame.text)
    assert "<script" not in "".join(
        token.content for token in MarkdownIt().parse(card.text) if token.type == "html_block"
    )
    assert not {"\u202e", "\u2066"} & set(card.text)
    assert plain(name) in card.text

    card.save(tmp_path / "README.md")
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.text == card.text
    assert (loaded.data.base_model, loaded.data.datasets, loaded.data.license) == (None, None, None)
    assert loaded.data.model_name == name
    assert [each.dataset_name for each in loaded.data.eval_results] == [name] * 4
    assert loaded.data.eval_results[1].metric_args["surrogate"] == name
    assert card_errors((tmp_path / "README.md").read_text(encoding="utf-8"), "models") == []


@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_text_is_no_markup_in_the_card_of_an_encoder(name, tmp_path):
    card, tame = (hostile_encoder_card(each, tmp_path / kind) for kind, each in (("hostile", name), ("tame", "tame")))
    assert structure(card.text) == structure(tame.text)
    assert plain(name) in card.text
    inline = [child for each in MarkdownIt().parse(card.text) for child in each.children or []]
    links = [each.attrs["href"] for each in inline if each.type == "link_open"]
    assert links[:2] == ["report.json", report_of_task(name)]
    assert all((tmp_path / "hostile" / link).exists() for link in links[:2])
    assert card_errors((tmp_path / "hostile/README.md").read_text(encoding="utf-8"), "models") == []


@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_text_reads_as_it_is(name):
    seen = "".join(each for each in " ".join(name.split()) if each.isprintable())
    assert shown(f"Before {plain(name)} after") == f"Before {seen} after"
    assert shlex.split(shell(name)) == [seen]


def test_every_sign_that_the_hub_takes_for_markup_is_escaped():
    """Formulas too, `$x$`, which the parser here does not know."""
    assert plain("\\`*_[]|#~$") == r"\\\`\*\_\[\]\|\#\~\$"


@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_text_in_code_is_one_literal(name):
    text = hostile_card(name).text
    _, python = blocks(text, "python")
    given = {}
    exec(python.split("print(")[0], given)
    assert (given["arguments"].model_name_or_path, given["arguments"].dataset_config_name) == (name, name)
    words = shlex.split(blocks(text, "bash")[0])
    seen = "".join(each for each in " ".join(name.split()) if each.isprintable())
    assert words[:4] == ["genaf-hf", "audit", "--model_name_or_path", seen]
    named = "[" not in name  # else no split of the dataset's own
    assert given["arguments"].test_split == (name if named else None)
    assert len(words) == 14 + 2 * named
