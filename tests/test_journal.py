import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from genaf_hf.runs.journal import Journal, write_whole


@pytest.fixture
def steps():
    """A function that computes a step, and remembers that it did."""

    def compute(step: str):
        compute.done.append(step)
        return {"step": step, "numbers": [1, 0.1, None, True]}

    compute.done = []
    return compute


def test_a_step_is_computed_once(steps, tmp_path):
    for journal in (Journal(tmp_path), Journal(str(tmp_path))):
        for step in ("a", "b"):
            assert journal.once(step, lambda step=step: steps(step)) == {"step": step, "numbers": [1, 0.1, None, True]}
    assert steps.done == ["a", "b"]


def test_names_of_any_length_and_script_are_remembered_apart(steps, tmp_path):
    names = [f"модель_для_классификации_животных_{'защищённая' * 30}: pgd {i}" for i in range(2)]
    for journal in (Journal(tmp_path), Journal(tmp_path)):
        assert [journal.once(name, lambda name=name: steps(name))["step"] for name in names] == names
    assert steps.done == names


@pytest.mark.parametrize("result", [None, False, 0, [], {}, 1 / 3, "text"])
def test_what_is_falsy_is_a_result_too(result, tmp_path):
    computed = []
    for _ in range(2):
        assert Journal(tmp_path).once("step", lambda: computed.append(1) or result) == result
    assert computed == [1]


def test_without_a_folder_nothing_is_remembered(steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal()
    assert journal.once("a", lambda: steps("a")) == journal.once("a", lambda: steps("a"))
    assert steps.done == ["a", "a"]
    assert list(tmp_path.iterdir()) == []


def test_any_text_names_a_step_and_stays_in_the_folder(steps, tmp_path):
    names = ["a", "a.b", "someone/model.pgd", "../out", "/tmp/out", "..", "A b%2F", "ä"]
    journal = Journal(tmp_path / "journal")
    for name in names * 2:
        assert journal.once(name, lambda name=name: steps(name))["step"] == name
    assert steps.done == names
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]
    assert len([path for path in (tmp_path / "journal").iterdir() if path.is_file()]) == len(names)


@pytest.mark.parametrize("content", [b"", b'{"result": ', b"\0" * 20, b"null", b"[]", b"{}", b"\xff", b"[" * 10**5])
def test_a_step_whose_file_was_cut_off_is_computed_anew(steps, tmp_path, caplog, content):
    Journal(tmp_path).once("a", lambda: steps("a"))
    (tmp_path / "a.json").write_bytes(content)
    for _ in range(2):
        assert Journal(tmp_path).once("a", lambda: steps("a"))["step"] == "a"
    assert steps.done == ["a", "a"]
    assert f"{tmp_path}/a.json cannot be read (" in caplog.text
    assert caplog.text.count("): what it held is computed anew.") == 1


def in_child_process(work) -> int:
    """The signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


@pytest.mark.process
@pytest.mark.parametrize("when", ["computing", "writing"])
def test_killed_in_between_nothing_is_computed_twice(tmp_path, when):
    def work(dies: bool) -> list[str]:
        def compute(step: str) -> str:
            with (tmp_path / "computed").open("a") as file:
                file.write(step)
            if dies and (step, when) == ("b", "computing"):
                os.kill(os.getpid(), signal.SIGKILL)
            return step.upper()

        def replace(path: Path, target: Path) -> None:
            if dies and (target.stem, when) == ("b", "writing"):
                os.kill(os.getpid(), signal.SIGKILL)
            os.replace(path, target)

        if dies:
            Path.replace = replace  # of the child process
        journal = Journal(tmp_path / "journal")
        return [journal.once(step, lambda step=step: compute(step)) for step in "abc"]

    assert in_child_process(lambda: work(dies=True)) == signal.SIGKILL
    assert (tmp_path / "computed").read_text() == "ab"
    for _ in range(2):
        assert work(dies=False) == ["A", "B", "C"]
        assert (tmp_path / "computed").read_text() == "abbc"


def test_a_file_is_written_whole_over_another(tmp_path):
    path = tmp_path / "made/for/it.json"
    for text in ("first", "ä second"):
        write_whole(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(path.parent) == ["it.json"]


def test_processes_that_write_one_file_at_once_do_not_disturb_each_other(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            [*pool.map(partial(write_whole, tmp_path / "it.json"), "abcd")]
    assert (tmp_path / "it.json").read_text() in "abcd"
    assert os.listdir(tmp_path) == ["it.json"]


def test_a_file_that_cannot_be_written_leaves_no_draft(tmp_path):
    (tmp_path / "it.json").mkdir()
    with pytest.raises(OSError, match=r"it\.json"):
        write_whole(tmp_path / "it.json", "text")
    assert os.listdir(tmp_path) == ["it.json"]
