"""The picture of a front."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from genaf_hf.adapter_search.front import Member
from genaf_hf.sharing.figures import COLORS, percentages
from genaf_hf.sharing.picture import save

SMALLEST_DOT, LARGEST_DOT = 30, 420
CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # right and up
DISTANCE = 15  # pixels to the middle of a name, in each direction


def draw_front(members: Sequence[Member], path: str | Path) -> None:
    """Clean against robust accuracy with 95 % intervals; the larger a dot, the more trainable parameters.

    Args:
        members: of the front, and known configurations.
        path: of the PNG file.
    """
    figure = Figure(figsize=(8.5, 5.6), layout="constrained")
    axes = figure.subplots()
    largest = max(each.parameters for each in members)
    for label, color, marker, shown in (
        ("found by the search", COLORS[1], "o", [each for each in members if each.on_front and not each.known]),
        ("known configuration", COLORS[0], "s", [each for each in members if each.known]),
    ):
        across, left, right = percentages([each.clean for each in shown])
        up, below, above = percentages([each.robust for each in shown])
        axes.errorbar(
            across, up, xerr=[left, right], yerr=[below, above], fmt="none", ecolor=color, elinewidth=0.7, alpha=0.35
        )
        sizes = [dot_size(each.parameters, largest) for each in shown]
        axes.scatter(
            across, up, s=sizes, color=color, marker=marker, alpha=0.75, linewidths=1.2, label=label,
            edgecolors=["black" if each.on_front else color for each in shown],
        )  # fmt: skip
    images = members[0].clean.count
    axes.set_xlabel(f"clean accuracy in % of {images} test images")
    axes.set_ylabel(f"robust accuracy in %, under {members[0].attack}")
    axes.set_title("numbers: trials; black edge: on the front of the validation images", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    add_legend(axes, [each.parameters for each in members])
    figure.draw_without_rendering()  # fixes the scales that labels are placed by
    add_labels(axes, members)
    save(figure, path)


def add_labels(axes, members: Sequence[Member]) -> None:
    """Each dot's name at that corner of it which is farthest from the other dots and names."""
    largest = max(each.parameters for each in members)
    points = [(100 * each.clean.value, 100 * each.robust.value) for each in members]
    dots = list(axes.transData.transform(points))
    names = []
    for index, (each, point) in enumerate(zip(members, points, strict=True)):
        others = np.array([*dots[:index], *dots[index + 1 :], *names])
        corners = [dots[index] + DISTANCE * np.array(side) for side in CORNERS]
        room = [np.linalg.norm(others - corner, axis=1).min() if len(others) else 0 for corner in corners]
        best = int(np.argmax(room))
        names.append(corners[best])
        right, up = CORNERS[best]
        reach = 3 + 0.3 * dot_size(each.parameters, largest) ** 0.5
        axes.annotate(
            f"{each.known or each.trial}", point, xytext=(reach * right, reach * up), textcoords="offset points",
            ha="left" if right > 0 else "right", va="bottom" if up > 0 else "top", fontsize=8,
        )  # fmt: skip


def dot_size(parameters: int, largest: int) -> float:
    """Area of a dot, in points squared."""
    return SMALLEST_DOT + (LARGEST_DOT - SMALLEST_DOT) * parameters / largest


def add_legend(axes, counts: Sequence[int]) -> None:
    """What colors mean, and what the smallest, the middle and the largest dot stand for."""
    ordered = sorted(counts)
    for count in dict.fromkeys((ordered[0], ordered[len(ordered) // 2], ordered[-1])):
        axes.scatter([], [], s=dot_size(count, ordered[-1]), color="gray", label=f"{count:,} trainable parameters")
    legend = axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), labelspacing=1.6)
    for handle in legend.legend_handles[:2]:
        handle.set_sizes([60])
