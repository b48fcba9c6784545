import dataclasses
import json
import math

import pytest
from transformers import HfArgumentParser, TrainingArguments

from genaf_hf import GenAFConfig
from genaf_hf.errors import UserError


def test_defaults_are_valid_training_arguments(default_config):
    config = default_config()
    assert isinstance(config, TrainingArguments)
    assert config.eps == 4 / 255
    assert not config.remove_unused_columns


def test_the_default_step_size_follows_eps_and_steps(default_config):
    assert default_config().step_size == pytest.approx(2.5 * (4 / 255) / 3)
    assert default_config(eps=0.2, steps=4).step_size == pytest.approx(0.125)
    assert default_config(eps=0.2, steps=4, step_size=0.01).step_size == 0.01


def test_every_field_of_ours_has_a_help_text():
    theirs = {each.name: each.default for each in dataclasses.fields(TrainingArguments)}
    ours = [
        each
        for each in dataclasses.fields(GenAFConfig)
        if each.name not in theirs or each.default != theirs[each.name] or each.name in GenAFConfig.__annotations__
    ]
    assert len(ours) >= 20
    for each in ours:
        text = each.metadata.get("help", "")
        assert text.endswith("."), each.name


NAN = math.nan


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("eps", [0, 1.5, -0.1, 8, NAN, "0.1"]),
        ("steps", [0, -2]),
        ("step_size", [0, -0.1, NAN]),
        ("norm", ["l1", "Linf"]),
        ("head_learning_rate", [0, -1e-3, NAN]),
        ("adapt_learning_rate", [0, -1e-3, NAN]),
        ("assessment_samples", [0, -5]),
        ("genetic_weight", [-1, NAN]),
        ("genetic_share", [-1, NAN]),
        ("clean_share", [-0.1, 1.5, NAN]),
        ("adapt_epochs", [-1, NAN]),
        ("eps_warmup_ratio", [-0.1, 1.5, NAN]),
        ("redundant_share", [0, -0.2, 1.5, NAN]),
        ("layer_decay", [0, -0.65, 1.01, NAN]),
        ("layer_assessment", ["gradient"]),
    ],
)
def test_each_bad_value_is_refused_by_its_name(default_config, name, values):
    for value in values:
        with pytest.raises(ValueError, match=f'^{name} is "?{value}"?, expected') as refusal:
            default_config(**{name: value})
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [{"genetic_weight": True}, {"learning_rate": "fast"}, {"adapt_max_steps": 2.5}, {"random_start": 1}],
)
def test_a_value_of_another_kind_is_refused_by_its_name(default_config, changes):
    [(name, value)] = changes.items()
    shown = f'"{value}"' if isinstance(value, str) else value
    with pytest.raises(UserError, match=f"^{name} is {shown}, expected"):
        default_config(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"eps": 3.0, "norm": "l2"},
        {"genetic_weight": 0},
        {"genetic_share": 0.0},
        {"clean_share": 1.0},
        {"adapt_epochs": 0},
        {"eps_warmup_ratio": 1},
        {"redundant_share": 1},
        {"layer_decay": 1},
    ],
)
def test_values_at_the_edge_are_taken(default_config, changes):
    config = default_config(**changes)
    assert {name: getattr(config, name) for name in changes} == changes


FLAGS = {
    "learning_rate": 1e-3,
    "head_learning_rate": 2e-3,
    "num_train_epochs": 7.0,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "layer_decay": 0.65,
    "weight_decay": 0.1,
    "warmup_steps": 7.0,
    "random_flip": True,
    "defence": "gen-af",
    "eps": 0.5,
    "steps": 3,
    "step_size": 0.25,
    "norm": "l2",
    "random_start": False,
    "eps_warmup_ratio": 0.1,
    "genetic_weight": 0.5,
    "genetic_share": 0.3,
    "clean_share": 0.1,
    "redundant_share": 0.4,
    "layer_assessment": "ascent",
    "assessment_samples": 64,
    "adapt_epochs": 0.5,
    "adapt_max_steps": 9,
    "adapt_learning_rate": 3e-5,
}


def parse(tmp_path, *flags) -> GenAFConfig:
    [config] = HfArgumentParser(GenAFConfig).parse_args_into_dataclasses(["--output_dir", str(tmp_path), *flags])
    return config


def test_flags_set_every_field_of_ours(tmp_path):
    ours = {*GenAFConfig.__annotations__} - {"remove_unused_columns", "defence_settings"}
    assert FLAGS.keys() == ours
    words = [word for name, value in FLAGS.items() for word in (f"--{name}", str(value))]
    config = parse(tmp_path, *words, "--use_cpu", "--report_to", "none")
    assert {name: getattr(config, name) for name in FLAGS} == FLAGS


def test_without_flags_the_defaults_are_those_of_python(tmp_path, default_config):
    parsed = parse(tmp_path, "--use_cpu", "--report_to", "none")
    assert {name: getattr(parsed, name) for name in FLAGS} == {name: getattr(default_config(), name) for name in FLAGS}


def test_switches_that_are_on_have_a_flag_that_turns_them_off(tmp_path):
    config = parse(tmp_path, "--no_random_start", "--use_cpu")
    assert not config.random_start


@pytest.mark.parametrize("words", [["--norm", "l1"], ["--layer_assessment", "gradient"], ["--eps", "big"]])
def test_flags_that_cannot_be_are_refused_with_their_name(tmp_path, words, capsys):
    with pytest.raises(SystemExit):
        parse(tmp_path, *words)
    assert f"argument {words[0]}" in capsys.readouterr().err


def test_help_is_shown(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(tmp_path, "--help")
    assert "--genetic_weight" in capsys.readouterr().out


def test_the_settings_can_be_written_as_json_and_read_back(default_config):
    config = default_config(eps=0.1, norm="l2", step_size=0.007)
    written = json.loads(config.to_json_string())
    again = GenAFConfig(**{name: written[name] for name in (*FLAGS, "output_dir", "use_cpu")})
    assert {name: getattr(again, name) for name in FLAGS} == {name: getattr(config, name) for name in FLAGS}
