"""The leaderboard's page in a real browser."""

import hashlib
from dataclasses import replace

import pytest
from browser import browser

from genaf_hf.evaluation.measurement import Rate
from genaf_hf.leaderboard import Entry, Leaderboard, LeftOut, check, write

__all__ = ["browser"]  # a fixture
HUB = "https://hub.example"
HOSTILE = '"> <script>document.title = "hacked"</script><img src=x onerror=document.title="hacked">'
CHECKS = ("the answers are of more than one class", "gradients are not zero")
CIFAR, FOOD = "uoft-cs/cifar10", "ethz/food101"


def results(
    model: str, clean: int, reliable=True, dataset=CIFAR, encoder="ViT", steps=20, **attacked: tuple
) -> list[Entry]:
    """A model's entries: a clean one, and for each attack correct images of 100, eps and perhaps norm."""

    def entry(attack: str, correct: int, eps: float | None = None, norm: str = "linf") -> Entry:
        return Entry(
            model=model,
            commit="c" * 40,
            last_modified="",
            base_model="someone/encoder",
            model_class=f"{encoder}ForImageClassification",
            dataset=dataset,
            config="",
            split="test",
            revision="",
            attack=attack,
            knowledge="model",
            norm=norm if eps else "",
            eps=eps,
            steps=None if attack == "clean" else steps,
            seed=0,
            surrogate="",
            accuracy=correct / 100,
            correct=correct,
            count=100,
            reliable=reliable or attack == "clean",
            report="report.json",
            report_sha256=hashlib.sha256(model.encode()).hexdigest(),
            claimed_interval=Rate(correct, 100).interval,
        )

    return [
        entry("clean", clean),
        *(entry(name, *found) for name, found in attacked.items()),
    ]


# Under PGD at 8/255, a, b and c are the Pareto front, d lies below it, and e is unreliable.
MODELS = [
    *results("lab/a", 90, pgd=(30, 0.03137), l4a=(70, 0.31)),
    *results("lab/b", 80, pgd=(50, 0.03137), encoder="Beit"),
    *results("lab/c", 70, pgd=(60, 0.03137), l4a=(65, 0.31), encoder="ResNet"),
    *results("lab/d", 75, pgd=(40, 0.03137)),
    *results("lab/e", 95, reliable=False, pgd=(80, 0.03137)),
    *results("lab/f", 85, pgd=(10, 0.5, "l2"), dataset=FOOD),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A function that writes a leaderboard and returns the address of its page."""

    def make(entries, left_out=(), hardened=()) -> str:
        place = tmp_path_factory.mktemp("board")
        checked = check(entries, None)
        models = len({each.model for each in checked})
        write(
            Leaderboard("the tag genaf", HUB, "2026-01-02T00:00:00", models, checked, [*left_out], [*hardened]), place
        )
        return (place / "index.html").as_uri()

    return make


@pytest.fixture
def page(browser, folder):
    """A function that opens a page, which must not ask for anything nor report any error."""
    opened = []

    def show(entries=MODELS, left_out=(), hardened=(), width=1300):
        page = browser.new_page(viewport={"width": width, "height": 800})
        trouble = []
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text))
        page.on("dialog", lambda dialog: trouble.append(dialog.message))
        address = folder(entries, left_out, hardened)
        page.on("request", lambda request: request.url == address or trouble.append(request.url))
        page.goto(address)
        opened.append((page, trouble))
        return page

    yield show
    for page, trouble in opened:
        page.close()
        assert trouble == []


def test_what_every_attack_leaves_is_compared_where_the_attacks_are_the_same(page):
    entries = []
    for name, left, eps in (("lab/a", 20, 0.03137), ("lab/b", 40, 0.03137), ("lab/c", 50, 0.01)):
        clean, pgd, every = results(name, 90, pgd=(60, eps), every=(left, None))
        entries += [clean, pgd, replace(every, attack="every attack", knowledge="any of these", steps=None)]
    opened = page(entries)
    opened.get_by_label("Attack", exact=True).select_option("every attack")
    for name in ("eps", "Steps", "Norm"):
        opened.get_by_label(name, exact=True).select_option("")
    assert column(opened, "Robust accuracy") == ["50.0%", "40.0%", "20.0%"]
    legend = opened.locator("#legend").inner_text()
    assert legend.count("each image under the worst of 1 attack, knows any of these") == 2


def column(page, title: str) -> list[str]:
    """The first line of each cell."""
    titles = page.locator("thead th").all_inner_texts()
    cells = page.locator(f"tbody td:nth-child({titles.index(title) + 1})").all_inner_texts()
    return [cell.splitlines()[0] for cell in cells]


def front(page) -> list[str]:
    return sorted(
        each.split(",")[0] for each in page.locator(".on-front").evaluate_all("all => all.map(each => each.ariaLabel)")
    )


def test_encoders_and_classifiers_stand_apart_and_a_classifier_names_the_hardened_encoder_it_came_from(page):
    encoder = [replace(each, kind="encoder") for each in results("lab/encoder", 99, pgd=(99, 0.03137))]
    encoders = {"lab/y": "lab/unlabelled", "lab/z": "lab/encoder"}  # the first is without a result
    made_of_them = [
        replace(each, base_model=base)
        for name, base in encoders.items()
        for each in results(name, 60, pgd=(20, 0.03137))
    ]
    shown = page([*MODELS, *encoder, *made_of_them], hardened=encoders.values())
    assert "lab/encoder" not in column(shown, "Model")
    assert front(shown) == ["lab/a", "lab/b", "lab/c"]
    assert shown.get_by_text("ViT, hardened").count() == 2
    shown.select_option("#kind", label="encoder, by a linear probe")
    assert column(shown, "Model") == ["lab/encoder"]
    assert "encoder, by a linear probe" in shown.locator("tbody tr").first.inner_text()
    shown.select_option("#kind", label="All")
    told = shown.inner_text("#legend").splitlines()
    assert len(told) == len(set(told))
    assert [each for each in told if each.endswith("encoder, by a linear probe")]


# ---- table ----


def test_the_page_begins_with_the_most_common_condition(page):
    opened = page()
    assert column(opened, "Model") == ["lab/e", "lab/c", "lab/b", "lab/d", "lab/a"]
    assert column(opened, "Robust accuracy")[1] == "60.0%"
    assert column(opened, "Clean accuracy")[1] == "70.0%"
    assert set(column(opened, "eps")) == {"8/255"}
    assert opened.inner_text("#summary") == "5 of 8 results, of 5 of 6 models"
    row = opened.locator("tbody tr").nth(1).inner_text()
    assert "60/100 [50.2%, 69.1%]" in row
    assert "report not checked" in row


def test_the_page_begins_with_all_where_no_condition_is_that_of_most(page):
    entries = [
        *results("lab/a", 90, pgd=(30, 0.03), l4a=(70, 0.31)),
        *results("lab/b", 80, pgd=(50, 0.03), dataset=FOOD),
        *results("lab/c", 70, pgd=(60, 0.1)),
    ]
    opened = page(entries)
    assert sorted(set(column(opened, "Model"))) == ["lab/a", "lab/b", "lab/c"]
    assert opened.inner_text("#summary") == "4 of 4 results, of 3 models"
    assert opened.locator(".point").count() == 4


@pytest.mark.parametrize("width", [1280, 1600])
def test_no_column_is_cut_on_a_wide_screen(page, width):
    long = results("a-user-of-the-hub/vit-base-patch16-224-cifar10-genaf", 90, pgd=(50, 8 / 255))
    opened = page([*MODELS, *[replace(each, failed_checks=CHECKS) for each in long]], width=width)
    assert opened.locator(".scroll").evaluate("each => each.scrollWidth - each.clientWidth") == 0


def test_sorting_both_ways(page):
    opened = page()
    head = opened.locator("th", has_text="Clean accuracy")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(opened, "Clean accuracy") == ["95.0%", "90.0%", "80.0%", "75.0%", "70.0%"]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(opened, "Clean accuracy") == ["70.0%", "75.0%", "80.0%", "90.0%", "95.0%"]
    opened.get_by_role("button", name="Model", exact=True).click()
    assert column(opened, "Model") == ["lab/a", "lab/b", "lab/c", "lab/d", "lab/e"]
    assert opened.locator("th[aria-sort]").count() == 1


def test_few_images_rank_no_model_high(page):
    few = [
        replace(each, accuracy=1.0, correct=5, count=5, claimed_interval=Rate(5, 5).interval)
        for each in results("lab/few", 100, pgd=(100, 0.03137))
    ]
    opened = page([*results("lab/many", 90, pgd=(70, 0.03137)), *few])
    assert column(opened, "Robust accuracy") == ["70.0%", "100.0%"]
    assert front(opened) == ["lab/many"]


def test_filters(page):
    opened = page()
    for label, option, models in (
        ("Dataset", "ethz/food101 · test", ["lab/f"]),
        ("Attack", "l4a", ["lab/a", "lab/c"]),
        ("Norm", "l2", ["lab/f"]),
        ("eps", "0.31", ["lab/a", "lab/c"]),
        ("eps", "8/255 (0.03137)", ["lab/a", "lab/b", "lab/c", "lab/d", "lab/e"]),
        ("Encoder family", "Beit", ["lab/b"]),
        ("Steps", "20", ["lab/a", "lab/a", "lab/b", "lab/c", "lab/c", "lab/d", "lab/e", "lab/f"]),
        ("Verdict", "worst attack", ["lab/a", "lab/b", "lab/c", "lab/d", "lab/e", "lab/f"]),
        ("Verdict", "other attacks", ["lab/a", "lab/c"]),
    ):
        opened.get_by_role("button", name="Show all").click()
        assert len(column(opened, "Model")) == 8
        opened.get_by_label(label, exact=True).select_option(option)
        assert sorted(column(opened, "Model")) == models, label


def test_search_finds_all_words(page):
    opened = page()
    opened.get_by_role("button", name="Show all").click()
    opened.get_by_label("Search").fill("RESNET l4a")
    assert column(opened, "Model") == ["lab/c"]
    opened.get_by_label("Search").fill("nothing like it")
    assert opened.inner_text("tbody") == "No result fits these filters."
    assert "None of these results" in opened.inner_text("#plot-hint")


def test_a_model_without_attacks_is_listed_by_its_clean_accuracy(page):
    opened = page(results("lab/clean", 88))
    assert column(opened, "Clean accuracy") == ["88.0%"]
    assert column(opened, "Robust accuracy") == ["-"]


def test_links_lead_to_model_card_and_report(page):
    row = page().locator("tbody tr").first
    base = f"{HUB}/lab/e"
    links = row.get_by_role("link").evaluate_all("all => all.map(each => each.href)")
    assert links == [base, f"{base}/blob/{'c' * 40}/README.md", f"{base}/blob/{'c' * 40}/report.json"]


def test_what_is_wrong_is_told(page):
    entries = results("lab/x", 50, pgd=(90, 8 / 255))
    opened = page(entries, left_out=[LeftOut("lab/y", "its card has no results")])
    opened.get_by_text("1 problem", exact=True).click()
    assert opened.get_by_text("the robust accuracy exceeds the clean one").is_visible()
    opened.get_by_text("1 left out").click()
    assert opened.inner_text("#left-out-list") == "lab/y: its card has no results"


def test_failed_self_checks_and_guessing_are_seen_at_once(page):
    entries = [
        replace(each, chance=0.2, report_checked=True, failed_checks=CHECKS if each.model == "lab/x" else ())
        for each in [*results("lab/x", 21, reliable=False, pgd=(21, 8 / 255)), *results("lab/y", 90, pgd=(50, 8 / 255))]
    ]
    opened = page(entries)
    good, bad = (opened.locator("tbody tr").nth(i) for i in range(2))
    assert bad.get_by_text("2 self-checks failed").is_visible()
    assert bad.get_by_text(CHECKS[0]).is_visible()
    assert bad.get_by_text("no better than guessing").is_visible()
    assert "report says" not in bad.inner_text()
    assert "✓ as its report says" in good.inner_text()
    assert "guessing" not in good.inner_text()
    line = opened.locator("path.chance")
    assert line.count() == 1
    assert opened.locator("text.chance").text_content() == "chance 20.0%"
    point, box = (each.bounding_box() for each in (opened.locator(".point.doubtful circle"), line))
    assert 0 < point["x"] - box["x"] < 0.2 * box["width"]


def test_the_page_tells_where_its_data_are_from(page):
    opened = page()
    assert opened.inner_text("#source") == f"Collected 2026-01-02 from the tag genaf on {HUB}."
    figures = opened.locator("#figures div").all_inner_texts()
    assert [figure.split() for figure in figures] == [
        ["models", "6"],
        ["results", "14"],
        ["datasets", "2"],
        ["attacks", "2"],
        ["collected", "2026-01-02"],
    ]


def test_many_rows_come_in_pages(page):
    entries = [each for i in range(150) for each in results(f"lab/{i}", 90, pgd=(10 + i % 60, 8 / 255))]
    opened = page(entries)
    assert (len(column(opened, "Model")), opened.inner_text("#page")) == (100, "1 to 100 of 150")
    opened.get_by_role("button", name="Next").click()
    assert (len(column(opened, "Model")), opened.inner_text("#page")) == (50, "101 to 150 of 150")
    assert opened.get_by_role("button", name="Next").is_disabled()


# ---- plot ----


def test_the_front_is_of_those_that_nothing_beats_and_of_no_unreliable_one(page):
    opened = page()
    assert opened.locator(".point").count() == 5
    assert front(opened) == ["lab/a", "lab/b", "lab/c"]
    assert opened.locator(".front").count() == 1
    assert opened.locator(".point.doubtful").get_attribute("aria-label").startswith("lab/e")
    assert "unreliable" in opened.locator("tbody tr").first.inner_text()


def test_the_plot_is_of_what_the_filters_leave(page):
    opened = page()
    opened.get_by_label("Encoder family").select_option("ViT")
    assert front(opened) == ["lab/a", "lab/d"]
    opened.get_by_role("button", name="Show all").click()
    assert (opened.locator(".point").count(), opened.locator(".front").count()) == (8, 3)
    assert opened.locator("#legend").inner_text().count("\n") == 3


def test_few_and_many_steps_are_other_conditions(page):
    pgd = {1: ("lab/a", 60), 100: ("lab/b", 40)}
    opened = page(
        [each for n, (name, right) in pgd.items() for each in results(name, 90, pgd=(right, 8 / 255), steps=n)]
    )
    opened.get_by_role("button", name="Show all").click()
    assert front(opened) == ["lab/a", "lab/b"]
    assert opened.locator(".front").count() == 2
    legend = opened.locator("#legend").inner_text()
    assert "1 steps" in legend
    assert "100 steps" in legend
    opened.get_by_label("Steps", exact=True).select_option("100")
    assert column(opened, "Model") == ["lab/b"]


def test_patches_of_two_sizes_are_other_conditions(page):
    sizes = {0.03: ("lab/a", 60), 0.0625: ("lab/b", 40)}
    found = [
        replace(each, area=None if each.attack == "clean" else area)
        for area, (name, right) in sizes.items()
        for each in results(name, 90, patch=(right, 1.0))
    ]
    opened = page(found)
    opened.get_by_role("button", name="Show all").click()
    assert opened.locator(".front").count() == 2
    legend = opened.locator("#legend").inner_text()
    assert "patch, 3.0% of the image" in legend
    assert "patch, 6.3% of the image" in legend


def test_the_verdict_compares_what_the_same_attacks_were_tried_on(page):
    opened = page()
    opened.get_by_role("button", name="Show all").click()
    opened.get_by_label("Verdict", exact=True).select_option("worst attack")
    # a and c met l4a too, b and d pgd alone, and f another one; e is unreliable.
    assert opened.locator(".front").count() == 3
    assert front(opened) == ["lab/a", "lab/b", "lab/c", "lab/f"]
    legend = opened.locator("#legend").inner_text()
    assert "worst of 2 attacks, knows model, uoft-cs/cifar10" in legend
    assert "worst of 1 attack, knows model, ethz/food101" in legend


def test_chance_is_drawn_for_each_number_of_classes(page):
    entries = [
        *(replace(each, chance=0.1) for each in results("lab/a", 90, pgd=(60, 8 / 255))),
        *(replace(each, chance=0.01) for each in results("lab/b", 80, pgd=(40, 8 / 255), dataset=FOOD)),
    ]
    opened = page(entries)
    opened.get_by_role("button", name="Show all").click()
    assert sorted(opened.locator("text.chance").all_text_contents()) == ["chance 1.0%", "chance 10.0%"]


def test_conditions_without_number_have_no_front(page):
    opened = page([each for i in range(1, 8) for each in results(f"lab/{i}", 90, pgd=(50, i / 255))])
    opened.get_by_role("button", name="Show all").click()
    assert opened.locator(".point").count() == 7
    assert opened.locator(".front, .on-front").count() == 0
    assert "7 different conditions" in opened.inner_text("#plot-hint")


def test_points_stand_where_their_accuracies_are(page):
    opened = page()
    places = opened.locator(".point").evaluate_all(
        "all => all.map(each => [each.ariaLabel.split(',')[0], each.querySelector('circle').cx.baseVal.value,"
        "each.querySelector('circle').cy.baseVal.value])"
    )
    x, y = ({name: place[axis] for name, *place in places} for axis in (0, 1))
    assert (x["lab/a"] - x["lab/b"]) / (x["lab/b"] - x["lab/c"]) == pytest.approx(1, abs=1e-3)
    assert (y["lab/a"] - y["lab/b"]) / (y["lab/b"] - y["lab/c"]) == pytest.approx(2, abs=1e-3)
    assert y["lab/e"] < y["lab/c"]


def test_hovering_names_a_model(page):
    opened = page()
    opened.locator(".point.on-front circle").last.hover()
    assert opened.inner_text("#tip").splitlines() == ["lab/a", "clean 90.0%, robust 30.0%", "pgd, linf 8/255 (0.03137)"]


def test_arrow_keys_go_through_the_plot(page):
    opened = page()
    opened.get_by_role("button", name="Show all").focus()
    opened.keyboard.press("Tab")
    names = []
    for _ in range(6):
        names.append(opened.inner_text("#tip").splitlines()[0])
        opened.keyboard.press("ArrowRight")
    assert names == ["lab/c", "lab/d", "lab/b", "lab/a", "lab/e", "lab/e"]
    assert opened.evaluate("document.activeElement.getAttribute('href')") == f"{HUB}/lab/e"
    opened.keyboard.press("Tab")
    assert opened.inner_text("#tip") == ""


def test_sorting_by_the_keyboard(page):
    opened = page()
    opened.get_by_role("button", name="Model", exact=True).focus()
    opened.keyboard.press("Enter")
    assert column(opened, "Model")[0] == "lab/a"


# ---- widths and hostile text ----


@pytest.mark.parametrize("width", [360, 768, 1300])
@pytest.mark.parametrize("long", [False, True])
def test_no_page_scrolls_sideways(page, width, long):
    name = "w" * 300 if long else "pgd"
    extra = results(f"lab/{name}", 90, dataset=name, encoder=name, **{name: (50, 8 / 255, name)})
    opened = page([*MODELS, *extra], left_out=[LeftOut("lab/x", name)], width=width)
    opened.get_by_role("button", name="Show all").click()
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert opened.locator("svg").bounding_box()["width"] <= width


def test_hostile_text_is_only_text(page):
    entries = results(HOSTILE, 90, dataset=HOSTILE, encoder=HOSTILE, **{HOSTILE: (50, 8 / 255, HOSTILE)})
    opened = page(entries, left_out=[LeftOut("</script><script>document.title='hacked'</script>", HOSTILE)])
    opened.locator(".point circle").hover()
    assert opened.title() == "Robustness leaderboard"
    assert opened.locator("img").count() == 0
    assert opened.locator("script").count() == 2
    assert column(opened, "Model") == [HOSTILE]
    assert opened.inner_text("#tip").splitlines()[0] == HOSTILE
    links = opened.get_by_role("link").evaluate_all("all => all.map(each => each.href)")
    hostile = [each for each in links if "hacked" in each]
    assert hostile
    assert all(each.startswith((f"{HUB}/", "file:///")) for each in hostile)


def test_only_the_page_s_own_script_may_run(browser, folder):
    opened = browser.new_page()
    opened.goto(folder(MODELS))
    opened.evaluate(
        "() => { const own = document.createElement('script'); own.textContent = 'document.title = \"hacked\"';"
        "document.body.append(own); }"
    )
    assert opened.title() == "Robustness leaderboard"
    opened.close()
