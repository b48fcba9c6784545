import io
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from runpy import run_path

import httpx2
import numpy as np
import pytest
import torch
from audits import save_trained
from browser import browser
from conftest import CLASSES, SIDE, TINY_VIT
from datasets import ClassLabel, DatasetDict
from PIL import Image as PILImage
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import genaf_hf
from genaf_hf import PixelModel, UniversalPatch, UniversalPerturbation, l4a, load_encoder, pgd, with_pixel_values
from genaf_hf.attacks import square
from genaf_hf.demo.arguments import DemoArguments
from genaf_hf.demo.demo import Demo, Outcome, amplified, different, eps_words
from genaf_hf.demo.pictures import enlarged, read_image
from genaf_hf.models.loading import load_classifier

pytestmark = [pytest.mark.slow(reason="attacks models, and serves the page"), pytest.mark.usefixtures("home")]

__all__ = ["browser"]
RECIPE = Path(__file__).parents[1] / "recipes" / "demo.py"
HOSTILE = ["<img src=x onerror=alert(1)>", "**green** <b>x</b>", "blue"]
QUICK = {"l4a": {"steps": 3, "layer": 0}, "uapgd": {"steps": 2}, "pgd": {"steps": 3}, "square": {"steps": 5}}
PUBLISHED_EPS = 0.3


@pytest.fixture(scope="module")
def images(place, dataset) -> str:
    """The colors, under class names that would like to be markup, in another order than the models'."""
    feature = ClassLabel(names=HOSTILE[::-1])
    DatasetDict(
        {
            split: part.remove_columns("label").add_column(
                "label", [len(HOSTILE) - 1 - label for label in part["label"]], feature=feature
            )
            for split, part in dataset.items()
        }
    ).save_to_disk(place / "colors")
    return str(place / "colors")


@pytest.fixture(scope="module")
def models(place, dataset, encoders) -> dict[str, str]:
    """Folders of two classifiers that are right about most images, one trained for longer."""
    folders = {}
    for name, steps in (("undefended", 12), ("hardened", 20)):
        save_trained(place / name, encoders["dino"], HOSTILE, dataset["train"], steps)
        folders[name] = str(place / name)
    return folders


@pytest.fixture(scope="module")
def published(place, models, encoders) -> UniversalPerturbation:
    """A perturbation beside the hardened model, crafted on the public encoder."""
    encoder = PixelModel(*load_encoder(encoders["dino"], CLASSES)).eval()
    generator = torch.Generator().manual_seed(0)
    attacker = torch.rand(8, 3, SIDE, SIDE, generator=generator)
    found = l4a(encoder, attacker, eps=PUBLISHED_EPS, steps=4, seed=5, data="8 images of noise, without labels")
    found.save_pretrained(Path(models["hardened"]) / "perturbation")
    return found


@pytest.fixture(scope="module")
def arguments(models, images, encoders, published):
    """A function that makes arguments of a quick demo, changed by keyword."""

    def make(**changes) -> DemoArguments:
        attacks = changes.get("attacks", ",".join(QUICK))
        settings = {name: QUICK[name] for name in attacks.split(",") if name in QUICK}
        given = {"dataset_name": images, "encoder": encoders["dino"], "attack_settings": settings, "eps": [0.1, 0.4]}
        return DemoArguments(**{**models, **given, "attacks": attacks, **changes})

    return make


@pytest.fixture(scope="module")
def demo(arguments) -> Demo:
    return Demo(arguments())


def perturbation(demo, *asked) -> UniversalPerturbation:
    """What the demo attacks by."""
    return demo.crafted_threat(*asked).perturbations["hardened"]


def png(size=(SIDE, SIDE), mode="RGB", form="PNG", **settings) -> bytes:
    """A file of noise."""
    generator = np.random.default_rng(0)
    noise = PILImage.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    written = io.BytesIO()
    noise.convert(mode).save(written, form, **settings)
    return written.getvalue()


# ---- attacks ----


def test_an_attack_on_the_models_is_run_on_each_one_against_its_own_prediction(demo, models):
    images = demo.view(demo.examples[0]["image"])
    for name, attack in (("pgd", pgd), ("square", square)):
        outcomes = demo.attack(images, name, 0.1)
        assert list(outcomes) == ["undefended", "hardened"]
        for model_name, outcome in outcomes.items():
            model = PixelModel(*load_classifier(models[model_name]))
            label = model(images[model_name]).argmax(1)
            expected = attack(model, images[model_name], label, eps=0.1, steps=QUICK[name]["steps"])[0]
            torch.testing.assert_close(outcome.attacked, expected, rtol=0, atol=1e-6)
            torch.testing.assert_close(outcome.image, images[model_name][0], rtol=0, atol=0)
            assert 0 < outcome.distance <= 0.1 + 1e-6


def test_probabilities_are_those_of_the_model_by_class_name_the_highest_first(demo, models):
    images = demo.view(demo.examples[0]["image"])
    outcome = demo.attack(images, "pgd", 0.4)["undefended"]
    model = PixelModel(*load_classifier(models["undefended"]))
    for found, image in ((outcome.before, outcome.image), (outcome.after, outcome.attacked)):
        expected = model(image[None])[0].softmax(0).tolist()
        assert found == pytest.approx(dict(zip(HOSTILE, expected, strict=True)), abs=1e-6)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    assert demo.predictions(images)["undefended"] == pytest.approx(outcome.before)
    assert outcome.fooled == (max(outcome.before, key=outcome.before.get) != max(outcome.after, key=outcome.after.get))


def test_a_strong_attack_fools_and_an_image_that_is_not_moved_does_not(demo):
    images = demo.view(demo.examples[0]["image"])
    assert all(outcome.fooled for outcome in demo.attack(images, "pgd", 0.4).values())
    before = demo.predictions(images)["hardened"]
    assert not Outcome(images["hardened"][0], images["hardened"][0], 0.0, before, before).fooled


def test_the_published_perturbation_is_used_where_attack_and_eps_are_its_own(demo, published):
    assert demo.eps == [0.1, PUBLISHED_EPS, 0.4]
    assert torch.equal(perturbation(demo, "l4a", PUBLISHED_EPS).delta, published.delta)
    assert demo.crafted.keys() <= {("l4a", 0.1), ("l4a", 0.4)}
    images = demo.view(demo.examples[1]["image"])
    for name, outcome in demo.attack(images, "l4a", PUBLISHED_EPS).items():
        expected = (images[name][0] + published.delta).clamp(0, 1)
        torch.testing.assert_close(outcome.attacked, expected, rtol=0, atol=0)
    assert demo.knowledge("l4a", PUBLISHED_EPS) == (
        "The attacker has the public encoder dino and 8 images of noise, without labels, and neither model; one "
        "perturbation fits every image. It is the one published with the hardened model."
    )


def test_the_first_example_is_one_on_which_the_two_models_differ(demo, published, monkeypatch):
    def differ(example) -> bool:
        outcomes = demo.attack(demo.view(example["image"]), "l4a", published.eps)
        right = next(iter(outcomes["hardened"].after)) == demo.class_names[example["label"]]
        return outcomes["undefended"].fooled and right and not outcomes["hardened"].fooled

    def pictures(examples) -> list[bytes]:
        return [image["bytes"] for image in examples["image"]]

    image = demo.view(demo.examples[1]["image"])["undefended"]
    undefended = demo.models["undefended"]
    shift = pgd(undefended, image, undefended(image).argmax(1), eps=published.eps, steps=10)[0] - image[0]
    for strength in torch.linspace(0.05, 1, 20):
        monkeypatch.setattr(demo, "published", replace(published, delta=strength * shift.detach()))
        telling = [differ(example) for example in demo.examples]
        if any(telling[1:]) and not telling[0]:
            break
    found = demo.telling_first(demo.examples)
    assert differ(found[0])
    assert pictures(found)[0] == pictures(demo.examples)[telling.index(True)]
    assert sorted(pictures(found)) == sorted(pictures(demo.examples))


def test_at_another_eps_one_is_crafted_on_the_public_encoder_with_the_seed_that_was_published(demo, dataset, encoders):
    told = []
    found = perturbation(demo, "l4a", 0.1, told.append)
    encoder = PixelModel(*load_encoder(encoders["dino"], CLASSES)).eval()
    attacker = encoder.to_images(with_pixel_values(dataset["train"], encoder.processor)[:]["pixel_values"])
    expected = l4a(encoder, attacker, eps=0.1, steps=3, layer=0, seed=5)
    torch.testing.assert_close(found.delta, expected.delta, rtol=0, atol=1e-6)
    assert (found.encoder, found.data) == ("dino", "48 images of colors, split train, without labels")
    assert told == list(range(1, len(told) + 1))
    assert len(told) >= 3
    assert demo.knowledge("l4a", 0.1) == (
        "The attacker has the public encoder dino and 48 images of colors, split train, without labels, and neither "
        "model; one perturbation fits every image."
    )


def test_it_is_crafted_once_also_for_another_demo(demo, arguments):
    found, told = perturbation(demo, "uapgd", 0.4), []
    assert perturbation(demo, "uapgd", 0.4, told.append) is found
    again = perturbation(Demo(arguments()), "uapgd", 0.4, told.append)
    assert torch.equal(again.delta, found.delta)
    assert told == []
    assert found.data == "48 images of colors, split train, with labels"


def test_what_the_attacker_of_a_model_has_is_said(demo):
    assert "has the weights of each model" in demo.knowledge("pgd", 0.1)
    assert "has the answers of each model" in demo.knowledge("square", 0.1)


def test_a_norm_of_its_own(arguments):
    l2 = Demo(arguments(attacks="pgd", attack_settings={"pgd": {"norm": "l2", "steps": 3}}, eps=[0.5], encoder=None))
    assert (l2.norm("pgd"), l2.encoder, l2.published) == ("l2", None, None)
    outcome = l2.attack(l2.view(l2.examples[0]["image"]), "pgd", 0.5)["hardened"]
    moved = (outcome.attacked - outcome.image).norm().item()
    assert outcome.distance == pytest.approx(moved, abs=1e-5)
    assert 0 < moved <= 0.5 + 1e-5


@pytest.mark.parametrize("change", ["encoder", "size", "patch", "eps", "norm", "attack", "broken"])
def test_a_published_perturbation_that_does_not_fit_is_left(arguments, models, published, tmp_path, change, caplog):
    caplog.set_level("INFO", "genaf_hf.demo.demo")
    folder = tmp_path / "hardened"
    for part in load_classifier(models["hardened"]):
        part.save_pretrained(folder)
    record = {**published.provenance, "delta": published.delta}
    if change == "patch":
        found = UniversalPatch(**{**record, "delta": torch.rand(3, SIDE, SIDE), "eps": 1})
    else:
        wrong = {
            "encoder": {"encoder": "another"},
            "size": {"delta": published.delta[:, :4, :4]},
            "eps": {"eps": 7.0},
            "norm": {"norm": "l2", "eps": 3.0},
            "attack": {"attack": "ssp"},
            "broken": {},
        }
        found = UniversalPerturbation(**{**record, **wrong[change]})
    found.save_pretrained(folder / "perturbation")
    if change == "broken":
        (folder / "perturbation/perturbation.safetensors").write_bytes(b"nothing")
    demo = Demo(arguments(hardened=str(folder)))
    assert (demo.published, demo.eps) == (None, [0.1, 0.4])
    assert ("No perturbation of the hardened model is used" in caplog.text) == (change in ("broken", "eps"))
    assert ("is not used: its norm is l2, that of l4a here is linf" in caplog.text) == (change == "norm")


# ---- images ----


@pytest.mark.parametrize(
    ("mode", "form", "settings"),
    [
        ("L", "PNG", {}),
        ("LA", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "GIF", {}),
        ("1", "BMP", {}),
        ("CMYK", "JPEG", {}),
        ("CMYK", "TIFF", {}),
        ("RGB", "WEBP", {"lossless": True}),
    ],
)
def test_every_mode_goes_through_the_models_own_processor(demo, tmp_path, mode, form, settings):
    (tmp_path / "file").write_bytes(png((40, 25), mode, form, **settings))
    for name, found in demo.view(read_image(tmp_path / "file")).items():
        processor = demo.models[name].processor
        expected = processor(PILImage.open(tmp_path / "file").convert("RGB"), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(found, expected * 0.5 + 0.5, rtol=0, atol=1e-6)
        assert found.shape == (1, 3, SIDE, SIDE)


def test_a_rotated_photograph_is_shown_upright(demo, tmp_path):
    exif = PILImage.Exif()
    exif[0x0112] = 6
    (tmp_path / "file").write_bytes(png((SIDE, SIDE), exif=exif))
    (tmp_path / "plain").write_bytes(png((SIDE, SIDE)))
    turned, plain = (demo.view(read_image(tmp_path / name))["hardened"] for name in ("file", "plain"))
    assert torch.equal(turned, plain.rot90(-1, (2, 3)))


@pytest.mark.parametrize(
    "content",
    [b"", b"<svg onload=alert(1)>", png()[:60], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n"],
    ids=["empty", "svg", "cut off", "eps"],
)
def test_a_file_that_is_no_image_is_refused_without_its_name(tmp_path, content):
    (tmp_path / "secret<b>.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"This (file|image) cannot be .*PNG") as refusal:
        read_image(tmp_path / "secret<b>.png")
    assert "secret" not in str(refusal.value)


def test_a_bomb_and_sixteen_bits_are_refused(tmp_path, monkeypatch):
    PILImage.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match='cannot be shown to the models: its mode is "I;16", expected 8 bits'):
        read_image(tmp_path / "deep.png")
    PILImage.new("RGB", (2000, 2)).save(tmp_path / "long.png")
    with pytest.raises(ValueError, match="cannot be shown to the models: it has 2000 x 2 pixels"):
        read_image(tmp_path / "long.png")
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 10)
    (tmp_path / "bomb.png").write_bytes(png())
    with pytest.raises(ValueError, match="This file cannot be read"):
        read_image(tmp_path / "bomb.png")


def test_small_images_are_enlarged_without_blur():
    image = torch.rand(3, SIDE, SIDE)
    found = np.asarray(enlarged(image))
    factor = 256 // SIDE
    expected = (image * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, expected.repeat(factor, 0).repeat(factor, 1))
    assert enlarged(torch.rand(3, 300, 400)).size == (400, 300)


def test_the_perturbation_is_gray_where_nothing_changed():
    image, shift = torch.full((3, 2, 2), 0.5), torch.tensor([[0.1, -0.1], [0.05, 0.0]]).expand(3, 2, 2)
    found = amplified(Outcome(image, image + shift, 0.1, {}, {}))
    torch.testing.assert_close(found[0], torch.tensor([[1.0, 0.0], [0.75, 0.5]]))
    assert amplified(Outcome(image, image, 0.0, {}, {})).unique().tolist() == [0.5]


def test_words():
    assert eps_words(0.31) == "0.31 = 79.05/255"
    assert eps_words(8 / 255) == "0.0314 = 8/255"
    assert eps_words(0.5, "l2") == "0.5"
    assert different(["crane", "kite", "crane"]) == ["crane (0)", "kite", "crane (2)"]


# ---- what is refused ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"eps": []}, r"eps is \[\], expected numbers to choose from"),
        ({"eps": [0.1, 8]}, r"eps is 8, expected a value in \(0, 1\]"),
        ({"attacks": "pgd,nonsense"}, 'There is no attack "nonsense"'),
        ({"attacks": "advencoder-pat"}, "advencoder-pat has no eps to choose"),
        ({"attacks": "l4a,upgd"}, "upgd is crafted on each model for all images, which is not shown here"),
        ({"attacks": "pgd", "attack_settings": {"pgd": {"eps": 0.1}}}, "attack_settings give pgd an eps"),
        ({"attacks": "pgd", "attack_settings": {"pgd": {"stepz": 1}}}, 'pgd has no setting "stepz"'),
        ({"undefended": "nowhere/none"}, "nowhere/none"),
    ],
)
def test_wrong_arguments_are_refused(arguments, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Demo(arguments(**changes))


def test_two_models_that_do_not_go_together_are_refused(arguments, tmp_path):
    for labels, side, sentence in (
        (["a", "b", "c"], SIDE, "have other class names"),
        (HOSTILE, 2 * SIDE, "images of 16 x 16 pixels, the hardened one of 8 x 8"),
    ):
        config = ViTConfig(**{**TINY_VIT, "image_size": side}, id2label=dict(enumerate(labels)))
        ViTForImageClassification(config).save_pretrained(tmp_path / sentence)
        ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(tmp_path / sentence)
        with pytest.raises(ValueError, match=sentence):
            Demo(arguments(undefended=str(tmp_path / sentence)))


def test_the_recipe_says_what_makes_the_default_models(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["demo.py"])
    with pytest.raises(SystemExit, match="There is no digits-vit-genaf here yet: genaf-hf harden makes it"):
        run_path(str(RECIPE), run_name="__main__")


def test_without_gradio_the_recipe_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "genaf_hf.demo.page", raising=False)
    monkeypatch.setattr("sys.argv", ["demo.py"])
    with pytest.raises(SystemExit, match="needs gradio: pip install 'gradio"):
        run_path(str(RECIPE), run_name="__main__")


def test_only_the_page_imports_gradio():
    sources = {path: path.read_text(encoding="utf-8") for path in Path(genaf_hf.__file__).parent.rglob("*.py")}
    assert [path for path, text in sources.items() if re.search(r"^\s*(import|from) gradio", text, re.MULTILINE)] == [
        Path(genaf_hf.__file__).parent / "demo/page.py"
    ]


# ---- the page ----


@pytest.fixture(scope="module")
def address(processes, place, models, images, encoders, published):
    """Of a running recipe."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    port = processes.free_port()
    flags = {**models, "dataset_name": images, "encoder": encoders["dino"], "attacks": "l4a,pgd", "eps": "0.4"}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(place / "uploads")}
    (place / "secret.txt").write_text("a secret")
    log = place / "log"
    log.touch()
    server = processes.start([sys.executable, RECIPE, *words], cwd=place, env=environment, said=(log, log))
    try:
        while "Running on local URL" not in log.read_text():
            assert server.exitcode is None, log.read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.join()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def page(browser, address):
    """The page, freshly opened. It asks nobody else for anything, and runs nobody's markup."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, dialogs = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    page.locator("#run").wait_for()
    yield page
    page.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert dialogs == []


def choose(page, number: int) -> None:
    page.locator("#examples button:has(img)").nth(number).click()
    page.get_by_text("Not attacked yet").wait_for()


def pick(page, attack: str, eps: str) -> None:
    page.locator("#attack input").click()
    page.get_by_role("option", name=attack, exact=True).click()
    page.locator("#eps").get_by_text(eps).click()


def run(page) -> str:
    """The verdict."""
    page.locator("#run").click()
    page.locator("#verdict").get_by_text("undefended:").first.wait_for()
    return page.locator("#verdict").inner_text()


def test_an_example_is_attacked_and_both_predictions_stand_side_by_side(page, demo):
    choose(page, 0)
    pick(page, "pgd", "0.4 = 102/255")
    page.locator("#words").get_by_text("has the weights of each model").wait_for()
    verdict = run(page)
    images = demo.view(demo.examples[0]["image"])
    for name, predicted in demo.predictions(images).items():
        before = next(iter(predicted))
        said = re.search(rf"{name}: (.+?) → (.+?) \((not )?fooled\)", verdict)
        assert said[1] == before
        assert (said[2] == before) == (said[3] is not None)
        headings = page.locator(f"#{name} .two h2").all_inner_texts()
        assert [heading.strip() for heading in headings] == [said[1], said[2]]
        pictures = page.locator(f"#{name} .three img")
        assert pictures.count() == 3
        widths = pictures.evaluate_all("images => images.map(image => [image.naturalWidth, image.naturalHeight])")
        assert widths == [[256, 256]] * 3
    assert "pgd, L-inf, eps 0.4 = 102/255. The image was moved by: undefended 0.4 = 102/255" in verdict


def test_thumbnails_and_pictures_have_names(page, demo):
    names = [f"Example {i + 1}: {HOSTILE[label]}" for i, label in enumerate(demo.examples["label"])]
    page.get_by_role("button", name=names[0], exact=True).wait_for()
    assert page.locator("#examples button:has(img)").evaluate_all("all => all.map(each => each.ariaLabel)") == names
    choose(page, 0)
    run(page)
    words = [f"{model}: {name} image" for model in demo.models for name in ("clean", "perturbation", "attacked")]
    assert page.locator(".three img").evaluate_all("all => all.map(each => each.alt)") == words


def test_a_dropped_file_and_the_published_perturbation(page, tmp_path):
    name = "<img src=x onerror=alert(2)>.png"
    page.locator("#upload input[type=file]").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": png((60, 40), "RGBA")}
    )
    page.get_by_text("Not attacked yet").wait_for()
    pick(page, "l4a", "0.3 = 76.5/255")
    page.locator("#words").get_by_text("It is the one published with the hardened model.").wait_for()
    verdict = run(page)
    assert "l4a, L-inf, eps 0.3 = 76.5/255" in verdict
    assert page.locator(".three img").count() == 6
    assert page.locator("img[onerror]").count() == 0


def test_hostile_class_names_are_text(page, demo):
    for number in range(3):
        choose(page, number)
        verdict = run(page)
        assert page.locator("#verdict img, #verdict b, #verdict strong").count() == 0
        assert any(name in verdict for name in HOSTILE)
        page.reload()
        page.locator("#run").wait_for()
    captions = page.locator("#examples .caption-label").all_inner_texts()
    assert captions == [HOSTILE[label] for label in demo.examples["label"]]
    assert page.locator("img[onerror]").count() == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (png()[:60], "This file cannot be read: expected an image, BMP, GIF, JPEG"),
        (
            png(mode="I;16"),
            'This image cannot be shown to the models: its mode is "I;16", expected 8 bits per channel.',
        ),
    ],
    ids=["cut off", "16 bits"],
)
def test_a_bad_file_gets_a_sentence_and_the_page_goes_on(page, content, sentence):
    choose(page, 0)
    page.locator("#upload input[type=file]").set_input_files(
        {"name": "bad.png", "mimeType": "image/png", "buffer": content}
    )
    page.get_by_text(sentence).wait_for()
    page.get_by_text("No image is chosen yet.").wait_for()
    assert page.locator(".three img").count() == 0
    choose(page, 1)
    assert "hardened:" in run(page)


def test_without_an_image_the_page_asks_for_one(page):
    page.locator("#run").click()
    page.get_by_text("Choose an example or drop a file first.").wait_for()


def test_a_narrow_screen_shows_everything_without_scrolling_sideways(page):
    page.set_viewport_size({"width": 360, "height": 800})
    choose(page, 0)
    run(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for name in ("undefended", "hardened"):
        pictures = page.locator(f"#{name} .three img").all()
        assert len(pictures) == 3
        for picture in pictures:
            box = picture.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert box["width"] == pytest.approx(box["height"], abs=1)


def test_only_the_pages_own_files_are_served(page, address, place, models):
    for path in ("secret.txt", place / "secret.txt", RECIPE, Path(models["hardened"]) / "config.json", "/etc/hostname"):
        assert page.request.get(f"{address}/gradio_api/file={path}").status in (403, 404)
    upload = {"files": ("a.png", bytes(11 * 2**20), "image/png")}
    assert httpx2.post(f"{address}/gradio_api/upload", files=upload).status_code == 413
