"""Pictures of images under attack: which images, and the names above and below them."""

from collections import Counter

import torch
from matplotlib.figure import Figure

from genaf_hf import PixelModel
from genaf_hf.data import to_pixel_values
from genaf_hf.pipelines.shown_images import shown_images
from genaf_hf.sharing.figures import SHOWN, draw_gallery
from genaf_hf.sharing.picture import save


def test_of_images_in_the_order_of_their_classes_those_of_several_classes_are_shown(vit, dataset):
    model, test = PixelModel(*vit), dataset["train"].sort("label")
    images, labels = shown_images(model, test)
    assert images.shape[0] == SHOWN
    assert {*labels.tolist()} == {0, 1, 2}
    held = {each.numpy().tobytes() for each in model.to_images(to_pixel_values(test[:], vit[1])["pixel_values"])}
    assert all(image.numpy().tobytes() in held for image in images)


def test_images_that_a_model_has_right_are_shown_first(vit, dataset):
    model, test = PixelModel(*vit), dataset["train"]
    with torch.no_grad():
        found = model(model.to_images(to_pixel_values(test[:], vit[1])["pixel_values"])).argmax(1).tolist()
    given = [answer if row >= len(test) - 9 else (answer + 1) % 3 for row, answer in enumerate(found)]
    labelled = test.remove_columns("label").add_column("label", given, feature=test.features["label"])
    images, labels = shown_images(model, labelled)
    right = Counter(label for answer, label in zip(found, given, strict=True) if answer == label)
    with torch.no_grad():
        shown = Counter(labels[model(images).argmax(1) == labels].tolist())
    expected = {label: min(right[label], count) for label, count in Counter(labels.tolist()).items() if right[label]}
    assert shown == expected


def test_letters_that_no_font_has_are_told_once(tmp_path, caplog, recwarn):
    figure = Figure()
    figure.text(0.5, 0.5, "\N{LINEAR A SIGN AB001}")
    save(figure, tmp_path / "picture.png")
    assert caplog.messages == [
        "picture.png has boxes in place of some letters, which no installed font has: install one that does, such as "
        "Noto Sans CJK for Chinese, Japanese and Korean"
    ]
    assert not [each for each in recwarn if "missing from font" in str(each.message)]


def test_class_names_are_no_markup(vit, pixels, tmp_path):
    model = PixelModel(*vit)
    images = model.to_images(pixels["test"][:8]["pixel_values"])
    attacks = {"none": lambda images, labels: images, "more": lambda images, labels: (images + 0.1).clamp(0, 1)}
    names = ["$a_$", '"> <script>', "\\frac{a}{ ü |"]
    draw_gallery(model, images, pixels["test"][:8]["labels"], names, attacks, tmp_path / "gallery.png")
    assert (tmp_path / "gallery.png").stat().st_size > 10_000
