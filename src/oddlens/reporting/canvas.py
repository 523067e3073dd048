"""The page that figures are drawn on: measures in inches, text that fits, plain axes.

Colours and sizes are passed explicitly and matplotlib's global settings are never touched, so a user's own
style cannot turn our text white on white, and threads cannot disturb each other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from oddlens.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D

Floats = npt.NDArray[np.floating[Any]]

NOMINAL_DPI, SAVED_DPI = 100, 200
INK, MUTED, RULE, WASH = "#1b1f24", "#57606a", "#c8ced5", "#fdf0e6"
NORMAL, ANOMALY = "#0072b2", "#d55e00"  # Okabe and Ito's blue and vermilion: told apart by every kind of colour vision
CURVES = (NORMAL, ANOMALY, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", INK)  # the rest of their palette
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.2)))
FONT = "DejaVu Sans"  # comes with matplotlib
PLAIN: dict[str, Any] = {"fontfamily": FONT, "parse_math": False, "usetex": False}  # names may hold $ and _
BODY, SMALL, HEADING = 9.0, 8.0, 12.0  # points
MARGIN, GAP = 0.2, 0.08  # inches, as all lengths below


class Canvas:
    """A white page measured in inches from its top left corner; boxes fall on whole saved pixels."""

    def __init__(self, width: float, height: float) -> None:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtraError("drawing figures", "train") from error
        self.width, self.height = snap(width), snap(height)
        self.figure = Figure(figsize=(self.width, self.height), dpi=NOMINAL_DPI, facecolor="white")
        self._canvas: Any = FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Plain axes in a box of the page."""
        left, width = snap(left) / self.width, snap(width) / self.width
        top, height = snap(top) / self.height, snap(height) / self.height
        axes = self.figure.add_axes((left, 1 - top - height, width, height), facecolor="white")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set(color=RULE, linewidth=0.8)
        axes.tick_params(color=RULE, labelcolor=INK, labelsize=SMALL, labelfontfamily=FONT)
        return axes

    def band(self, left: float, top: float, width: float, height: float) -> None:
        """A tinted stripe behind what is drawn there later."""
        axes = self.axes(left, top, width, height)
        axes.set(xticks=[], yticks=[], facecolor=WASH)
        axes.spines[:].set_visible(False)

    def picture(self, left: float, top: float, size: tuple[float, float], image: Floats, **scale: Any) -> AxesImage:
        """Draw a (H, W), (H, W, 1) or (H, W, 3) image; 0..1 is black to white unless `scale` says otherwise."""
        axes = self.axes(left, top, *size)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=RULE, linewidth=0.5)
        image = image[..., 0] if image.shape[2:] == (1,) else image
        smooth = size[0] * SAVED_DPI < image.shape[1]
        if not scale:
            image, scale = image.clip(0, 1), {"cmap": "gray", "vmin": 0, "vmax": 1}
        return axes.imshow(image, aspect="auto", interpolation="hanning" if smooth else "nearest", **scale)

    def text(self, left: float, top: float, text: str, room: float = np.inf, size: float = BODY, **style: Any) -> None:
        """Text with its top left corner at a place, shortened to `room` inches."""
        shown = self.fit(text, room, size, style.get("weight", "normal"))
        style = {"color": INK, "va": "top"} | style
        self.figure.text(left / self.width, 1 - top / self.height, shown, size=size, **PLAIN, **style)

    def fit(self, text: str, room: float, size: float = BODY, weight: str = "normal") -> str:
        """Replace what the font lacks, and shorten the middle until the text fits into `room` inches."""
        from matplotlib.font_manager import FontProperties, findfont, get_font

        properties = FontProperties(family=[FONT], size=size, weight=weight)
        font = get_font(findfont(properties))
        text = "".join(letter if letter.isprintable() and font.get_char_index(ord(letter)) else "□" for letter in text)
        measure = self._canvas.get_renderer().get_text_width_height_descent

        def keeping(count: int) -> str:
            return text if count == len(text) else text[: (count + 1) // 2] + "…" + text[len(text) - count // 2 :]

        def too_wide(count: int) -> bool:
            return bool(measure(keeping(count), properties, False)[0] > room * NOMINAL_DPI)

        return keeping(max(1, bisect_left(range(min(len(text), 200) + 1), True, key=too_wide) - 1)) if text else ""


def snap(inches: float) -> float:
    """The nearest length that is a whole number of saved pixels."""
    return round(inches * SAVED_DPI) / SAVED_DPI


def cell_size(shape: Sequence[int], target: float) -> tuple[float, float]:
    """(width, height) for an (H, W, ...) image about `target` long, its pixels crisp squares unless it must shrink."""
    scale = target * SAVED_DPI / max(shape[:2])
    scale = max(1, round(scale)) if scale > 0.75 else scale
    return max(1, round(shape[1] * scale)) / SAVED_DPI, max(1, round(shape[0] * scale)) / SAVED_DPI


def scale_axis(axes: Axes, direction: Literal["x", "y"], ratio: float) -> None:
    """Plain numbers along an axis; logarithmic where the `ratio` of its ends is given, with fewer the larger it is."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if ratio:
        axes.set(**{f"{direction}scale": "log"})
    axis = axes.xaxis if direction == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 2000 else (1,)) if ratio else MaxNLocator(7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Name both axes."""
    axes.set_xlabel(x, color=INK, fontsize=BODY, **PLAIN)
    axes.set_ylabel(y, color=INK, fontsize=BODY, **PLAIN)


def legend_beside(axes: Axes, handles: Sequence[Line2D], labels: Sequence[str], **where: Any) -> None:
    """A legend without a frame, in our own letters."""
    legend = axes.legend(handles, labels, frameon=False, fontsize=BODY, title_fontsize=BODY, **where)
    legend.set_alignment("left")
    for text in (legend.get_title(), *legend.get_texts()):
        text.set(color=INK, **PLAIN)


def format_score(value: float) -> str:
    """A score in four significant digits.

    >>> number(0.018), number(1234.0), number(float("inf"))
    ('0.01800', '1234', '∞')
    """
    return f"{value:#.4g}".rstrip(".").replace("inf", "∞").replace("-", "−")
