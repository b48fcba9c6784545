"""Pictures of the images that a model is trained on."""

from pathlib import Path

import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure
from PIL import Image as PILImage
from PIL import ImageOps

from genaf_hf.data import to_rgb
from genaf_hf.sharing.picture import save
from genaf_hf.values.names import shortened

CLASSES, PER_CLASS = 10, 8
TILE, GAP = 96, 6  # pixels
DPI = 120


def draw_samples(train: Dataset, path: str | Path) -> None:
    """Some images of each class in a row, and of many classes, some that are evenly spread; always the same ones.

    Args:
        train: with the columns `image` and `label` (ClassLabel), as `load_images` gives them.
        path: of the PNG file.
    """
    labels, names = np.asarray(train["label"]), train.features["label"].names
    present = np.unique(labels)
    shown = present[np.linspace(0, len(present) - 1, min(CLASSES, len(present))).round().astype(int)]
    generator, step = np.random.default_rng(0), TILE + GAP
    grid = PILImage.new("RGB", (PER_CLASS * step - GAP, len(shown) * step - GAP), "white")
    for row, label in enumerate(shown):
        rows = generator.permutation(np.flatnonzero(labels == label))[:PER_CLASS].tolist()
        for column, index in enumerate(rows):
            # Box: what is enlarged keeps its pixels, what is reduced is averaged.
            tile = ImageOps.fit(to_rgb(train[index]["image"]), (TILE, TILE), method=PILImage.Resampling.BOX)
            grid.paste(tile, (column * step, row * step))

    figure = Figure(figsize=(grid.width / DPI, grid.height / DPI))
    axes = figure.add_axes((0, 0, 1, 1))  # one pixel of the grid is one of the picture
    axes.imshow(grid, interpolation="nearest")
    axes.set_xticks([])
    places = [row * step + TILE / 2 for row in range(len(shown))]
    axes.set_yticks(places, [shortened(names[label]) for label in shown], fontsize=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"training images of {len(shown)} of {len(names)} classes", fontsize=10)
    save(figure, path, dpi=DPI, bbox_inches="tight")
