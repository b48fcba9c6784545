import pytest

from genaf_hf import GenAFConfig
from genaf_hf.command_line import parse_arguments
from genaf_hf.hardening import HardeningArguments

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
    assert config.eps == 8 / 255


NAMED = ["--model_name_or_path", "a/model", "--dataset_name", "a/dataset", "--output_dir", "out", "--use_cpu"]


def test_a_model_that_is_named_gets_the_settings_of_its_family_and_flags_win(default, write):
    family = write("learning_rate: 2e-5\nsteps: 7\n", "family.yaml")
    _, config = parse_arguments(TYPES, default, [*NAMED, "--steps", "10"], family_config=family)
    assert (config.learning_rate, config.steps, config.eps) == (2e-5, 10, 8 / 255)


def test_the_family_says_nothing_of_the_default_a_file_or_a_preset(default, write, tmp_path):
    family = write("learning_rate: 2e-5\n", "family.yaml")
    assert parse_arguments(TYPES, default, [], family_config=family)[1].learning_rate == 2e-3
    own = write(f"model_name_or_path: a/model\noutput_dir: {tmp_path}\nuse_cpu: true\nlearning_rate: 3e-4\n")
    argv = [own, "--dataset_name", "a/dataset"]
    assert parse_arguments(TYPES, default, argv, family_config=family)[1].learning_rate == 3e-4
    argv = [*NAMED, "--preset", "paper"]
    assert parse_arguments(TYPES, default, argv, family_config=family)[1].learning_rate == 1e-4


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_file_is_taken_instead_of_the_default_and_flags_win(default, write, tmp_path, suffix):
    path = write(
        f"model_name_or_path: a/model\ndataset_name: a/dataset\noutput_dir: {tmp_path}\nuse_cpu: true\nsteps: 3\n"
        "max_train_samples: 100\nstep_size: null\nhead_learning_rate: 1e-2\n",
        f"own.{suffix}",
    )
    arguments, config = parse_arguments(TYPES, default, [path, "--steps", "5", "--dataset_name", "another"])
    assert (arguments.model_name_or_path, arguments.dataset_name) == ("a/model", "another")
    assert (config.steps, config.head_learning_rate, config.eps) == (5, 0.01, 8 / 255)
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


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- steps\n", "list"), ("steps", "str"), ("3", "int")])
def test_a_file_that_is_no_mapping_is_refused(default, write, text, kind):
    with pytest.raises(ValueError, match=f"own.yaml holds a {kind}, expected names and values of flags"):
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


def test_a_second_file_is_refused(default, write):
    with pytest.raises(ValueError, match=r"own.yaml"):
        parse_arguments(TYPES, default, ["--steps", "3", write("eps: 0.1\n")])
