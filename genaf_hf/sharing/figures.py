"""Pictures of what was measured."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill

import torch
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from torch import Tensor

from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.evaluation.drift import Drift
from genaf_hf.evaluation.measurement import CLEAN, EVERY_ATTACK, PUBLIC_ENCODER, Rate, extent
from genaf_hf.evaluation.report import ADAPTIVE, RobustnessReport
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.sharing.picture import save
from genaf_hf.values.names import shortened
from genaf_hf.values.numbers import eps_text

COLORS = ("#b04a4a", "#2f6f8f", "#7a7a3a", "#5a4a7a")
RIGHT, WRONG = "#2b7a3d", "#b03030"
SHOWN = 6
LABEL_LETTERS = 13  # of a line below a bar
LABEL_ROOM = 12  # height of a bar, in %, that holds its label


def draw_overview(
    report: RobustnessReport,
    models: Mapping[str, PixelModel],
    images: Tensor,
    labels: Tensor,
    class_names: list[str],
    perturbation: UniversalPerturbation,
    path: str | Path,
) -> None:
    """One picture: images, the universal perturbation and what each model makes of the sum; accuracies as bars.

    Args:
        report: the accuracies, drawn with their 95 % intervals.
        models: by their names in the report.
        images: (n, 3, h, w) in [0, 1], of which the first few are shown.
        labels: (n,) class ids.
        class_names: by class id.
        perturbation: the one whose effect is shown.
        path: of the PNG file.
    """
    images, labels = images[:SHOWN], labels[:SHOWN]
    attacked = perturbation(images)
    columns = len(images)
    figure = Figure(figsize=(1.25 * columns + 5.5, 4.6), layout="constrained")
    gallery, chart = figure.subfigures(1, 2, width_ratios=[1.25 * columns, 5])

    axes = gallery.subplots(3, columns, squeeze=False)
    shift = attacked - images if perturbation.partial else perturbation.delta.expand_as(images)
    amplified = shift / (2 * shift.abs().amax().clamp(min=1e-12)) + 0.5
    for column in range(columns):
        show_image(axes[0][column], images[column])
        show_image(axes[1][column], amplified[column])
        show_image(axes[2][column], attacked[column])
        axes[0][column].set_title(shortened(class_names[labels[column]]), fontsize=10)
    changes = f"perturbation\n(eps {eps_text(perturbation.eps)}, amplified)"
    words = "what the patch\nchanges" if perturbation.partial else changes
    for row, text in enumerate(("image", words, "attacked")):
        axes[row][0].set_ylabel(text, fontsize=9)
    for line, (name, model) in enumerate(models.items()):
        predicted = predictions(model, attacked)
        for column in range(columns):
            color = RIGHT if predicted[column] == labels[column] else WRONG
            said = shortened(class_names[predicted[column]])
            text = f"{name}: {said}" if column == 0 else said
            axes[2][column].text(
                0.5 if column else 1.0, -0.12 - 0.17 * line, text, color=color, fontsize=9,
                ha="center" if column else "right", va="top", transform=axes[2][column].transAxes,
            )  # fmt: skip
    gallery.suptitle(f"One {perturbation.attack} perturbation, crafted on the public encoder alone", fontsize=11)
    draw_accuracies(chart.subplots(), report)
    save(figure, path)


def draw_accuracies(axes, report: RobustnessReport) -> None:
    """Grouped bars: a group per attack, a bar per model, with 95 % intervals.

    The attacks are those of the verdict on the last model, and then all of them, each image under its worst.
    """
    groups: dict = {
        attack_label(report, each.attack): [report.measurement(name, each.attack) for name in report.models]
        for each in report.verdict(report.subject)
    }
    if None in report.kinds_of_several():
        groups[f"{EVERY_ATTACK}\n(each image\nunder its\nworst)"] = [report.worst_case(name) for name in report.models]
    for index in range(len(report.models)):
        found = [group[index] for group in groups.values()]
        heights, below, above = percentages([each.accuracy for each in found])
        bars = draw_bars(axes, [*report.models], index, heights, yerr=[below, above], capsize=3)
        inside = [f"{height:.0f}" if height >= LABEL_ROOM else "" for height in heights]
        above = ["" if text else f"{height:.0f}" for text, height in zip(inside, heights, strict=True)]
        axes.bar_label(bars, inside, label_type="center", color="white", fontsize=9)
        axes.bar_label(bars, above, padding=2, color=COLORS[index], fontsize=9)
    axes.set_xticks(range(len(groups)), [*groups], fontsize=9)
    axes.set_ylim(0, 105)
    axes.set_ylabel(f"accuracy in % of {report.dataset['count']} images")
    axes.spines[["top", "right"]].set_visible(False)
    draw_chance(axes, report.chance_of(report.subject))
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(report.models) + 1)


def draw_bars(axes, models: Sequence[str], index: int, heights: Sequence[float], **style) -> BarContainer:
    """The bars of one of several models, one in each group."""
    width = 0.8 / len(models)
    places = [group + (index - (len(models) - 1) / 2) * width for group in range(len(heights))]
    return axes.bar(places, heights, 0.92 * width, color=COLORS[index], label=models[index], **style)


def percentages(rates: Sequence[Rate]) -> tuple[list[float], list[float], list[float]]:
    """Rates in %, and how far their intervals reach below and above."""
    return (
        [100 * rate.value for rate in rates],
        [100 * (rate.value - rate.interval[0]) for rate in rates],
        [100 * (rate.interval[1] - rate.value) for rate in rates],
    )


def attack_label(report: RobustnessReport, attack: str) -> str:
    """An attack, how far it goes and what the attacker knew, in a few words for an axis."""
    found = report.measurement(next(iter(report.models)), attack)
    if attack == CLEAN:
        return f"{attack}\n(no attack)"
    return f"{attack}\n{extent(found.settings)}\n(knows the\n{fill(found.knowledge, LABEL_LETTERS)})"


def predictions(model: PixelModel, images: Tensor) -> list[int]:
    """The class id that a model answers to each of some images (n, 3, h, w) in [0, 1]."""
    with evaluating(model), torch.no_grad():
        return model(images).argmax(1).tolist()


def show_image(axes, image: Tensor) -> None:
    """An image (3, h, w) in [0, 1], its pixels as they are."""
    axes.imshow(image.permute(1, 2, 0).cpu().numpy(), vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def draw_sweep(report: RobustnessReport, path: str | Path) -> None:
    """Accuracy against eps, a panel per model and a line per attack with its 95 % intervals.

    Args:
        report: with a sweep.
        path: of the PNG file.
    """
    names = list(dict.fromkeys(each.model for each in report.sweep))
    figure = Figure(figsize=(4.2 * len(names) + 3.3, 4.6), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)
    for axes, name in zip(panels[0], names, strict=True):
        sweep_panel(axes, report, name)
    panels[0][0].set_ylabel(f"accuracy in % of {report.sweep[0].count} images")
    panels[0][-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(
        "solid: the attacker knows the public encoder; dashed: the model itself, or its answers", fontsize=9
    )
    save(figure, path)


def sweep_panel(axes, report: RobustnessReport, model: str) -> None:
    """Accuracy of one model against eps."""
    swept = [each for each in report.sweep if each.model == model]
    attacks = list(dict.fromkeys(each.attack for each in swept))
    families = list(dict.fromkeys(attack.removesuffix(ADAPTIVE) for attack in attacks))
    for attack in attacks:
        points = sorted((each for each in swept if each.attack == attack), key=lambda each: each.settings["eps"])
        rates = [Rate(points[0].clean_correct, points[0].count), *(each.accuracy for each in points)]
        heights, below, above = percentages(rates)
        color = f"C{families.index(attack.removesuffix(ADAPTIVE)) % 10}"
        style = "-" if points[0].knowledge == PUBLIC_ENCODER else "--"
        eps, norm = [0, *(each.settings["eps"] for each in points)], points[0].settings["norm"]
        label = attack if norm == "linf" else f"{attack} ({norm})"
        axes.errorbar(
            eps, heights, yerr=[below, above], label=label, color=color, linestyle=style, marker="o", markersize=4,
            capsize=2, elinewidth=0.8,
        )  # fmt: skip
    draw_chance(axes, report.chance_of(model))
    axes.set_xlabel("eps, in units of pixels in [0, 1]")
    axes.set_ylim(-2, 102)
    axes.spines[["top", "right"]].set_visible(False)
    doubt = "" if report.is_trusted(model) else "\nUNRELIABLE, a self-check failed"
    axes.set_title(f"{model}{doubt}", fontsize=10)


def draw_chance(axes, level: float | None) -> None:
    """A dotted line at the accuracy of guessing, where it is known."""
    if level is not None:
        axes.axhline(100 * level, color="gray", linewidth=0.8, linestyle=":", label="chance")


def draw_gallery(
    model: PixelModel,
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    attacks: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    path: str | Path,
) -> None:
    """Images, and under each attack the perturbation, amplified, and the attacked image, with what the model says.

    Above each image stands its class, beside each attack the most that it changed a pixel by.

    Args:
        model: whose predictions stand below the images, with their confidence.
        images: (n, 3, h, w) in [0, 1], of which the first few are shown.
        labels: (n,) class ids.
        class_names: by class id.
        attacks: by name, from images and labels to attacked images.
        path: of the PNG file.
    """
    images, labels = images[:SHOWN], labels[:SHOWN]
    rows = 1 + 2 * len(attacks)
    figure = Figure(figsize=(1.5 * len(images) + 1.2, 1.62 * rows), layout="constrained")
    axes = figure.subplots(rows, len(images), squeeze=False)
    show_row(axes[0], images, "image")
    caption_row(axes[0], model, images, labels, class_names)
    for place, label in zip(axes[0], labels, strict=True):
        place.set_title(shortened(class_names[label]), fontsize=9)
    for row, (name, attack) in zip(range(1, rows, 2), attacks.items(), strict=True):
        attacked = attack(images, labels)
        shift = attacked - images
        amplified = shift / (2 * shift.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)) + 0.5
        show_row(axes[row], amplified, f"{name}\nperturbation,\namplified")
        show_row(axes[row + 1], attacked, f"{name}\nattacked, by\n{eps_text(shift.abs().max().item())} at most")
        caption_row(axes[row + 1], model, attacked, labels, class_names)
    save(figure, path, dpi=120)


def show_row(axes: Sequence, images: Tensor, title: str) -> None:
    """Images (n, 3, h, w) in [0, 1] side by side."""
    for place, image in zip(axes, images, strict=True):
        show_image(place, image)
    axes[0].set_ylabel(title, fontsize=8)


def caption_row(axes: Sequence, model: PixelModel, images: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
    """Below each image the prediction and its confidence, green where it is right."""
    with evaluating(model), torch.no_grad():
        confidences, predicted = model(images).softmax(1).max(1)
    for place, confidence, prediction, label in zip(axes, confidences, predicted, labels, strict=True):
        color = RIGHT if prediction == label else WRONG
        text = f"{shortened(class_names[prediction])} ({confidence:.0%})"
        place.set_xlabel(text, color=color, fontsize=9)


def draw_drift(drifts: Sequence[Drift], path: str | Path) -> None:
    """Grouped bars: a group per attack, a bar per encoder, with the relative squared distance of its features.

    Args:
        drifts: of all encoders under the same attacks.
        path: of the PNG file.
    """
    attacks = list(dict.fromkeys(each.attack for each in drifts))
    models = list(dict.fromkeys(each.model for each in drifts))
    figure = Figure(figsize=(1.1 * len(attacks) + 2, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(models):
        found = [each for each in drifts if each.model == name]
        bars = draw_bars(axes, models, index, [each.distance for each in found])
        axes.bar_label(bars, [f"{each.distance:.2f}" for each in found], padding=2, fontsize=8)
    settings = {each.attack: each.settings for each in drifts}
    labels = [name if name == CLEAN else f"{name}\n{extent(settings[name])}" for name in attacks]
    axes.set_xticks(range(len(attacks)), labels, fontsize=8, rotation=30, ha="right")
    axes.set_ylabel("relative squared distance of features\nfrom the public encoder's", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save(figure, path)
