import pytest

from genaf_hf.errors import first_line


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("gone", "gone"),
        ("\n The file is gone. \nTraceback ...", "The file is gone"),
        ("Failed:\n\n  the file is gone.\nAnd more.", "Failed: the file is gone"),
        ("Failed:", "Failed:"),
        ("", "OSError"),
        (" \n.\n", "OSError"),
    ],
)
def test_first_line_of_an_error(said, kept):
    assert first_line(OSError(said)) == kept


def test_error_without_words_is_named_by_its_kind():
    assert first_line(AttributeError()) == "AttributeError"
