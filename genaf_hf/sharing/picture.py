"""A figure as a file."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.text import Text


def save(figure: Figure, path: str | Path, *, dpi: int = 150, **settings) -> None:
    """Writes a PNG, the same for the same figure, in which names are as they are: their dollar signs begin no formula.

    Args:
        figure: that was drawn.
        path: of the PNG file.
        dpi: dots per inch.
        settings: others of `Figure.savefig`.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.savefig(path, dpi=dpi, metadata={"Software": None}, **settings)
