"""A figure as a file."""

import logging
import warnings
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

logger = logging.getLogger(__name__)

WIDE_FONTS = (  # of names in scripts that matplotlib's own font has no letters of, where one of them is installed
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("PingFang SC", "Hiragino Sans", "Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai"),
)


def save(figure: Figure, path: str | Path, *, dpi: int = 150, **settings) -> None:
    """Writes a PNG, the same for the same figure, in which names are as they are: their dollar signs begin no formula.

    Args:
        figure: that was drawn.
        path: of the PNG file.
        dpi: dots per inch.
        settings: others of `Figure.savefig`.
    """
    installed = {font.name for font in fontManager.ttflist}
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_fontfamily([*text.get_fontfamily(), *(name for name in WIDE_FONTS if name in installed)])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figure.savefig(path, dpi=dpi, metadata={"Software": None}, **settings)
    lacking = [each for each in told if "missing from font" in str(each.message)]
    for each in (one for one in told if one not in lacking):
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if lacking:
        logger.warning(
            "%s has boxes in place of some letters, which no installed font has: install one that does, such as Noto "
            "Sans CJK for Chinese, Japanese and Korean",
            Path(path).name,
        )
