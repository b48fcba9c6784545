"""Pictures of a report."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.pixel_model import PixelModel, evaluating
from genaf_hf.report import RobustnessReport

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = ("#b04a4a", "#2f6f8f", "#7a7a3a", "#5a4a7a")
RIGHT, WRONG = "#2b7a3d", "#b03030"
SHOWN = 6


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
    figure = plt.figure(figsize=(1.25 * columns + 5.5, 4.6), layout="constrained")
    gallery, chart = figure.subfigures(1, 2, width_ratios=[1.25 * columns, 5])

    axes = gallery.subplots(3, columns, squeeze=False)
    amplified = (perturbation.delta / (2 * perturbation.eps) + 0.5).clamp(0, 1)
    for column in range(columns):
        show_image(axes[0][column], images[column])
        show_image(axes[1][column], amplified)
        show_image(axes[2][column], attacked[column])
        axes[0][column].set_title(class_names[labels[column]], fontsize=10, parse_math=False)
    for row, text in enumerate(("image", f"perturbation\n(eps {perturbation.eps:.3g}, amplified)", "attacked")):
        axes[row][0].set_ylabel(text, fontsize=9)
    for line, (name, model) in enumerate(models.items()):
        predicted = predictions(model, attacked)
        for column in range(columns):
            color = RIGHT if predicted[column] == labels[column] else WRONG
            text = f"{name}: {class_names[predicted[column]]}" if column == 0 else class_names[predicted[column]]
            axes[2][column].text(
                0.5 if column else 1.0, -0.12 - 0.17 * line, text, color=color, fontsize=9,
                ha="center" if column else "right", va="top", transform=axes[2][column].transAxes, parse_math=False,
            )  # fmt: skip
    gallery.suptitle(f"One {perturbation.attack} perturbation, crafted on the public encoder alone", fontsize=11)
    draw_accuracies(chart.subplots(), report)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def draw_accuracies(axes, report: RobustnessReport) -> None:
    """Grouped bars: a group per attack, a bar per model, with 95 % intervals."""
    width = 0.8 / len(report.models)
    for index, name in enumerate(report.models):
        found = [report.measurement(name, attack) for attack in report.attacks]
        places = [group + (index - (len(report.models) - 1) / 2) * width for group in range(len(found))]
        heights = [100 * each.accuracy for each in found]
        below = [100 * (each.accuracy - each.interval[0]) for each in found]
        above = [100 * (each.interval[1] - each.accuracy) for each in found]
        bars = axes.bar(places, heights, 0.92 * width, yerr=[below, above], capsize=3, color=COLORS[index], label=name)
        axes.bar_label(bars, fmt="%.0f", label_type="center", color="white", fontsize=9)
    axes.set_xticks(
        range(len(report.attacks)), [f"{attack}\n({attacker(report, attack)})" for attack in report.attacks], fontsize=9
    )
    axes.set_ylim(0, 105)
    axes.set_ylabel(f"accuracy in % of {report.dataset['count']} images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(report.models))


def attacker(report: RobustnessReport, attack: str) -> str:
    """What the attacker knew, in a few words for an axis."""
    knowledge = report.measurement(next(iter(report.models)), attack).knowledge
    return "no attack" if knowledge == "nothing" else f"knows the\n{knowledge}"


def predictions(model: PixelModel, images: Tensor) -> list[int]:
    with evaluating(model), torch.no_grad():
        return model(images).argmax(1).tolist()


def show_image(axes, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0).cpu().numpy(), vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
