import io
import json
import math
import platform
import resource
import sys
from dataclasses import asdict

import numpy as np
import pytest

from genaf_hf import GenAFConfig
from genaf_hf.adapter_search.arguments import AdapterSearchArguments
from genaf_hf.cli.command_line import parse_arguments
from genaf_hf.cli.main import check_processes, run
from genaf_hf.cli.settings_file import CONFIGS
from genaf_hf.demo.arguments import DemoArguments
from genaf_hf.errors import UserError
from genaf_hf.pipelines.attack_arguments import DEFAULT_ATTACKS, named_attacks
from genaf_hf.pipelines.audit_arguments import AuditArguments
from genaf_hf.pipelines.harden import HardeningArguments
from genaf_hf.pipelines.harden_encoder import EncoderArguments
from genaf_hf.training.defences import DEFENCES

TYPES = (HardeningArguments, GenAFConfig)
DEFAULT = """
model_name_or_path: digits-supervised
dataset_name: digits
output_dir: {folder}
use_cpu: true
report_to: none
eps: 0.25
learning_rate: 2e-3
random_start: false
"""


FAULTS = """
import resource
import torch
from genaf_hf.cli.main import keep_large_buffers

keep_large_buffers()
for _ in range(20):  # some of them, as the heap begins, do not fit where the one before was
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc")
def test_memory_of_large_tensors_is_kept(processes):
    done = processes.run([sys.executable, "-c", FAULTS], check=True)
    pages = 2**26 // resource.getpagesize()  # of one tensor
    assert int(done.stdout) < pages


@pytest.mark.parametrize("kind", [HardeningArguments, AdapterSearchArguments], ids=lambda kind: kind.__name__)
def test_numbers_of_numpy_become_such_as_json_holds(kind):
    assert json.dumps(asdict(kind("encoder", "digits", max_train_samples=np.int64(9))))


@pytest.mark.parametrize("types", [(HardeningArguments, GenAFConfig), (EncoderArguments, GenAFConfig)])
def test_a_folder_for_the_result_has_to_be_named(types, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(types, None, ["--model_name_or_path", "encoder", "--dataset_name", "photos"])
    assert "required: --output_dir" in capsys.readouterr().err


@pytest.fixture
def default(tmp_path):
    path = tmp_path / "digits.yaml"
    path.write_text(DEFAULT.format(folder=tmp_path / "out"))
    return path


@pytest.fixture
def write(tmp_path):
    """A function that writes a configuration file and returns its path."""

    def write(text: str, name: str = "own.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("argv", [[], ["--steps", "3"], ["--output_dir=elsewhere"]])
def test_without_a_model_or_a_dataset_the_default_is_run(default, argv):
    arguments, config = parse_arguments(TYPES, default, argv)
    assert (arguments.model_name_or_path, arguments.dataset_name) == ("digits-supervised", "digits")
    assert config.eps == 0.25
    assert config.learning_rate == 2e-3
    assert not config.random_start


def test_flags_win_over_the_default(default):
    _, config = parse_arguments(TYPES, default, ["--eps", "0.125", "--random_start", "--steps=4"])
    assert (config.eps, config.random_start, config.steps) == (0.125, True, 4)
    assert config.learning_rate == 2e-3


@pytest.mark.parametrize("named", ["--model_name_or_path", "--dataset_name"])
@pytest.mark.parametrize("joined", [False, True])
def test_with_a_model_or_a_dataset_named_the_default_is_left_out(default, tmp_path, named, joined, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(TYPES, default, [f"{named}=thing"] if joined else [named, "thing"])
    missing = {"--model_name_or_path", "--dataset_name"} - {named}
    assert f"the following arguments are required: {missing.pop()}" in capsys.readouterr().err


def test_model_and_dataset_by_flags_need_no_file(tmp_path):
    flags = [
        "--model_name_or_path",
        "a/model",
        "--dataset_name",
        "a/dataset",
        "--output_dir",
        str(tmp_path),
        "--use_cpu",
    ]
    arguments, config = parse_arguments(TYPES, tmp_path / "missing.yaml", flags)
    assert (arguments.model_name_or_path, arguments.dataset_name) == ("a/model", "a/dataset")
    assert config.eps == 4 / 255


NAMED = ["--model_name_or_path", "a/model", "--dataset_name", "a/dataset", "--output_dir", "out", "--use_cpu"]


def test_a_model_that_is_named_gets_the_settings_of_its_family_and_flags_win(default, write):
    family = write("learning_rate: 2e-5\nsteps: 7\n", "family.yaml")
    _, config = parse_arguments(TYPES, default, [*NAMED, "--steps", "10"], family_config=lambda given: family)
    assert (config.learning_rate, config.steps, config.eps) == (2e-5, 10, 4 / 255)


def test_the_family_says_nothing_of_the_default_or_a_file(default, write, tmp_path):
    family = write("learning_rate: 2e-5\n", "family.yaml")
    assert parse_arguments(TYPES, default, [], family_config=lambda given: family)[1].learning_rate == 2e-3
    own = write(f"model_name_or_path: a/model\noutput_dir: {tmp_path}\nuse_cpu: true\nlearning_rate: 3e-4\n")
    argv = [own, "--dataset_name", "a/dataset"]
    assert parse_arguments(TYPES, default, argv, family_config=lambda given: family)[1].learning_rate == 3e-4


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_file_is_taken_instead_of_the_default_and_flags_win(default, write, tmp_path, suffix):
    path = write(
        f"model_name_or_path: a/model\ndataset_name: a/dataset\noutput_dir: {tmp_path}\nuse_cpu: true\nsteps: 3\n"
        "max_train_samples: 100\nstep_size: null\nhead_learning_rate: 1e-2\n",
        f"own.{suffix}",
    )
    arguments, config = parse_arguments(TYPES, default, [path, "--steps", "5", "--dataset_name", "another"])
    assert (arguments.model_name_or_path, arguments.dataset_name) == ("a/model", "another")
    assert (config.steps, config.head_learning_rate, config.eps) == (5, 0.01, 4 / 255)
    assert arguments.max_train_samples == 100


def test_a_file_may_leave_to_flags_what_is_required(default, write, tmp_path):
    path = write(f"model_name_or_path: a/model\noutput_dir: {tmp_path}\nuse_cpu: true\n")
    arguments, _ = parse_arguments(TYPES, default, [path, "--dataset_name", "a/dataset"])
    assert (arguments.model_name_or_path, arguments.dataset_name) == ("a/model", "a/dataset")


def test_the_command_line_is_read_without_arguments(default, monkeypatch):
    monkeypatch.setattr("sys.argv", ["genaf_vit.py", "--steps", "7"])
    assert parse_arguments(TYPES, default)[1].steps == 7


@pytest.mark.parametrize("key", ["learning_rat", "help", "no_random_start", 3, True])
def test_an_unknown_key_is_refused(default, write, key):
    with pytest.raises(ValueError, match=f"own.yaml has the unknown key {key}; --help lists") as refusal:
        parse_arguments(TYPES, default, [write(f"{key}: 0.1\nsteps: 3\n")])
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(default, tmp_path):
    with pytest.raises(ValueError, match=f"There is no configuration file {tmp_path}/none.yaml"):
        parse_arguments(TYPES, default, [str(tmp_path / "none.yaml")])


@pytest.mark.parametrize(
    ("text", "kind"), [("", "nothing"), ("- steps\n", "a list"), ("steps", "a str"), ("3", "a int")]
)
def test_a_file_that_is_no_mapping_is_refused(default, write, text, kind):
    with pytest.raises(ValueError, match=f"own.yaml holds {kind}, expected names and values of flags"):
        parse_arguments(TYPES, default, [write(text)])


@pytest.mark.parametrize("text", ["steps: [3\n", "steps: 3\n  eps: 4\n", "steps:\t3\n\tx: 4"])
def test_a_file_that_is_no_yaml_is_refused(default, write, text):
    with pytest.raises(ValueError, match=r"own.yaml") as refusal:
        parse_arguments(TYPES, default, [write(text)])
    assert "\n" not in str(refusal.value)


def test_a_value_outside_its_range_is_refused_by_its_name(default, write, tmp_path):
    path = write(f"model_name_or_path: a\ndataset_name: b\noutput_dir: {tmp_path}\nuse_cpu: true\neps: 8\n")
    with pytest.raises(ValueError, match="eps is 8"):
        parse_arguments(TYPES, default, [path])


def test_an_unknown_flag_is_refused(default):
    with pytest.raises(ValueError, match="--epss"):
        parse_arguments(TYPES, default, ["--epss", "0.1"])


def test_what_stands_below_a_defence_is_for_that_one(write):
    own = write("eps: 8/255\nlearning-rate: 2e-5\ngen-af: {steps: 7, learning-rate: 1e-3}\ntrades:\n  eps: 2/255\n")
    found = {
        defence: parse_arguments(TYPES, None, [own, *NAMED, *flags])[1]
        for defence, flags in {
            "": [],
            "trades": ["--defence", "trades"],
            "universal": ["--defence", "universal"],
        }.items()
    }
    assert [(each.defence, each.eps, each.learning_rate) for each in found.values()] == [
        ("gen-af", 8 / 255, 1e-3),
        ("trades", 2 / 255, 2e-5),
        ("universal", 8 / 255, 2e-5),
    ]
    assert (found[""].steps, found["trades"].steps != 7, found["universal"].steps) == (7, True, None)
    assert parse_arguments(TYPES, None, [own, *NAMED, "--steps", "4"])[1].steps == 4
    of_file = write("defence: trades\ntrades: {steps: 5}\ngen-af: {steps: 7}\n")
    assert parse_arguments(TYPES, None, [of_file, *NAMED])[1].steps == 5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("trades: 3\n", "line 1: trades is a defence, expected names and values below it"),
        ("trades: {stepz: 3}\n", "has the unknown key stepz; --help lists the known ones, the nearest is steps"),
        ("trades: {steps: x}\n", 'steps is "x", expected a whole number'),
        ("trades: {step-size: 1, step_size: 2}\n", "step_size is there twice"),
    ],
)
def test_what_stands_below_a_defence_is_checked_whichever_is_chosen(write, text, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_arguments(TYPES, None, [write(text), *NAMED, "--defence", "universal"])


@pytest.mark.parametrize("name", ["digits_vit.yaml", "digits_mae.yaml", "digits_dino.yaml", "paper.yaml"])
def test_files_of_ours_serve_every_defence_and_hold_gen_afs_settings(name):
    flags = [name, *NAMED, "--bf16", "no", "--defence"]
    configs = {defence: parse_arguments(TYPES, None, [*flags, defence])[1] for defence in DEFENCES}
    assert len({each.learning_rate for each in configs.values()}) == 1
    gen_af = configs["gen-af"]
    assert (gen_af.eps > 0.05, gen_af.steps, gen_af.genetic_weight, gen_af.genetic_share) == {
        "digits_vit.yaml": (True, 2, 200, math.inf),
        "paper.yaml": (False, 10, 5120, math.inf),
    }.get(name, (True, 2, 20, math.inf))
    assert [each for each in configs if configs[each].adapt_max_steps > 0] == ["gen-af"] * (name != "paper.yaml")
    assert configs["universal"].steps is None
    assert configs["none"].eps is configs["linear-probe"].eps is None


@pytest.mark.parametrize("name", ["encoder.yaml", "mae.yaml"])
def test_encoders_of_photographs_are_defended_against_universal_perturbations_and_patches(name):
    _, config = parse_arguments(TYPES, None, [name, *NAMED])
    assert (config.defence, config.clean_share, config.adapt_epochs) == ("universal", 0.5, 0)
    assert config.make_defence().settings["patch_share"] == 0.125


@pytest.mark.parametrize("name", ["digits_vit.yaml", "digits_mae.yaml", "digits_dino.yaml"])
def test_those_of_the_digits_are_defended_against_attacks_on_each_image_too(name):
    _, config = parse_arguments(TYPES, None, [name, *NAMED])
    assert (config.defence, config.clean_share, config.adapt_epochs) == ("universal-n-fgsm", 0.25, 0)
    settings = config.make_defence().settings
    assert (settings["per_image_eps"], settings["patch_share"]) == (0.2, 0)


@pytest.mark.parametrize("of_file", [True, False])
def test_what_the_user_says_and_the_defence_does_not_read_is_refused(write, of_file):
    words = [write("steps: 3\n"), *NAMED] if of_file else ["digits_vit.yaml", *NAMED, "--steps", "3"]
    with pytest.raises(UserError, match=r"^steps is 3, which the defence universal does not read: leave it out"):
        parse_arguments(TYPES, None, [*words, "--defence", "universal"])


def test_a_second_file_is_refused(default, write):
    with pytest.raises(ValueError, match=r"own.yaml"):
        parse_arguments(TYPES, default, ["--steps", "3", write("eps: 0.1\n")])


# ---- what was given ----


@pytest.mark.parametrize(
    "words",
    [
        "--model-name-or-path a --dataset-name b --output-dir c --use-cpu",
        "--model_name a --dataset_n=b --output_d c --use_cpu",
        "--dataset_name=b --use_cpu yes --output-dir=c --model-name-or-path=a",
    ],
)
def test_a_model_is_named_in_whatever_spelling(default, write, words):
    family = write("learning_rate: 2e-5\n", "family.yaml")
    arguments, config = parse_arguments(TYPES, default, words.split(), family_config=lambda given: family)
    assert (arguments.model_name_or_path, arguments.dataset_name, config.output_dir) == ("a", "b", "c")
    assert (config.eps, config.learning_rate) == (4 / 255, 2e-5)


@pytest.mark.parametrize("named", ["hardened", "undefended", "dataset_name"])
def test_a_model_that_the_demo_is_given_leaves_the_default_out_too(named, tmp_path, capsys):
    default = tmp_path / "demo.yaml"
    default.write_text("hardened: a\nundefended: b\ndataset_name: digits\nencoder: c\n")
    assert parse_arguments((DemoArguments,), default, [])[0].encoder == "c"
    with pytest.raises(SystemExit):
        parse_arguments((DemoArguments,), default, [f"--{named}", "own"])
    assert "the following arguments are required: --" in capsys.readouterr().err


def test_a_flag_that_is_the_default_wins_over_a_file(default):
    config = parse_arguments(TYPES, default, ["--eps", str(4 / 255), "--learning_rate=5e-5"])[1]
    assert (config.eps, config.learning_rate) == (4 / 255, 5e-5)


def test_help_shows_the_defaults(default, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(TYPES, default, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Start the adversary at a random point of its ball. (default: True)" in shown


# ---- what a file says ----


@pytest.mark.parametrize("option", ["save_strategy", "eval_strategy", "logging_strategy"])
@pytest.mark.parametrize("word", ["no", "'no'", '"no"'])
def test_no_is_the_option_of_this_name(write, option, word):
    config = parse_arguments(TYPES, None, [write(f"{option}: {word}\n"), *NAMED])[1]
    assert getattr(config, option).value == "no"


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 1e-4", "learning_rate", 1e-4),
        ("learning_rate: '1e-4'", "learning_rate", 1e-4),
        ("learning-rate: 1e-4", "learning_rate", 1e-4),
        ("seed: 010", "seed", 10),
        ("genetic_share: .inf", "genetic_share", float("inf")),
        ("genetic_share: inf", "genetic_share", float("inf")),
        ("eps: 8/255", "eps", 8 / 255),
        ("step_size: 1 / 255", "step_size", 1 / 255),
        ("step_size: ~\nsteps: 5\neps: 0.1", "step_size", 0.05),
        ("random_start: no", "random_start", False),
        ("random_start: off", "random_start", False),
        ("random_start: 'true'", "random_start", True),
        ("hub_revision: 2026-01-01", "hub_revision", "2026-01-01"),
        ("hub_model_id: 007", "hub_model_id", "007"),
        ("label_names: labels", "label_names", ["labels"]),
        ("label_names: [yes, 1e5]", "label_names", ["yes", "1e5"]),
        ("report_to: [none]", "report_to", []),
        ("lr_scheduler_kwargs: {power: 1e-1, cycles: 010}", "lr_scheduler_kwargs", {"power": 0.1, "cycles": 10}),
    ],
)
def test_a_file_says_what_a_flag_would(write, text, name, value):
    found = getattr(parse_arguments(TYPES, None, [write(text), *NAMED])[1], name)
    assert found == pytest.approx(value) if isinstance(value, float) else found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("eps: eight", 'eps is "eight", expected a number such as 0.03 or 8/255'),
        ("eps: 8/0", 'eps is "8/0", expected a number'),
        ("eps: .nan", 'eps is ".nan", expected a number'),
        ("eps: [0.1]", r'eps is \["0.1"\], expected a single value'),
        ("eps: {a: 1}", "eps is .*, expected a single value"),
        ("head_learning_rate:", "head_learning_rate is empty, expected a value"),
        ("steps: 2.5", 'steps is "2.5", expected a whole number'),
        ("steps: true", 'steps is "true", expected a whole number'),
        ("random_start: maybe", 'random_start is "maybe", expected true or false'),
        ("norm: l3", 'norm is "l3", expected one of linf, l2'),
        ("save_strategy: False", 'save_strategy is "False", expected one of no, steps, epoch, best'),
        ("lr_scheduler_kwargs: '{power'", "lr_scheduler_kwargs is no JSON"),
        ("output_dir: ''", "output_dir is empty"),
        ("steps: 2\nsteps: 3", "line 2: steps is there twice"),
        ("max_steps: 2\nmax-steps: 3", "max-steps is there twice"),
        ("a: &a [1, 2]\nb: *a", "line 1: lists and mappings cannot be repeated"),
        ("steps: &a [*a]", "cannot be repeated"),
        ("label_names: " + "[" * 600, "is no YAML"),
        ("steps: !!python/object/apply:os.getcwd []", "is no YAML of settings, line 1"),
        ("[1]: 2", "a name cannot be a list"),
        ("steps: 2\n---\nsteps: 3", "another document"),
        ("learning_rat: 0.1", "unknown key learning_rat; --help lists the known ones, the nearest is learning_rate"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_its_name_and_the_key(write, text, sentence):
    with pytest.raises(ValueError, match=f"own.yaml.*{sentence}") as refusal:
        parse_arguments(TYPES, None, [write(text), *NAMED])
    assert "\n" not in str(refusal.value)


def test_what_is_no_file_of_text_is_refused(write, tmp_path):
    (tmp_path / "latin.yaml").write_bytes("run_name: \xe4".encode("latin-1"))
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 21))
    for name in ("latin", "folder", "large"):
        with pytest.raises(ValueError, match=rf"{name}\.yaml"):
            parse_arguments(TYPES, None, [str(tmp_path / f"{name}.yaml"), *NAMED])


# ---- words and values ----


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--learnin_rate", "1"],
            "no flag --learnin_rate; --help lists the known ones, the nearest is --learning_rate",
        ),
        (["--max-step=3", "--bogus-flag", "1"], "no flag --bogus-flag"),
        (["\u2013eps", "0.1"], "no flag \u2013eps; --help lists the known ones, the nearest is --eps"),
        (["-eps", "0.1"], "no flag -eps"),
        (["--warmup-ratio=0.1"], "the nearest is --warmup_steps"),
        (["--epochs", "3"], "the nearest is --num_train_epochs"),
        (["--no_cuda"], "the nearest is --use_cpu"),
        (["own"], '"own" is no value of a flag'),
        (["--config", "a.yaml"], "a.yaml is not in its place: one configuration file is taken, as the first word"),
    ],
)
def test_a_word_that_is_no_flag_is_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        parse_arguments(TYPES, None, [*words, *NAMED])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--eps", "eight"], '--eps: "eight", expected a number such as 0.03 or 8/255.'),
        (["--eps", "8/0"], '--eps: "8/0", expected a number such as 0.03 or 8/255.'),
        (["--step-size", "nan"], '--step_size: "nan", expected a number such as 0.03 or 8/255.'),
        (["--steps", "1.5"], '--steps: "1.5", expected a whole number.'),
        (["--steps"], "--steps: expected one argument."),
        (["--norm", "l3"], "--norm: invalid choice: 'l3' (choose from 'linf', 'l2')."),
        (["--bf16", "perhaps"], '--bf16: "perhaps", expected true or false.'),
        (["--output_dir", ""], "--output_dir: empty, expected a value."),
        (["--lr_scheduler_kwargs", "{power"], "--lr_scheduler_kwargs: no JSON: "),
    ],
)
def test_a_value_that_a_flag_does_not_take_is_one_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_arguments(TYPES, None, [*NAMED, *words])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.strip().startswith(sentence)
    assert len(said.strip().splitlines()) == 1


def test_every_eps_and_step_size_is_taken_as_a_fraction():
    words = ["--eps", "4/255", "--step_size=1/255", "--attack-settings", '{"eps": "10/255"}']
    arguments, config = parse_arguments(TYPES, None, [*NAMED, *words])
    assert (config.eps, config.step_size) == (4 / 255, 1 / 255)
    assert named_attacks("l4a", arguments.attack_settings)["l4a"].settings["eps"] == 10 / 255
    audit = [*NAMED[:4], "--eps", "4/255", "--dae_eps", "10/255", "--sweep", "1/2", "2"]
    settings = json.dumps({"pgd": {"step_size": "2/255", "eps": "6/255"}})
    [arguments] = parse_arguments((AuditArguments,), None, [*audit, "--attack_settings", settings])
    assert (arguments.eps, arguments.dae_eps, arguments.sweep) == (4 / 255, 10 / 255, [0.5, 2])
    found = named_attacks("l4a,pgd", arguments.attack_settings)["pgd"].settings
    assert (found["step_size"], found["eps"]) == (2 / 255, 6 / 255)
    demo = ["--hardened", "a", "--undefended", "b", "--dataset_name", "c", "--eps", "2/255", "0.1"]
    assert parse_arguments((DemoArguments,), None, demo)[0].eps == [2 / 255, 0.1]


@pytest.mark.parametrize(
    ("attacks", "expected"),
    [
        ("l4a", {"layer": 2, "l4a": {"steps": 200}}),
        ("uapgd,pgd", {"uapgd": {"steps": 200}}),
        ("fgsm", {}),
    ],
)
def test_of_a_file_other_attacks_leave_what_it_says_of_its_own(attacks, expected):
    (audit,) = parse_arguments((AuditArguments,), CONFIGS / "audit_digits.yaml", ["--attacks", attacks])
    assert audit.attack_settings == expected
    assert [*named_attacks(audit.attacks, audit.attack_settings)] == attacks.split(",")
    typed = ["--attacks", attacks, "--attack_settings", '{"ssp": {}}']
    (audit,) = parse_arguments((AuditArguments,), CONFIGS / "audit_digits.yaml", typed)
    with pytest.raises(UserError, match='attack_settings are for "ssp", which is not among the attacks'):
        named_attacks(audit.attacks, audit.attack_settings)


def test_attack_settings_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match='attack_settings give the eps of pgd "8/0", expected a number'):
        named_attacks("pgd", {"pgd": {"eps": "8/0"}})


@pytest.mark.parametrize("layer", [2, "encoder.layer.2"])
def test_a_layer_is_named_by_index_or_by_name(layer, write):
    file = write(f"attack_settings:\n  layer: {layer}\n  pgd: {{eps: 1/255}}\n")
    for words in ([file, *NAMED], [*NAMED, "--attack_settings", json.dumps({"layer": layer, "pgd": {"eps": "1/255"}})]):
        arguments = parse_arguments(TYPES, None, words)[0]
        found = named_attacks(arguments.attacks, arguments.attack_settings)
        assert (found["l4a"].settings["layer"], found["ssp"].settings["layer"]) == (layer, layer)
        assert found["pgd"].settings["eps"] == 1 / 255


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--num_train_epochs", "0"], "num_train_epochs is 0.0, expected a positive number"),
        (["--num_train_epochs", "-1"], "num_train_epochs is -1.0, expected a positive number"),
        (["--max_steps", "0"], "max_steps is 0, expected a positive number, or -1"),
        (["--standard_max_steps", "0"], "standard_max_steps is 0, expected at least 1"),
        (["--resume_from_checkpoint", "no/such"], "resume_from_checkpoint is not for this command"),
        (["--fp16", "--bf16"], "At most one of fp16 and bf16"),
        (["--accelerator_config", "missing.json"], "missing.json"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_arguments(TYPES, None, [*NAMED, *words])


def test_flags_without_effect_are_told(caplog):
    parse_arguments(TYPES, None, [*NAMED, "--do_train", "--do_eval", "no"])
    assert [record.message.split()[0] for record in caplog.records] == ["do_train"]


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=str)
def test_files_of_the_recipes_have_no_words_that_read_two_ways(file):
    assert not [line for line in file.read_text().splitlines() if line.endswith((": no", ": yes", ": on", ": off"))]


@pytest.mark.parametrize("family", ["vit", "dino", "mae"])
def test_the_defaults_of_the_recipes_are_read(family):
    assert parse_arguments(TYPES, CONFIGS / f"digits_{family}.yaml", ["--use_cpu"])[1].max_steps >= 400


def test_the_default_of_an_encoder_hardened_without_labels_is_read():
    arguments, config = parse_arguments((EncoderArguments, GenAFConfig), CONFIGS / "digits_encoder.yaml", ["--use_cpu"])
    assert (arguments.model_name_or_path, arguments.dataset_name) == ("digits-simclr", "digits")
    assert (config.defence, config.max_steps, config.adapt_epochs) == ("anchor", 400, 0)
    named_attacks(DEFAULT_ATTACKS, arguments.attack_settings)


@pytest.mark.parametrize("place", ["taken", "taken/below", "taken/far/below"])
def test_an_output_folder_that_cannot_be_made_is_refused(place, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(ValueError, match="taken is a file, expected a folder or a new name"):
        parse_arguments(TYPES, None, [*NAMED, "--output_dir", str(tmp_path / place)])
    assert parse_arguments(TYPES, None, [*NAMED, "--output_dir", str(tmp_path / "new" / "below")])


def test_a_folder_of_the_home_is_there_and_not_in_one_called_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "audit.yaml"
    file.write_text("model_name_or_path: ~/m\ndataset_name: digits\nprobe_datasets: [~/photos, ~/signs]\n")
    [arguments] = parse_arguments((EncoderArguments,), None, [str(file)])
    assert (arguments.model_name_or_path, arguments.dataset_name) == (f"{tmp_path}/m", "digits")
    assert arguments.probe_datasets == [f"{tmp_path}/photos", f"{tmp_path}/signs"]
    given = []

    def family(settings):
        given.append(dict(settings))
        file.write_text("seed: 3\n")
        return file

    words = ["--model_name_or_path=~/m", "--dataset_name", "digits", "--output_dir=~/audit"]
    parse_arguments((AuditArguments,), None, words, family_config=family)
    assert given == [
        {"model_name_or_path": f"{tmp_path}/m", "dataset_name": "digits", "output_dir": f"{tmp_path}/audit"}
    ]


def test_what_an_output_cannot_show_is_escaped(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, "ascii", write_through=True))
    run(lambda: print("\u732b"))
    assert shown.getvalue() == b"\\u732b\n"


@pytest.mark.parametrize("words", [["--hub_token", "hf_secret"], ["--storage", "postgresql://me:secret@host/db"]])
def test_a_command_that_is_told_back_has_no_secret_in_it(monkeypatch, words):
    monkeypatch.setattr("genaf_hf.cli.main.lost_processes", lambda: True)
    monkeypatch.setattr(sys, "argv", ["genaf-hf", "harden", "--seed", "1"])
    with pytest.raises(UserError, match=r"torchrun --nproc_per_node 2 -m genaf_hf.cli harden --seed 1 --use_cpu$"):
        check_processes()
    monkeypatch.setattr(sys, "argv", ["genaf-hf", "harden", *words])
    with pytest.raises(UserError, match=r"torchrun --nproc_per_node 2 -m genaf_hf.cli \.\.\. --use_cpu$"):
        check_processes()
