import pytest

from genaf_hf.errors import UserError
from genaf_hf.runs.run import FINISHED, NEW, TAKEN, UNFINISHED, Run

SETTINGS = {"eps": 0.1, "sweep": [2.0, 4.0], "limit": None}


def begin(folder, settings=SETTINGS, loaded=None, work=lambda run: None, **others) -> None:
    """A run that is interrupted when it has done some work."""
    run = Run(folder, settings, **others)

    def interrupted() -> None:
        with run.working(loaded):
            work(run)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def resumes(folder, settings=SETTINGS, loaded=None, **others) -> bool:
    """Whether a run that comes to its end went on with an unfinished one."""
    run = Run(folder, settings, **others)
    run.check()
    with run.working(loaded):
        return run.resumed


def test_a_run_goes_on_until_it_ends(tmp_path):
    out, done = tmp_path / "made/out", []
    Run(out, SETTINGS).check()
    assert not out.exists()

    def work(run: Run) -> None:
        assert run.journal("evaluation").once("step", lambda: done.append("step") or 1) == 1
        (out / "result").write_text("mine")

    for _ in range(2):
        begin(out, work=work)
        assert (out / "unfinished_run/evaluation/step.json").exists()
    assert done == ["step"]
    assert resumes(out)
    assert [path.name for path in out.iterdir()] == ["result"]
    assert not resumes(out)


def test_what_is_only_known_later_is_compared_later(tmp_path):
    begin(tmp_path, loaded={"weights": "one"})
    Run(tmp_path, SETTINGS).check()
    with pytest.raises(UserError, match=r"other settings \(weights was one and is another\)"):
        begin(tmp_path, loaded={"weights": "another"})
    assert resumes(tmp_path, loaded={"weights": "one"})


def test_other_settings_are_named_and_nothing_is_lost(tmp_path):
    begin(tmp_path)
    with pytest.raises(UserError, match="unfinished run with other settings") as refusal:
        Run(tmp_path, {"eps": 0.2, "sweep": [2.0], "limit": None, "new": 1}).check()
    assert "(eps was 0.1 and is 0.2, sweep was [2.0, 4.0] and is [2.0], new was None and is 1)" in str(refusal.value)
    assert f"choose another output_dir, or delete {tmp_path}/unfinished_run to start anew" in str(refusal.value)
    assert resumes(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"logging_steps": 10, "report_to": ["tensorboard"], "run_name": "again", "disable_tqdm": True, "do_eval": True},
        {"dataloader_num_workers": 4, "dataloader_pin_memory": False, "dataloader_persistent_workers": True},
        {"per_device_eval_batch_size": 4, "eval_accumulation_steps": 2, "batch_size": 4},
        {"save_steps": 50, "save_total_limit": 3, "save_strategy": "epoch"},
        {"ddp_timeout": 7200, "torch_empty_cache_steps": 10, "skip_memory_metrics": False, "debug": "underflow"},
        {"output_dir": "elsewhere", "push_to_hub": True, "hub_token": "hf_secret", "update_card": True},
    ],
)
def test_a_run_goes_on_where_only_what_it_is_told_by_changed(tmp_path, changed):
    begin(tmp_path, {**SETTINGS, **dict.fromkeys(changed, 1)})
    assert resumes(tmp_path, {**SETTINGS, **changed})


@pytest.mark.parametrize(
    "name",
    ["seed", "eps", "per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_drop_last"],
)
def test_what_changes_the_result_is_refused(tmp_path, name):
    begin(tmp_path, {name: 1})
    with pytest.raises(UserError, match=rf"other settings \({name} was 1 and is 2\): choose another"):
        begin(tmp_path, {name: 2})


def test_a_folder_may_be_moved_renamed_and_spelled_otherwise(tmp_path, monkeypatch):
    (tmp_path / "data/photos").mkdir(parents=True)
    settings = {"dataset_name": str(tmp_path / "data/photos"), "output_dir": str(tmp_path / "out")}
    begin(tmp_path / "out", settings, {"content of the images": "one"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/photos").rename("photos")
    (tmp_path / "out").rename("other")
    here = {"dataset_name": "photos", "output_dir": "other"}
    with pytest.raises(UserError, match="content of the images was one and is another"):
        begin("other", here, {"content of the images": "another"})
    assert resumes("other", here, {"content of the images": "one"})


def refused(run: Run, work) -> None:
    with pytest.raises(UserError, match="mend this"), run.working():  # noqa: PT012
        work(run)
        raise UserError("mend this")


def test_what_is_refused_before_it_did_anything_can_begin_when_it_is_mended(tmp_path):
    refused(Run(tmp_path, {"batch": 1}), lambda run: (run.unfinished / "checkpoints").mkdir())
    run = Run(tmp_path, {"batch": 2}, leaves=["result"])
    assert run.state == NEW
    refused(run, lambda run: run.journal("evaluation").once("step", lambda: 1))
    assert run.state == UNFINISHED
    refused(run, lambda run: None)  # which goes on
    with pytest.raises(UserError, match=f"delete {tmp_path}/unfinished_run to start anew"):
        Run(tmp_path, {"batch": 3}).check()
    (tmp_path / "result").touch()
    with pytest.raises(UserError, match=f"delete {tmp_path} to start anew"):
        Run(tmp_path, {"batch": 3}, leaves=["result"]).check()


def test_beside_a_result_that_may_be_replaced_what_is_refused_can_begin_too(tmp_path):
    (tmp_path / "result").touch()
    replacing = {"leaves": ["result"], "replaceable": lambda: True}
    refused(Run(tmp_path, {"batch": 1}, **replacing), lambda run: None)
    run = Run(tmp_path, {"batch": 2}, **replacing)
    refused(run, lambda run: run.journal("evaluation").once("step", lambda: 1))
    with pytest.raises(UserError, match=f"delete {tmp_path}/unfinished_run to start anew"):
        Run(tmp_path, {"batch": 3}, **replacing).check()
    assert (tmp_path / "result").exists()


def test_of_many_other_settings_some_are_named(tmp_path):
    begin(tmp_path, dict.fromkeys("abcdefghij", 1))
    with pytest.raises(UserError, match=r"\(a was 1 and is 2, .*, f was 1 and is 2, and 4 more\)"):
        begin(tmp_path, dict.fromkeys("abcdefghij", 2))


@pytest.mark.parametrize("content", ["", '{"eps": 0.', "[]", "null", "\0\0"])
def test_settings_that_were_cut_off_are_named(tmp_path, content):
    begin(tmp_path)
    path = tmp_path / "unfinished_run/settings.json"
    path.write_text(content)
    for find in (Run(tmp_path, SETTINGS).check, lambda: begin(tmp_path)):
        with pytest.raises(UserError, match=f"{path} cannot be read .*delete {path.parent} to start anew"):
            find()
    assert path.read_text() == content


def test_a_folder_says_what_it_is_and_results_are_not_overwritten(tmp_path):
    writes = {"leaves": ["report.json", "model"], "overwrites": ["picture.png"]}

    def write_all(run: Run) -> None:
        for name in (*run.leaves, *run.overwrites):
            (run.folder / name).write_text("mine")

    run = Run(tmp_path, SETTINGS, **writes)
    assert run.state == NEW
    (tmp_path / "picture.png").write_text("theirs")
    assert run.state == TAKEN
    for refuse in (run.check, run.working().__enter__):
        with pytest.raises(UserError, match=r"what is of no finished run \(picture.png\).* another output_dir\.$"):
            refuse()
    (tmp_path / "picture.png").unlink()
    begin(tmp_path, work=write_all, **writes)
    assert run.state == UNFINISHED
    with run.working():
        assert run.resumed
    assert run.state == FINISHED
    for refuse in (run.check, run.working().__enter__):
        with pytest.raises(UserError, match=r"a finished run \(report.json, model, picture.png\).* to run anew"):
            refuse()
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "model", "picture.png"}


def test_results_that_may_be_replaced_are_no_hindrance(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    assert not resumes(tmp_path, leaves=["report.json"], replaceable=lambda: True)


def test_a_run_that_is_killed_while_its_leftovers_go_has_ended(tmp_path, monkeypatch):
    def killed(path):
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        monkeypatch.context() as patch,
        Run(tmp_path, SETTINGS).working(),
    ):
        patch.setattr("shutil.rmtree", killed)
    assert not resumes(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_was_killed_before_it_had_begun_is_begun_anew(tmp_path):
    (tmp_path / "unfinished_run").mkdir()
    (tmp_path / "unfinished_run/settings.json.draft").write_text('{"eps"')
    (tmp_path / "unfinished_run/left_over.json").write_text("{}")
    begin(tmp_path)
    assert [path.name for path in (tmp_path / "unfinished_run").iterdir()] == ["settings.json"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out is a file, expected a folder or a new name"):
        Run(tmp_path / "out", SETTINGS).check()


def test_the_command_names_the_folder_and_no_path(tmp_path):
    command = Run(tmp_path / "out", SETTINGS).command("harden", {"eps": 0.1})
    assert command == "genaf-hf harden --eps 0.1 --output_dir out"


def test_what_is_read_is_not_written_into_and_workers_share_a_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="lies in the folder of the dataset"):
        Run(tmp_path / "photos/out", {}, reads={"dataset": str(tmp_path / "photos")}).check()
    with Run(tmp_path, {}, shared=True).working(), Run(tmp_path, {}, shared=True).working():
        assert not (tmp_path / "unfinished_run").exists()
