"""What `genaf-hf` says of itself, and how fast."""

import sys

import pytest

from genaf_hf.cli import help_pages
from genaf_hf.cli.command_line import HIDDEN
from genaf_hf.cli.main import main
from genaf_hf.cli.process_tree import command_line, program


def said(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["genaf-hf", *words])
    main()
    return capsys.readouterr().out


@pytest.mark.parametrize("name", help_pages.NAMES)
def test_each_page_is_what_the_flags_say(name):
    found = help_pages.read_page(name)
    assert found == help_pages.make(name), "python -m genaf_hf.cli.help_pages writes the pages anew"
    assert len(found.splitlines()) <= 80
    assert max(map(len, found.splitlines())) <= 120


def test_help_is_said_without_importing_torch(processes):
    code = "import sys; from genaf_hf.cli.main import main; main(); print({'torch', 'transformers'} & {*sys.modules})"
    done = processes.run_alone([sys.executable, "-c", code, "harden", "--help"])
    assert done.stdout == help_pages.read_page("harden") + "\nset()\n", done.stderr


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_without_a_command_all_are_told(words, monkeypatch, capsys):
    page = said(monkeypatch, capsys, *words)
    assert all(f"  {command} " in page for command in help_pages.COMMANDS)


def test_an_unknown_command_is_refused_with_the_nearest_one(monkeypatch):
    monkeypatch.setattr("sys.argv", ["genaf-hf", "hardn"])
    with pytest.raises(SystemExit, match='There is no command "hardn", expected harden'):
        main()


def test_all_flags_that_do_something_are_in_the_long_help(monkeypatch, capsys):
    page = said(monkeypatch, capsys, "harden", "--help-all")
    assert page.startswith("usage: genaf-hf harden [-h]")
    assert "--genetic_share" in page
    assert "--ddp_timeout" in page
    assert [name for name in HIDDEN if f"--{name} " in page] == []


def test_help_on_a_model_names_the_defaults_that_it_gets(monkeypatch, capsys, encoders):
    page = said(monkeypatch, capsys, "harden", "--model_name_or_path", encoders["mae"], "--help")
    assert "before it, in (0, 1]; the head keeps its rate (here 0.65)." in " ".join(page.split())
    page = said(monkeypatch, capsys, "harden", "--model_name_or_path", encoders["dino"], "--help")
    assert "9e-5 for a ViT-B (here 0.0005)." in " ".join(page.split())


def test_help_on_a_model_goes_by_a_file_that_is_named(monkeypatch, capsys, encoders, tmp_path):
    (tmp_path / "own.yaml").write_text("max_steps: 77\n")
    words = ("harden", str(tmp_path / "own.yaml"), "--model_name_or_path", encoders["dino"], "--help")
    page = " ".join(said(monkeypatch, capsys, *words).split())
    assert "instead of epochs if positive. (here 77)" in page or "if positive (here 77)." in page
    assert "by own.yaml and its size." in page


def test_the_traceback_of_a_refusal_is_shown_where_it_is_asked_for(monkeypatch, capsys):
    for words, lines in (([], 0), (["--debug"], 1)):
        monkeypatch.setattr("sys.argv", ["genaf-hf", "push", "nowhere", "someone/thing", *words])
        with pytest.raises(SystemExit, match="nowhere holds no model to publish"):
            main()
        assert capsys.readouterr().err.count("Traceback") == lines


def test_our_own_faults_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("genaf_hf.sharing.publishing.publish", None)
    monkeypatch.delitem(sys.modules, "genaf_hf.cli.push", raising=False)
    monkeypatch.setattr("sys.argv", ["genaf-hf", "push", "folder", "someone/thing"])
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        main()


def test_under_a_launcher_the_sentence_is_the_last_word(processes):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "-m", "genaf_hf.cli"]
    done = processes.run_alone([*launcher, "push", "nowhere", "someone/thing"], timeout=120)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1] == (
        "nowhere holds no model to publish, expected config.json or adapter_config.json in it."
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("started", "words"),
    [
        ("/venv/bin/genaf-hf", ["-m", "genaf_hf.cli"]),
        ("/package/genaf_hf/cli/__main__.py", ["-m", "genaf_hf.cli"]),
        ("recipes/genaf_vit.py", ["recipes/genaf_vit.py"]),
    ],
)
def test_a_launcher_starts_what_was_started(started, words, monkeypatch):
    monkeypatch.setattr("sys.argv", [started, "harden", "--seed", "1"])
    assert program() == words


def test_the_command_that_goes_on_is_the_installed_one(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/venv/bin/genaf-hf", "harden", "--dataset_name", "my images"])
    assert command_line() == "genaf-hf harden --dataset_name 'my images'"
