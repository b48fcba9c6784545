import pytest

from genaf_hf.errors import UserError
from genaf_hf.runs.unfinished_run import begin_or_resume, check_unfinished_run, end_run

SETTINGS = {"eps": 0.1, "sweep": [2.0, 4.0], "limit": None}


def test_a_run_is_begun_once_and_then_gone_on_with(tmp_path):
    out = tmp_path / "made/out"
    assert not check_unfinished_run(out, SETTINGS)
    assert not out.exists()
    assert not begin_or_resume(out, SETTINGS)
    (out / "unfinished_run/step.json").write_text("{}")
    (out / "result").write_text("mine")
    for _ in range(2):
        assert check_unfinished_run(out, SETTINGS)
        assert begin_or_resume(out, SETTINGS)
    assert (out / "unfinished_run/step.json").exists()
    end_run(out)
    assert [path.name for path in out.iterdir()] == ["result"]
    assert not check_unfinished_run(out, SETTINGS)


def test_what_is_only_known_later_is_compared_later(tmp_path):
    begin_or_resume(tmp_path, {**SETTINGS, "weights": "one"})
    assert check_unfinished_run(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match=r"other settings \(weights was one and is another\)"):
        begin_or_resume(tmp_path, {**SETTINGS, "weights": "another"})


def test_other_settings_are_named_and_nothing_is_lost(tmp_path):
    begin_or_resume(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="unfinished run with other settings") as refusal:
        begin_or_resume(tmp_path, {"eps": 0.2, "sweep": [2.0], "limit": None, "new": 1})
    assert "(eps was 0.1 and is 0.2, sweep was [2.0, 4.0] and is [2.0], new was None and is 1)" in str(refusal.value)
    assert f"choose another output_dir, or delete {tmp_path}/unfinished_run to start anew" in str(refusal.value)
    assert begin_or_resume(tmp_path, SETTINGS)


def test_a_run_goes_on_where_only_what_it_is_told_by_changed(tmp_path):
    before = {**SETTINGS, "logging_steps": 500, "per_device_eval_batch_size": 8, "save_steps": 500, "report_to": []}
    begin_or_resume(tmp_path, before)
    after = {"logging_steps": 10, "per_device_eval_batch_size": 4, "save_steps": 50, "report_to": ["tensorboard"]}
    assert begin_or_resume(tmp_path, {**before, **after})
    with pytest.raises(UserError, match=r"other settings \(output_dir was None and is elsewhere\)"):
        begin_or_resume(tmp_path, {**before, "output_dir": "elsewhere"})


def test_of_many_other_settings_some_are_named(tmp_path):
    begin_or_resume(tmp_path, dict.fromkeys("abcdefghij", 1))
    with pytest.raises(UserError, match=r"\(a was 1 and is 2, .*, f was 1 and is 2, and 4 more\)"):
        begin_or_resume(tmp_path, dict.fromkeys("abcdefghij", 2))


@pytest.mark.parametrize("content", ["", '{"eps": 0.', "[]", "null", "\0\0"])
def test_settings_that_were_cut_off_are_named(tmp_path, content):
    begin_or_resume(tmp_path, SETTINGS)
    path = tmp_path / "unfinished_run/settings.json"
    path.write_text(content)
    for find in (check_unfinished_run, begin_or_resume):
        with pytest.raises(UserError, match=f"{path} cannot be read .*delete {path.parent} to start anew"):
            find(tmp_path, SETTINGS)
    assert path.read_text() == content


def test_results_are_not_overwritten_and_those_of_the_run_itself_are_no_hindrance(tmp_path):
    assert not begin_or_resume(tmp_path, SETTINGS, ["report.json"])
    (tmp_path / "report.json").write_text("{}")
    assert begin_or_resume(tmp_path, SETTINGS, ["report.json"])  # killed while it wrote
    end_run(tmp_path)
    for find in (check_unfinished_run, begin_or_resume):
        with pytest.raises(UserError, match=r"holds what a finished run left, or somebody else \(report.json\)"):
            find(tmp_path, SETTINGS, ["model.safetensors", "report.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_run_that_is_killed_while_its_leftovers_go_has_ended(tmp_path, monkeypatch):
    begin_or_resume(tmp_path, SETTINGS)

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            end_run(tmp_path)
    assert not check_unfinished_run(tmp_path, SETTINGS)
    assert not begin_or_resume(tmp_path, SETTINGS)
    end_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_was_killed_before_it_had_begun_is_begun_anew(tmp_path):
    (tmp_path / "unfinished_run").mkdir()
    (tmp_path / "unfinished_run/settings.json.draft").write_text('{"eps"')
    (tmp_path / "unfinished_run/left_over.json").write_text("{}")
    assert not begin_or_resume(tmp_path, SETTINGS)
    assert [path.name for path in (tmp_path / "unfinished_run").iterdir()] == ["settings.json"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="out is a file, expected a folder or a new name"):
        begin_or_resume(tmp_path / "out", SETTINGS)
