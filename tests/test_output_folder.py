import errno
import os
import resource
import signal

import pytest
import torch
from safetensors.torch import save_file

from genaf_hf.errors import UserError
from genaf_hf.runs.output_folder import LOCK, check_apart, check_writable, locked
from genaf_hf.runs.run import Run


@pytest.mark.parametrize(
    ("output_dir", "relation"),
    [
        ("photos", "is"),
        ("photos/../photos/", "is"),
        ("link", "is"),
        ("photos/hardened", "lies in"),
        ("link/a/b", "lies in"),
        (".", "holds"),
    ],
)
def test_a_folder_that_is_read_is_not_written_into(tmp_path, monkeypatch, output_dir, relation):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    with pytest.raises(UserError, match=f"The output_dir {output_dir} {relation} the folder of the dataset, photos"):
        check_apart(output_dir, {"encoder": "someone/encoder", "dataset": "photos"})


def test_folders_beside_each_other_and_names_on_the_hub_are_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for output_dir in ("photos2", "photo", "out/photos", "someone/encoder"):
        check_apart(output_dir, {"encoder": "someone/encoder", "dataset": "photos", "images": ""})
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def in_child_process(work) -> str:
    """What it says, or its exception."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            said = str(work())
        except BaseException as error:  # the child ends here
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as file:
        return file.read()


def enter(folder) -> str:
    with Run(folder, {}).working():
        return "entered"


@pytest.mark.process
def test_two_runs_are_not_in_one_folder_at_a_time(tmp_path):
    refusal = f"UserError: Another run is working in {tmp_path}/out: wait until it has ended, or choose another"
    with Run(tmp_path / "out", {}).working():
        assert in_child_process(lambda: enter(tmp_path / "out")).startswith(refusal)
        assert in_child_process(lambda: Run(tmp_path / "out", {}).check()).startswith(refusal)
        assert in_child_process(lambda: enter(tmp_path / "other")) == "entered"
    assert in_child_process(lambda: enter(tmp_path / "out")) == "entered"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.process
def test_a_run_that_was_killed_gives_its_folder_free(tmp_path):
    def die():
        with Run(tmp_path, {}).working():
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child_process(die) == ""
    assert (tmp_path / LOCK).exists()
    Run(tmp_path, {}).check()
    assert enter(tmp_path) == "entered"


@pytest.mark.process
def test_an_error_gives_the_folder_free_and_stays_what_it_is(tmp_path):
    for error in (KeyError("mine"), FileNotFoundError(errno.ENOENT, "gone"), RuntimeError("shapes differ")):
        with pytest.raises(type(error)) as raised, Run(tmp_path, {}).working():
            raise error
        assert raised.value is error
    assert in_child_process(lambda: enter(tmp_path)) == "entered"


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("torch", "a checkpoint could not be written to its end"),
        ("safetensors", "File too large"),
        ("text", "File too large"),
    ],
)
def test_a_disk_without_room_ends_a_run_in_one_sentence(tmp_path, kind, reason):
    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with Run(tmp_path / "out", {}).working():
            if kind == "torch":
                torch.save(torch.zeros(10_000), tmp_path / "out/file")
            elif kind == "safetensors":
                save_file({"a": torch.zeros(10_000)}, tmp_path / "out/file")
            else:
                (tmp_path / "out/file").write_text("a" * 10_000)

    said = in_child_process(fill)
    assert said.startswith(f"UserError: {tmp_path}/out takes no more files (")
    assert said.endswith("): free some space there, and the same command goes on where the run was.")
    assert reason in said


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for refused in (enter, check_writable):
        with pytest.raises(UserError, match=r"file/out cannot be written to .*: choose another output_dir"):
            refused(tmp_path / "file/out")


def test_to_see_whether_a_folder_can_be_made_leaves_nothing(tmp_path):
    check_writable(tmp_path / "new/out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_who_waits_for_a_lock_comes_in_when_it_is_free(tmp_path):
    reader, writer = os.pipe()

    def come_in():
        os.write(writer, b"waiting")
        with locked(tmp_path / "lock", wait=True):
            return (tmp_path / "made").read_text()

    with locked(tmp_path / "lock", wait=True):
        if (child := os.fork()) == 0:
            os._exit(come_in() != "by the first one")
        os.read(reader, 7)
        (tmp_path / "made").write_text("by the first one")
    assert os.waitpid(child, 0)[1] == 0
