"""Which class of a model is meant by which of a dataset."""

import pytest

from genaf_hf.pipelines.class_matching import match_classes


@pytest.mark.parametrize(
    ("of_model", "of_dataset", "ids"),
    [
        (["a", "b", "c"], ["c", "a"], [2, 0]),
        (["tabby cat", "Dog"], ["DOG", "tabby_cat "], [1, 0]),
        (["A", "a", "b"], ["a", "A"], [1, 0]),  # letters: by case where that is needed
        (["dog", "cafe\u0301"], ["caf\u00e9", "dog"], [1, 0]),  # an accent of its own, and one with its letter
        (["crane", "crane", "kite"], ["kite"], [2]),
        (["LABEL_0", "LABEL_1"], ["x", "y"], [0, 1]),
        (["LABEL_0", "LABEL_1"], ["10", "x"], [0, 1]),  # which are not all numbers
        (["LABEL_0", "LABEL_1"], ["LABEL_0", "LABEL_1"], [0, 1]),
        (["1", "0"], ["0", "1"], [1, 0]),
    ],
)
def test_match_classes(of_model, of_dataset, ids):
    assert match_classes(of_model, of_dataset)[0] == ids


@pytest.mark.parametrize(
    ("of_model", "of_dataset", "ids", "said"),
    [
        (
            ["tench", "crane", "crane", "dog"],
            ["tench", "crane", "crane2", "dog"],
            [0, 1, 2, 3],
            '"crane2" is 2, "crane"',
        ),
        (
            ["crane", "tench, Tinca tinca", "crane"],
            ["crane", "tench", "construction crane"],
            [0, 1, 2],
            "by their order",
        ),
        (["crane", "kite", "crane"], ["crane", "kite", "crane"], [0, 1, 2], None),
        (["kite", "tench, Tinca tinca", "Great_White-shark"], ["great white shark", "Tench"], [2, 1], '"Tench" is 1'),
        (["maillot", "maillot, tank suit"], ["tank suit", "maillot"], [1, 0], '"tank suit" is 1, "maillot, tank suit"'),
        (["cat", "dog", "ant"], ["2", "0", "1"], [2, 0, 1], '"2" is 2, "ant"; "0" is 0, "cat"'),
        (["0", "1"], ["cat", "dog"], [0, 1], "The model has numbers for names"),
    ],
)
def test_classes_that_are_matched_without_the_same_name_are_named(of_model, of_dataset, ids, said, caplog):
    found, assumed = match_classes(of_model, of_dataset)
    assert found == ids
    assert [record.getMessage() for record in caplog.records] == [assumed] * (said is not None)
    assert bool(assumed) == (said is not None)
    assert (said or "") in assumed


@pytest.mark.parametrize(
    ("of_model", "of_dataset", "odd"),
    [
        (["a", "b"], ["a", "c"], "c"),
        (["crane", "crane", "kite"], ["kite", "crane"], "crane"),
        (["A", "a"], ["a", "Ä"], "a"),
        (["cat", "dog"], ["cat", "Cat"], "cat"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["x", "y"], "x"),
        (["dog", "crane", "crane"], ["dog", "boat", "ship"], "boat"),
        (["crane", "crane"], ["bird", "machine"], "bird"),
        (["crane", "crane"], ["crane1", "crane2"], "crane1"),
        (["dog", "crane", "crane"], ["crane", "dog", "crane2"], "crane"),
        (["cat", "dog"], ["1", "2"], "1"),
        (["cat", "dog", "ant"], ["0", "1"], "0"),
        (["0", "1"], ["cat", "dog", "ant"], "cat"),
    ],
)
def test_classes_that_cannot_be_told_are_refused(of_model, of_dataset, odd):
    with pytest.raises(ValueError, match=f'The model has not exactly one class for "{odd}" of the dataset; it has'):
        match_classes(of_model, of_dataset)


@pytest.mark.parametrize("first", [0, 1])
def test_a_model_without_names_is_refused_on_numbers_that_are_sorted_as_words(first):
    names = [str(number) for number in range(first, first + 11)]
    unnamed = [f"LABEL_{i}" for i in range(11)]
    assert match_classes(unnamed, names)[0] == [*range(11)]
    with pytest.raises(ValueError, match=r"does not name its classes, and the dataset's are \d, .*10, "):
        match_classes(unnamed, sorted(names))


def test_labels_without_a_name_that_stand_in_another_order_are_refused():
    unnamed = [f"LABEL_{i}" for i in range(11)]
    assert match_classes(unnamed, unnamed)[0] == [*range(11)]
    with pytest.raises(ValueError, match="does not name its classes, and the dataset's are LABEL_0, LABEL_1, LABEL_10"):
        match_classes(unnamed, sorted(unnamed))
