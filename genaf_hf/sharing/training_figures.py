"""Pictures of a training record."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genaf_hf.sharing.picture import save
from genaf_hf.sharing.record import TRAINING_EPS, TrainingRecord
from genaf_hf.values.numbers import eps_text

SELECTED, KEPT = "#b04a4a", "#9fb4c0"
ACCURACIES = ("clean_accuracy", "robust_accuracy", "eval_clean_accuracy", "eval_robust_accuracy")


def draw_layers(layers: Mapping, path: str | Path) -> None:
    """Each layer's contribution to robustness, in the model's order; the most redundant ones are marked.

    Args:
        layers: `contributions` and `redundant_layers`, as `layer_robustness.json` holds them.
        path: of the PNG file.
    """
    contributions, redundant = layers["contributions"], layers["redundant_layers"]
    names = list(contributions)
    figure = Figure(figsize=(7.5, 0.19 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    colors = [SELECTED if name in redundant else KEPT for name in names]
    axes.barh(range(len(names)), [contributions[name] for name in names], color=colors)
    axes.set_yticks(range(len(names)), [name.removesuffix(".weight") for name in names], fontsize=7)
    for name, text in zip(names, axes.get_yticklabels(), strict=True):
        text.set_color(SELECTED if name in redundant else "black")
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("contribution to robustness (rise of the loss when the layer is disturbed)", fontsize=8)
    axes.set_title(f"red: the {len(redundant)} most redundant layers, those of stage 2", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def draw_training(record: TrainingRecord, path: str | Path) -> None:
    """Losses and, where they were logged, accuracies by step, one column of panels per stage.

    Args:
        record: with the history of a stage, and the defence.
        path: of the PNG file.
    """
    stages = list(record.stages)
    shown_terms = {"loss": ("loss", *record.defence["losses"])}
    if record.defence["penalties"]:
        shown_terms["regularization"] = tuple(record.defence["penalties"])
    if {*ACCURACIES} & {*chain.from_iterable(record.history)}:
        shown_terms["accuracy in %"] = ACCURACIES
    figure = Figure(figsize=(4.2 * len(stages) + 2.2, 1 + 2 * len(shown_terms)), layout="constrained")
    axes = figure.subplots(len(shown_terms), len(stages), sharex="col", squeeze=False)
    for column, stage in enumerate(stages):
        entries = [entry for entry in record.history if entry.get("stage") == stage]
        for row, (label, terms) in enumerate(shown_terms.items()):
            panel = axes[row][column]
            draw_terms(panel, entries, terms, scale=100 if "%" in label else 1)
            panel.set_ylabel(label)
            panel.set_visible(panel.has_data())
        shown = [*filter(Axes.get_visible, axes[:, column])] or [panel]
        shown[0].set_title(stage_label(record, stage), fontsize=10)
        shown[-1].set_xlabel("step")
        shown[-1].tick_params(labelbottom=True)
        panel.set_xlim(0, 1.05 * max(1, record.stages[stage]["steps"]))
    save(figure, path)


def stage_label(record: TrainingRecord, stage: str) -> str:
    """A stage, and the eps of the adversary whose images its robust accuracies are of."""
    names = {name for entry in record.history if entry.get("stage") == stage for name in entry}
    if not any(name.endswith("robust_accuracy") for name in names):
        return stage.replace("_", " ")
    eps = record.defence["settings"].get("eps", TRAINING_EPS)
    return f"{stage.replace('_', ' ')}, adversary up to eps {eps_text(eps)}"


def draw_terms(axes, entries: Sequence[Mapping], terms: Sequence[str], scale: float) -> None:
    """The named terms of a log by step; those of an evaluation are dots in the color of the training's."""
    colored = list(dict.fromkeys(term.removeprefix("eval_") for term in terms))
    for term in terms:
        points = [(entry["step"], scale * entry[term]) for entry in entries if term in entry]
        if points:
            style = {"linestyle": "none", "markersize": 7} if term.startswith("eval_") else {"markersize": 3}
            label = term.replace("eval_", "validation ").replace("_", " ")
            color = f"C{colored.index(term.removeprefix('eval_'))}"
            axes.plot(*zip(*points, strict=True), marker="o", color=color, label=label, **style)
    if scale > 1:
        axes.set_ylim(-2, 102)
    else:  # from 0 on, or the least change would fill the panel
        axes.update_datalim([(0, 0)], updatex=False)
        axes.autoscale_view()
    axes.spines[["top", "right"]].set_visible(False)
    if axes.has_data():
        axes.legend(frameon=False, fontsize=8)
