"""The table and the pictures of what each defence costs and what it buys, out of the lines that defences.py found."""

import json
from collections.abc import Callable, Iterable
from functools import partial
from math import ceil
from pathlib import Path
from statistics import mean, stdev

from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy.stats import t as student

from genaf_hf.attacks import ATTACKS
from genaf_hf.evaluation.measurement import CLEAN
from genaf_hf.runs.journal import write_whole
from genaf_hf.training.adversaries.live_patch import SHARE
from genaf_hf.values.markup import markdown

PUBLIC, FAR, TRAINED, ADAPTIVELY, IMAGEWISE = "public", "far", "trained on", "adaptive", "per image"
NONE, MODEL, PATCH, UNIVERSAL_PGD = "none", "model", "advencoder-pat", "upgd"
PANELS = 3  # of the picture, side by side
LETTER, LINE = 0.3, 1.6  # points of accuracy that a letter is wide, and a label high
DARK_AND_LIGHT = colormaps["tab20"].colors
COLORS = [*DARK_AND_LIGHT[::2], *DARK_AND_LIGHT[1::2]]
INTRODUCTION = """\
Accuracy in %, the mean over trainings of several seeds with its 95 % t interval, where they differ; the images and the
attacks' own seed are the same for all. That of one seed on 500 images is known to 4 points up or down (95 % Wilson
interval). A DAE is one perturbation for all images, crafted on the public encoder alone, of 10/255 where nothing else
is said; the patch covers 3 % of an image. Adaptive ones are crafted on the defended model itself, `upgd` with labels on
its own loss. An attack on each image (`pgd-20`, `autoattack`) is a stronger enemy than any of these, and **`universal`,
which withstands perturbations for all images, does not withstand it**. Time is that of the fine-tune (`none`) in the
same section; *of all* counts the crafting of a bank and a second stage. *unreliable*: a self-check of the report
failed, which is named.
"""
GOALS = {CLEAN: -0.5, "DAE, mean": -4.0, "DAE, worst": -8.0, "patch": -8.0, "adaptive, worst": -15.0}
OF_DIGITS = {CLEAN: -1.0, "DAE, worst": -4.0, "adaptive, worst": -100.0}  # none for the last
LONGEST = 2.2  # fine-tunes
GOALS_TOLD = """\
In brackets is what the default defence was to reach, in bold what it does not: points of clean accuracy beside `none`
of the same seeds, points that attacks cost of the model's own clean accuracy, and the time of all in fine-tunes, before
they are rounded. On the digits the default is `universal-n-fgsm`, a point of clean accuracy was allowed, and 4 under
every DAE; elsewhere it is `universal`, below which stands `universal-anchor` where that was measured. Adaptive attacks
are as long as below; [longer ones](README.md#defences) leave less. [What was tried](../docs/method.md) to reach it.
"""


def lines(path: Path) -> list[dict]:
    """What was found before; a last line that was cut off is none."""
    found = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in found if line.endswith("}")]


def sections_of(found: list[dict]) -> list[tuple[dict, dict[str, list[dict]]]]:
    """Settings, each with the lines that were found with them by row; of a row that was changed the newest."""
    sections: dict[str, dict[str, list[dict]]] = {}
    for line in found:
        rows = sections.setdefault(json.dumps(line["setting"]), {})
        name = line["row"]["name"]
        rows[name] = [*(each for each in rows.get(name, []) if each["row"] == line["row"]), line]
    return [(json.loads(setting), rows) for setting, rows in sections.items()]


def write(path: Path) -> None:
    """Table and pictures of all that was found: a section for each setting, a panel for each that has several rows.

    A picture of its own has the dial of `universal-n-fgsm`, in the first setting of which it was turned.
    """
    sections = sections_of(lines(path.with_suffix(".jsonl")))
    text = ["# What each defence costs and what it buys\n", INTRODUCTION, "## What was to be reached\n", GOALS_TOLD]
    text += [markdown(goals(sections)), *(section(*each) for each in sections)]
    write_whole(path.with_suffix(".md"), "\n".join(text) + "\n")
    compared = {told["title"]: rows for told, rows in sections if told["attacks"][PUBLIC] and len(rows) > 1}
    if compared:
        draw(compared, path.with_suffix(".png"))
    dials = [(told["title"], rows) for told, rows in sections if len(dial_of(rows)) > 2]
    if dials:
        draw_dial(*dials[0], path.with_name(f"{path.name}_pgd.png"))


def goals(sections: list[tuple[dict, dict[str, list[dict]]]]) -> list[list[str]]:
    """A table of how far defences are from what the default was to reach, where the fine-tune is beside them."""
    clean, *attacked = GOALS
    heads = [f"{clean}, beside {NONE}", *attacked]
    heads = [f"{head} ({goal:g})" for head, goal in zip(heads, GOALS.values(), strict=True)]
    table = [["setting", "defence", *heads, f"time of all ({LONGEST:g})"]]
    for told, rows in sections:
        defences, least = ("universal", "universal-anchor"), GOALS
        if told["training"]["dataset"] == "digits":
            defences, least = ("universal-n-fgsm",), GOALS | OF_DIGITS
        for defence in defences:
            if not {defence, NONE} <= rows.keys():
                continue
            found, plain = rows[defence], {line["seed"]: line for line in rows[NONE]}
            common = [line for line in found if line["seed"] in plain]
            points = [[SUMMARY[clean](line) - SUMMARY[clean](plain[line["seed"]]) for line in common]]
            for of in attacked:
                points.append([at - SUMMARY[clean](line) for line in found if (at := SUMMARY[of](line)) is not None])
            cells = [
                bold(f"{mean(each):+.1f}", mean(each) < goal) if each else "-"
                for each, goal in zip(points, least.values(), strict=True)
            ]
            spent = ratio(found, "seconds")
            table.append([told["title"], defence, *cells, bold(f"{spent:.2f}", spent > LONGEST)])
    return table


def bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


def section(setting: dict, rows: dict[str, list[dict]]) -> str:
    """A summary with a line for each row, and accuracies under each attack with a column for each row."""
    training = setting["training"]
    mirrored = ", half of them mirrored" * training["random_flip"]
    words = (
        f"{training['steps']} steps of {training['batch_size']} images out of {training['train_images']}{mirrored}, "
        f"{training['precision']}; the attacker, whose images are not trained on, has {setting['attacker']}; "
        f"{setting['test_images']} test images"
    )
    if setting["attacks"][IMAGEWISE]:
        words += f", {setting['image_attack_images']} for PGD, {setting['autoattack_images']} for AutoAttack"
    of_image = {name: partial(accuracy, kind=IMAGEWISE, attack=name) for name in setting["attacks"][IMAGEWISE]}
    values = {
        title: {n: cell(map(of, found)) for n, found in rows.items()} for title, of in (SUMMARY | of_image).items()
    }
    values = {title: cells for title, cells in values.items() if {*cells.values()} != {"-"}}
    summary = [["defence", "seeds", "time of a step", "of all", *values]]
    for name, found in rows.items():
        times = [f"{ratio(found, seconds):.2f}" for seconds in ("step_seconds", "seconds")]
        doubt = " *unreliable*" * any(line["unreliable"] for line in found)
        seeds = ", ".join(map(str, sorted(line["seed"] for line in found)))
        summary.append([name + doubt, seeds, *times, *(cells[name] for cells in values.values())])
    each_attack = [["attacker knows", "attack", *rows]]
    for kind, attacks in setting["attacks"].items():
        for attack, settings in attacks.items():
            knowledge = MODEL if kind == ADAPTIVELY else ATTACKS[settings["attack"]].knowledge
            under = partial(accuracy, kind=kind, attack=attack)
            each_attack.append([knowledge, attack, *(cell(map(under, found)) for found in rows.values())])
    shares = [*next(iter(rows.values()))[0]["along"]]
    losses = [[f"cross-entropy under a share of `{UNIVERSAL_PGD}`", *shares]]
    for name, found in rows.items():
        losses.append([name, *(f"{mean(line['along'][share] for line in found):.2f}" for share in shares)])
    failed = [
        f"- {name}, seed {line['seed']}: it is not true that {check}."
        for name, found in rows.items()
        for line in found
        for check in line["unreliable"]
    ]
    tables = [summary, each_attack, *[losses] * bool(shares)]
    parts = [f"\n## {setting['title']}", f"{words}.", *map(markdown, tables), *["\n".join(failed)] * bool(failed)]
    return "\n\n".join(parts)


def accuracy(line: dict, kind: str, attack: str) -> float | None:
    """In %; None where it was not measured."""
    right, count = line["attacks"].get(kind, {}).get(attack, (0, 0))
    return 100 * right / count if count else None


def summed_up(line: dict, by: Callable, kind: str, *left_out: str) -> float | None:
    """Accuracies of a kind but for some, in one number."""
    names = [name for name in line["attacks"].get(kind, {}) if name not in left_out]
    return by(accuracy(line, kind, name) for name in names) if names else None


SUMMARY: dict[str, Callable[[dict], float | None]] = {
    CLEAN: lambda line: 100 * line[CLEAN][0] / line[CLEAN][1],
    "DAE, mean": lambda line: summed_up(line, mean, PUBLIC, PATCH),
    "DAE, worst": lambda line: summed_up(line, min, PUBLIC, PATCH),
    "patch": lambda line: accuracy(line, PUBLIC, PATCH),
    "far, worst": lambda line: summed_up(line, min, FAR),
    "trained on, worst": lambda line: summed_up(line, min, TRAINED),
    "adaptive, worst": lambda line: summed_up(line, min, ADAPTIVELY),
    UNIVERSAL_PGD: lambda line: accuracy(line, ADAPTIVELY, UNIVERSAL_PGD),
}


def cell(values: Iterable[float | None]) -> str:
    """Mean over seeds, with its 95 % t interval where there are several, and not all have the same."""
    known = [value for value in values if value is not None]
    if len({*known}) < 2:
        return f"{known[0]:.1f}" if known else "-"
    reach = student.ppf(0.975, len(known) - 1) * stdev(known) / len(known) ** 0.5
    return f"{mean(known):.1f} ± {reach:.1f}"


def ratio(found: list[dict], seconds: str) -> float:
    """Time to that of the fine-tunes beside it."""
    return mean(line[seconds] for line in found) / mean(line["fine_tune"][seconds] for line in found)


def draw(shown: dict[str, dict[str, list[dict]]], path: Path) -> None:
    """Clean accuracy against that under DAEs of the public encoder, mean and worst, with the time of a step."""
    names = [*dict.fromkeys(name for rows in shown.values() for name in rows)]  # a color each, in all panels
    columns = min(len(shown), PANELS)
    lines = ceil(len(shown) / columns)
    figure = Figure(figsize=(8.6 * columns, 5.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes, (title, rows) in zip(panels, shown.items(), strict=False):
        for name, found in rows.items():
            x, high, low = (mean(map(SUMMARY[of], found)) for of in (CLEAN, "DAE, mean", "DAE, worst"))
            spent = ratio(found, "step_seconds")
            color = COLORS[names.index(name) % len(COLORS)]
            axes.plot([x, x], [low, high], color=color, linewidth=1)
            axes.plot(x, low, "v", color=color, fillstyle="none")
            axes.plot(x, high, "o", color=color, label=f"{name}, {spent:.2f} x time")
        axes.axline((50, 50), slope=1, color="#bbbbbb", linewidth=1, linestyle="--")
        axes.set(xlabel="clean accuracy, %", ylabel="under DAEs, %: mean (dot), worst (triangle)", title=title)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, dpi=110)


def dial_of(rows: dict[str, list[dict]]) -> list[str]:
    """The rows that differ in the dial alone, in its order."""
    shares = {
        name: found[0]["row"]["settings"]["per_image_share"]
        for name, found in rows.items()
        if found[0]["row"]["defence"] == "universal-n-fgsm" and found[0]["row"]["settings"]["patch_share"] == SHARE
    }
    return sorted(shares, key=lambda name: shares[name])


def draw_dial(title: str, rows: dict[str, list[dict]], path: Path) -> None:
    """Clean accuracy against that under the section's first attack on each image, the dial's rows joined by a line."""
    attack = next(iter(next(iter(rows.values()))[0]["attacks"][IMAGEWISE]))
    of = {CLEAN: SUMMARY[CLEAN], attack: partial(accuracy, kind=IMAGEWISE, attack=attack)}
    at = {name: [mean(map(each, found)) for each in of.values()] for name, found in rows.items()}
    dial = dial_of(rows)
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*(at[name] for name in dial), strict=True), color="#888888", linewidth=1)
    labels: list[tuple[float, float, float]] = []
    for name, (x, y) in sorted(at.items(), key=lambda each: -each[1][1]):
        axes.plot(x, y, "o", color="#1f77b4" if name in dial else "#d62728")
        line, end = y, x + LETTER * len(name)
        while any(abs(line - other) < LINE and x < stop and start < end for start, stop, other in labels):
            line -= LINE / 4
        labels.append((x, end, line))
        axes.annotate(f"  {name}", (x, line), va="center", fontsize=8)
    axes.margins(x=0.35, y=0.1)
    axes.set(xlabel="clean accuracy, %", ylabel=f"under {attack}, %", title=title)
    figure.savefig(path, dpi=110)
