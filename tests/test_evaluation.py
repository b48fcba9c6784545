import json
from collections import Counter
from functools import partial

import pytest
import torch
from conftest import CLASSES
from evaluated import PGD, attacks, model, perturbation
from torch.nn import functional as F
from torch.utils.data import Subset
from traces import leave_gradients_and_modes, trace

from genaf_hf import PixelModel, load_encoder, pgd
from genaf_hf.attacks import ATTACKS, UniversalPatch, register_attack
from genaf_hf.data import stratified_rows
from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import Answers, answer
from genaf_hf.evaluation.evaluate import evaluate_robustness, evaluate_threats, measure, worst_cases
from genaf_hf.evaluation.given_attacks import threats_from
from genaf_hf.evaluation.measurement import Measurement, WorstCase, checked_eps
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.models.partial_forward import removing
from genaf_hf.runs.journal import Journal
from genaf_hf.sharing.eval_results import conditions
from genaf_hf.sharing.verdict import strength

pytestmark = pytest.mark.usefixtures("quick_checks")

__all__ = ["attacks", "model"]  # fixtures


def by_hand(model, dataset, attacks, seed) -> dict[str, Counter]:
    """One image at a time."""
    counts = {name: Counter() for name in ("clean", *attacks)}
    for index in range(len(dataset)):
        image, label = (
            model.to_images(dataset[index]["pixel_values"][None]),
            torch.as_tensor([dataset[index]["labels"]]),
        )
        attacked = {
            "clean": image,
            "universal": (image + attacks["universal"].delta).clamp(0, 1),
            "pgd": pgd(model, image, label, **PGD, seeds=[seed + index]),
        }
        clean = model(image).argmax()
        for name, each in attacked.items():
            prediction = model(each).argmax()
            counts[name]["correct"] += int(prediction == label)
            counts[name]["fooled"] += int(clean == label != prediction)
            counts[name]["changed"] += int(prediction != clean)
    return counts


def answered(model, dataset, attack) -> int:
    """Right answers under an attack."""
    [threat] = threats_from({"attack": attack}, {"model": model})
    found = answer(model, dataset, threat.on("model"))
    return sum(a == b for a, b in zip(found.predictions, found.labels, strict=True))


def counts(report: RobustnessReport, model: str = "model") -> dict[str, Counter]:
    found = [each for each in report.measurements if each.model == model]
    return {each.attack: Counter(correct=each.correct, fooled=each.fooled, changed=each.changed) for each in found}


def test_where_memory_is_short_fewer_images_at_a_time_give_the_same(model, pixels, attacks):
    whole = evaluate_robustness({"model": model}, pixels["test"], attacks, bank=pixels["train"])
    sizes = []

    def small_memory(_, inputs):
        sizes.append(len(inputs[0]))
        if sizes[-1] > 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with removing([model.register_forward_pre_hook(small_memory)]):
        found = evaluate_robustness({"model": model}, pixels["test"], attacks, bank=pixels["train"], batch_size=16)
    assert [size for size in sizes if size > 7] == [16, 8]  # and from then on no more than what did fit
    assert max(sizes[2:]) == 4
    assert [vars(each) for each in found.measurements] == [vars(each) for each in whole.measurements]


def test_an_image_starts_from_the_seed_of_its_place_whichever_are_asked_about(model, pixels):
    seen = []

    def attack(model, images, labels, *, seeds):
        seen.extend(seeds)
        return images

    answer(model, pixels["test"], attack, rows=[1, 5, 8], batch_size=2, seed=100)
    assert seen == [101, 105, 108]


def test_images_of_several_sizes_are_refused(model, pixels):
    rows = [pixels["test"][0], {**pixels["test"][1], "pixel_values": torch.zeros(3, 9, 9)}]
    with pytest.raises(UserError, match=r"pixel_values are of the sizes \(3, 8, 8\) and \(3, 9, 9\), expected one"):
        answer(model, rows)


def test_four_times_as_many_images_fit_where_an_attack_asks_for_answers_alone(model, pixels):
    largest = {}
    for name in ("pgd", "square"):
        sizes = []
        with removing([model.register_forward_pre_hook(lambda _, inputs, sizes=sizes: sizes.append(len(inputs[0])))]):
            attacks = {name: ATTACKS[name].configure(eps=0.1, steps=2)}
            evaluate_robustness({"model": model}, pixels["test"], attacks, batch_size=4)
        largest[name] = max(sizes)
    assert largest == {"pgd": 4, "square": 16}


def test_clean_images_are_passed_once_for_answers_and_features(model, pixels, attacks):
    clean, passed = model.to_images(pixels["test"][:]["pixel_values"]), []
    with removing([model.register_forward_pre_hook(lambda _, inputs: passed.append(torch.equal(inputs[0], clean)))]):
        evaluate_robustness({"model": model}, pixels["test"], attacks, bank=pixels["train"], batch_size=len(clean))
    assert sum(passed) == 1 < len(passed)


def test_images_that_workers_read_are_answered_the_same(processes, model, pixels, attacks):
    threats = threats_from(attacks, {"model": model})
    alone, beside = (
        evaluate_threats({"model": model}, pixels["test"], threats, batch_size=5, workers=workers) for workers in (0, 1)
    )
    assert beside == alone


def test_memory_that_is_too_small_for_one_image_is_no_size_of_batches(model, pixels):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with removing([model.register_forward_pre_hook(no_memory)]), pytest.raises(torch.OutOfMemoryError):
        evaluate_robustness({"model": model}, pixels["test"], {})


@pytest.mark.parametrize(("batch_size", "seed"), [(1, 0), (5, 0), (64, 100)])
def test_counts_are_those_by_hand_at_any_batch_size(model, pixels, attacks, batch_size, seed):
    report = evaluate_robustness({"model": model}, pixels["test"], attacks, batch_size=batch_size, seed=seed)
    expected = by_hand(model, pixels["test"], attacks, seed)
    assert counts(report) == expected
    assert {(each.count, each.clean_correct) for each in report.measurements} == {(18, expected["clean"]["correct"])}
    assert report.seed == seed
    # Worth counting: not all, and fewer under attack.
    assert expected["pgd"]["correct"] < expected["clean"]["correct"] < 18


@pytest.mark.parametrize("batch_size", [7, 64])
def test_each_image_starts_from_its_own_seed(model, pixels, batch_size):
    used = []

    def remember(model, images, labels, *, seeds, eps, steps):
        used.extend(zip(seeds, labels.tolist(), strict=True))
        return images

    attacks = {"none": partial(remember, eps=0.1, steps=1)}
    report = evaluate_robustness({"model": model}, pixels["test"], attacks, batch_size=batch_size, seed=40)
    assert used == [(40 + index, label) for index, label in enumerate(pixels["test"][:]["labels"].tolist())]
    assert counts(report)["none"] == counts(report)["clean"]
    assert report.measurement("model", "none").settings == {
        "attack": "remember",
        "norm": "linf",
        "eps": 0.1,
        "steps": 1,
    }


def test_every_model_is_measured_under_every_attack_in_order(model, resnet, pixels, attacks):
    other = PixelModel(*resnet)
    report = evaluate_robustness({"first": model, "second": other}, pixels["test"], attacks)
    assert [(each.model, each.attack) for each in report.measurements] == [
        (name, attack) for name in ("first", "second") for attack in ("clean", "universal", "pgd")
    ]
    assert counts(report, "first") == by_hand(model, pixels["test"], attacks, 0)
    assert counts(report, "second") == by_hand(other.eval(), pixels["test"], attacks, 0)


def test_without_attacks_clean_accuracy_is_measured(model, pixels):
    report = evaluate_robustness({"model": model}, pixels["test"], {})
    assert report.attacks == ["clean"]


def test_the_report_says_what_was_measured_with_what(model, pixels, attacks, encoders):
    info = {"name": "colours", "split": "test", "revision": None}
    report = evaluate_robustness({"model": model}, pixels["test"], attacks, dataset_info=info)
    clean, universal, per_image = report.measurements
    assert (clean.knowledge, universal.knowledge, per_image.knowledge) == ("nothing", "public encoder", "model")
    assert clean.settings == {}
    assert universal.settings == {"norm": "linf", **attacks["universal"].provenance}
    defaults = {"random_start": True, "restarts": 1, "keep_best": False, "loss": "cross-entropy"}
    assert per_image.settings == {"attack": "pgd", "norm": "linf", **PGD, **defaults}
    assert report.dataset == {**info, "count": 18, "largest_class": 6}
    assert report.models == {
        "model": {
            "class": "ViTForImageClassification",
            "source": "dino",
            "revision": None,
            "parameters": sum(parameter.numel() for parameter in model.model.parameters()),
            "classes": 3,
        }
    }
    assert {"python", "genaf_hf", "torch", "transformers", "datasets", "accelerate", "hardware", "processes"} == set(
        report.environment
    )
    assert RobustnessReport.from_json(report.to_json()) == report
    json.loads(report.to_json())


def test_the_norm_of_the_attack_is_reported(model, pixels):
    attack = partial(pgd, eps=0.5, steps=1, step_size=0.5, norm="l2")
    report = evaluate_robustness({"model": model}, pixels["test"], {"pgd": attack})
    assert report.measurement("model", "pgd").settings["norm"] == "l2"


def test_the_model_is_left_as_it_was(resnet, pixels, attacks):
    model = PixelModel(*resnet)
    leave_gradients_and_modes(model)
    before = trace(model)
    evaluate_robustness({"model": model}, pixels["test"], attacks)
    after = trace(model)
    for name, value in before.items():
        if "random state" not in name:
            assert torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name], name


def test_an_attack_crafted_on_each_model_is_used_on_it(model, resnet, pixels):
    models = {"first": model, "second": PixelModel(*resnet).eval()}
    own = {name: perturbation(seed, eps=0.5) for seed, name in enumerate(models)}
    report = evaluate_robustness(models, pixels["test"], {"adaptive": own})
    for name, each in models.items():
        found = report.measurement(name, "adaptive")
        assert found.correct == answered(each, pixels["test"], own[name])
        assert found.knowledge == "model"
        assert found.settings == {"norm": "linf", **own[name].provenance, "encoder": name}


def test_the_worst_case_of_each_image_is_counted_by_knowledge_and_over_all(model, pixels, attacks):
    report = evaluate_robustness({"model": model}, pixels["test"], {**attacks, "again": partial(pgd, **PGD)})
    right = {name: found.right for name, found in report.answers["model"].items()}
    assert [*right] == ["clean", "universal", "pgd", "again"]
    assert {name: sum(found) for name, found in right.items()} == {
        each.attack: each.correct for each in report.measurements
    }

    def left(*names) -> int:
        return sum(map(all, zip(*(right[name] for name in names), strict=True)))

    assert report.worst_cases == [
        WorstCase("model", "public encoder", left("clean", "universal"), 18),
        WorstCase("model", "model", left("clean", "pgd", "again"), 18),
        WorstCase("model", None, left(*right), 18),
    ]
    assert RobustnessReport.from_json(report.to_json()) == report


def test_the_worst_case_is_below_every_attack():
    """Of the three images that are right when clean, each attack fools another one."""
    predictions = {"clean": [0, 0, 0, 1], "universal": [1, 0, 0, 0], "pgd": [0, 1, 0, 0]}
    answers = {name: Answers([0] * 4, found, None, 0.1, True, [0.9] * 4) for name, found in predictions.items()}
    threats = threats_from({"universal": perturbation(0), "pgd": partial(pgd, **PGD)}, {"model": None})
    assert worst_cases("model", threats, answers) == [
        WorstCase("model", "public encoder", 2, 4),
        WorstCase("model", "model", 2, 4),
        WorstCase("model", None, 1, 4),
    ]
    assert worst_cases("model", [], answers) == []


@pytest.fixture
def finisher():
    """A registered attack for what stands, which fools every image, and remembers the seeds of those it is given."""

    @register_attack("model", "images", eps=0.1, on_standing=True)
    def finisher(model, images, *, eps, max_images: int | None = None, seeds):
        finisher.seeds += seeds
        colours = torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8)
        with torch.no_grad():
            given, of_colours = model(images).argmax(1), model(colours).argmax(1)
        return torch.stack([colours[of_colours != each][0] for each in given])

    finisher = finisher.__wrapped__
    finisher.seeds = []
    yield finisher
    ATTACKS.pop("finisher")


def test_what_is_for_standing_images_attacks_those_that_others_in_its_ball_leave_right(model, pixels, finisher):
    def under(**others):
        finisher.seeds.clear()
        attacks = {"pgd": partial(pgd, **PGD), **others}
        return evaluate_robustness({"model": model}, pixels["test"], attacks)

    report = under(last=ATTACKS["finisher"].configure())
    right = {name: found.right for name, found in report.answers["model"].items()}
    standing = [a and b for a, b in zip(right["clean"], right["pgd"], strict=True)]
    assert 0 < sum(standing) < sum(right["clean"])
    assert len(finisher.seeds) == sum(standing)
    last = report.measurement("model", "last")
    assert last.settings == {
        "attack": "finisher",
        "norm": "linf",
        "eps": 0.1,
        "max_images": None,
        "after": ["pgd"],
        "standing": sum(standing),
        "attacked": sum(standing),
    }
    assert last.correct == report.worst_case("model", "model").correct == 0
    assert report.marks(last)[0] == "*worst*"

    few = under(last=ATTACKS["finisher"].configure(max_images=1))
    assert len(finisher.seeds) == 1
    assert few.measurement("model", "last").correct == sum(standing) - 1
    words = f"1 of {sum(standing)} images left were attacked"
    assert f"*{words}*" in few.table()
    assert few.table().count(f"*{words}*") == 2  # of the attack, and of every attack
    assert strength(few.measurement("model", "last")) == f"last, linf, eps 0.1, {words}"
    told = conditions(few, few.measurement("model", "last"))
    assert (told["standing"], told["attacked"]) == (sum(standing), 1)

    half = sum(standing) // 2
    rows = [row for row, stands in enumerate(standing) if stands]
    spread = under(last=ATTACKS["finisher"].configure(max_images=half)).answers["model"]["last"].right
    assert [row for row in rows if not spread[row]] == [rows[i * len(rows) // half] for i in range(half)]
    assert RobustnessReport.from_json(few.to_json()) == few

    for other in ({"eps": 0.2}, {"norm": "l2"}):
        apart = under(other=partial(pgd, **{**PGD, **other}), last=ATTACKS["finisher"].configure())
        assert apart.measurement("model", "last").settings["after"] == ["pgd"]


def test_what_is_for_standing_images_attacks_without_others_those_that_are_right(model, pixels, finisher):
    alone = {"last": ATTACKS["finisher"].configure(max_images=2)}
    report = evaluate_robustness({"model": model}, pixels["test"], alone, batch_size=3)
    [clean] = (each.correct for each in report.measurements if each.attack == "clean")
    last = report.measurement("model", "last")
    assert 2 < clean < len(pixels["test"])
    assert (last.correct, len(finisher.seeds)) == (clean - 2, 2)
    assert last.partly == f"2 of {clean} images left were attacked"
    assert "after" not in last.settings


@pytest.mark.parametrize("on_standing", [True, False])
def test_what_is_for_standing_images_may_give_them_back_as_they_were(model, pixels, on_standing):
    @register_attack("model", "images", eps=0.1, on_standing=on_standing)
    def in_vain(model, images, *, eps):
        return images

    try:
        report = evaluate_robustness({"model": model}, pixels["test"], {"mine": ATTACKS["in-vain"].configure()})
    finally:
        ATTACKS.pop("in-vain")
    [check] = [each for each in report.checks if each.name == "mine moves the images and gets finite answers"]
    assert (check.passed, check.numbers["farthest"]) == (on_standing, 0)


def test_confidences_are_probabilities_of_the_predictions(model, pixels):
    found = answer(model, pixels["test"])
    with torch.no_grad():
        expected = model(model.to_images(pixels["test"][:]["pixel_values"])).softmax(1).amax(1)
    assert found.confidences == pytest.approx(expected.tolist(), abs=1e-5)
    assert found.of([3, 1]).confidences == [found.confidences[3], found.confidences[1]]


def test_what_is_counted():
    """Of five images, two stay right, one is fooled, one is set right, and one is wrong in another way."""
    clean = Answers([0, 1, 2, 0, 1], [0, 1, 2, 1, 0], [0, 1, 2, 0, 1], 0.0, True, [0.9] * 5)
    attacked = Answers([0, 1, 2, 0, 1], [0, 1, 0, 0, 2], [0, 2, 2, 0, 0], 0.1, True, [0.9] * 5)
    found = measure("model", clean, attacked)
    assert (found.correct, found.count, found.clean_correct, found.fooled, found.changed) == (3, 5, 3, 1, 3)
    assert found.neighbors_correct == 3
    part = measure("model", clean.of([4, 2]), attacked.of([4, 2]))
    assert (part.correct, part.count, part.clean_correct, part.fooled, part.changed) == (0, 2, 1, 1, 2)
    assert part.neighbors_correct == 1


def test_a_function_with_the_name_of_a_registered_attack_is_not_taken_for_it(model, pixels):
    def feature_pgd(model, images, labels, *, eps, seeds):
        return images if len(labels) == len(images) else None

    report = evaluate_robustness({"model": model}, pixels["test"], {"mine": partial(feature_pgd, eps=0.1)})
    assert counts(report)["mine"] == counts(report)["clean"]


# ---- sweep, neighbors ----


def test_the_sweep_holds_every_eps_on_the_same_stratified_part(model, pixels, attacks, monkeypatch):
    monkeypatch.setattr("genaf_hf.evaluation.evaluate.SWEPT_IMAGES", 7)
    weaker = {"universal": perturbation(0, eps=0.1), "pgd": partial(pgd, **{**PGD, "eps": 0.05})}
    report = evaluate_robustness({"model": model}, pixels["test"], attacks, sweep=[weaker, {"pgd": attacks["pgd"]}])
    assert [(each.attack, each.settings["eps"]) for each in report.sweep] == [
        *(("universal", 0.2), ("pgd", 0.1)),
        *(("universal", 0.1), ("pgd", 0.05)),
        ("pgd", 0.1),
    ]
    rows = stratified_rows(pixels["test"][:]["labels"].tolist(), 7, seed=0).tolist()
    part = Subset(pixels["test"], rows)
    clean = by_hand(model, part, attacks, 0)["clean"]["correct"]
    assert {(each.count, each.clean_correct) for each in report.sweep} == {(7, clean)}
    assert report.sweep[0].correct == by_hand(model, part, attacks, 0)["universal"]["correct"]
    assert report.sweep[3].correct == answered(model, part, weaker["pgd"])


def test_neighbors_vote_on_attacked_features(model, pixels, attacks):
    """With a bank of less than 20 images all of them vote, by exp(cosine / 0.07)."""
    bank = Subset(pixels["train"], range(12))
    report = evaluate_robustness({"model": model}, pixels["test"], {"universal": attacks["universal"]}, bank=bank)
    known, test = pixels["train"][:12], pixels["test"][:]
    with torch.no_grad():
        features = model.features(model.to_images(known["pixel_values"]))
        images = model.to_images(test["pixel_values"])
        expected = []
        for each in (images, attacks["universal"](images)):
            cosine = F.cosine_similarity(model.features(each)[:, None], features[None], dim=2)
            votes = [(cosine[:, known["labels"] == label] / 0.07).exp().sum(1) for label in range(3)]
            expected.append(int((torch.stack(votes).argmax(0) == test["labels"]).sum()))
    assert [each.neighbors_correct for each in report.measurements] == expected
    assert 0 < expected[0] <= 18


# ---- checks ----


def leave_the_ball(model, images, labels, *, eps, seeds):
    return (images + 1.01 * eps).clamp(0, 1)


def leave_the_ball_downwards(model, images, labels, *, eps, seeds):
    return (images - 1.01 * eps).clamp(0, 1)


def leave_the_range(model, images, labels, *, eps, seeds):
    return images + eps


def stay(model, images, labels, *, eps, seeds):
    return (images - eps).clamp(0, 1)


def leave_the_l2_ball(model, images, labels, *, eps, norm="l2", seeds):
    return (images + eps / 2).clamp(0, 1)


@pytest.mark.parametrize(
    ("attack", "passed"),
    [
        (stay, True),
        *((leave, False) for leave in (leave_the_ball, leave_the_ball_downwards, leave_the_range, leave_the_l2_ball)),
    ],
)
def test_an_attack_that_leaves_its_ball_makes_the_model_unreliable(model, pixels, attack, passed):
    report = evaluate_robustness({"model": model}, pixels["test"], {"mine": partial(attack, eps=0.3)})
    [check] = [each for each in report.checks if each.name == "mine stays in its ball and in [0, 1]"]
    assert check.passed == passed
    assert check.numbers["eps"] == 0.3
    if not passed:
        assert not report.is_reliable(report.measurement("model", "mine"))
        assert "*unreliable*" in report.table()


def test_every_model_is_checked(model, resnet, pixels, attacks):
    report = evaluate_robustness({"first": model, "second": PixelModel(*resnet)}, pixels["test"], attacks)
    names = [
        "the model predicts more than one class",
        "clean accuracy is above chance",
        "universal stays in its ball and in [0, 1]",
        "universal moves the images and gets finite answers",
        "pgd stays in its ball and in [0, 1]",
        "pgd moves the images and gets finite answers",
        "pgd is no weaker than noise of its size",
        "the output is deterministic",
        "gradients are not zero",
        "more steps help",
        "a white box beats a black box",
        "accuracy falls to chance as eps grows",
        "pgd is no weaker than PGD of 2 steps at eps 0.1",
    ]
    assert [(each.model, each.name) for each in report.checks] == [(m, n) for m in ("first", "second") for n in names]
    assert {each.name for each in report.failed_checks if each.model == "first"} == set()
    assert report.dataset["largest_class"] == 6
    assert report.chance == 1 / 3


def test_an_evaluation_in_inference_mode_is_the_same(model, pixels, attacks):
    expected = evaluate_robustness({"tiny": model}, pixels["test"], attacks)
    with torch.inference_mode():
        found = evaluate_robustness({"tiny": model}, pixels["test"], attacks)
    assert found.to_json() == expected.to_json()


def test_models_are_checked_at_the_eps_of_an_attack_on_single_images():
    universal, per_image = perturbation(0), partial(pgd, eps=0.1, steps=1)
    other_norm = partial(pgd, eps=0.5, steps=1, norm="l2")
    patch = UniversalPatch(torch.zeros(3, 2, 2), attack="advencoder-pat", eps=1)
    for given, eps in (
        ({"l4a": universal, "l4a-adaptive": {"model": universal}, "pgd": per_image}, 0.1),
        ({"patch": patch, "l2": other_norm, "l4a": universal}, 0.2),
        ({"patch": patch, "l2": other_norm}, 8 / 255),
        ({}, 8 / 255),
    ):
        threats = threats_from(given, {"model": None})
        known = {"clean": {}, **{each.name: each.settings("model") for each in threats}}
        assert checked_eps([Measurement("model", name, "", found, 1, 1, 1) for name, found in known.items()]) == eps


# ---- journal ----


def test_an_evaluation_that_was_killed_goes_on_where_it_was(model, pixels, attacks, tmp_path):
    calls = []

    def die_once(model, images, labels, *, eps, seeds):
        calls.append(len(images))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return images

    def evaluate(journal: Journal | None) -> RobustnessReport:
        own = {"none": partial(die_once, eps=0.1), **attacks, "none-2": partial(die_once, eps=0.1)}
        return evaluate_robustness({"a/../b": model}, pixels["test"], own, batch_size=9, bank=bank, journal=journal)

    bank = Subset(pixels["train"], range(12))
    with pytest.raises(KeyboardInterrupt):
        evaluate(Journal(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(before) == 7  # clean, none, universal and with its pixels shuffled, noise of two sizes, and pgd
    resumed = evaluate(Journal(tmp_path))
    assert calls == [9] * (2 + 2 + 2)  # none, the part of none-2 that was lost, none-2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert evaluate(Journal(tmp_path)) == resumed
    assert len(calls) == 6
    assert evaluate(None) == resumed
    assert len(calls) == 10


def test_a_journal_of_another_model_or_attack_is_not_believed(encoders, pixels, tmp_path, caplog):
    def found(family, eps, journal=None):
        torch.manual_seed(0)
        models = {"m": PixelModel(*load_encoder(encoders[family], CLASSES))}
        report = evaluate_robustness(models, pixels["test"], {"pgd": partial(pgd, eps=eps, steps=2)}, journal=journal)
        return report.measurements, report.checks

    first = found("dino", 0.1, Journal(tmp_path))
    assert found("dino", 0.1, Journal(tmp_path)) == first
    assert "computed anew" not in caplog.text
    for other in (("resnet", 0.1), ("resnet", 0.9)):
        assert found(*other, Journal(tmp_path)) == found(*other)
        assert "was found of another model, other images or another attack" in caplog.text
