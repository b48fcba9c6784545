import pytest

from genaf_hf.unfinished_run import begin_or_resume, check_unfinished_run, end_run

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
