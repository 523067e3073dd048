"""The canvas that figures are drawn on: lengths in inches, text that is shortened to fit, plain axes.

Colours and sizes are passed explicitly and matplotlib's global settings are never touched, so that a user's style
cannot make text unreadable and threads cannot interfere with each other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from oddlens.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D

Floats = npt.NDArray[np.floating[Any]]

NOMINAL_DPI, SAVED_DPI = 100, 200
INK, MUTED, RULE, WASH = "#1b1f24", "#57606a", "#c8ced5", "#fdf0e6"
NORMAL, ANOMALY = "#0072b2", "#d55e00"  # Okabe and Ito's blue and vermilion, safe for all kinds of colour vision
CURVES = (NORMAL, ANOMALY, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", INK)  # the rest of their palette
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.2)))
FONT = "DejaVu Sans"  # comes with matplotlib
PLAIN: dict[str, Any] = {"fontfamily": FONT, "parse_math": False, "usetex": False}  # names may contain $ and _
BODY, SMALL, HEADING = 9.0, 8.0, 12.0  # points
MARGIN, GAP = 0.2, 0.08  # inches, as all lengths below


class Canvas:
    """A white page with lengths in inches from its top left corner; boxes are aligned to saved pixels."""

    def __init__(self, width: float, height: float) -> None:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtraError("drawing figures", "train") from error
        self.width, self.height = snap(width), snap(height)
        self.figure = Figure(figsize=(self.width, self.height), dpi=NOMINAL_DPI, facecolor="white")
        self._backend: Any = FigureCanvasAgg(self.figure)

    @cached_property
    def page(self) -> Axes:
        """Axes over the whole page, in inches from its top left corner.

        All images lie on them: axes for each would take longer than all else.
        """
        axes = self.figure.add_axes((0, 0, 1, 1), xticks=[], yticks=[], xlim=(0, self.width), ylim=(self.height, 0))
        axes.set_axis_off()
        return axes

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add plain axes in a box of the page."""
        left, width = snap(left) / self.width, snap(width) / self.width
        top, height = snap(top) / self.height, snap(height) / self.height
        axes = self.figure.add_axes((left, 1 - top - height, width, height), facecolor="white")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set(color=RULE, linewidth=0.8)
        axes.tick_params(color=RULE, labelcolor=INK, labelsize=SMALL, labelfontfamily=FONT)
        return axes

    def band(self, left: float, top: float, width: float, height: float) -> None:
        """Add a tinted background behind the images."""
        self._box(left, top, width, height, facecolor=WASH, zorder=-1)

    def image(self, left: float, top: float, size: tuple[float, float], image: Floats, **scale: Any) -> AxesImage:
        """Draw an (H, W), (H, W, 1) or (H, W, 3) image; without a `scale` of colours, 0..1 is black to white."""
        from matplotlib.image import AxesImage

        image = image[..., 0] if image.shape[2:] == (1,) else image
        smooth = size[0] * SAVED_DPI < image.shape[1]
        if not scale:
            image, scale = image.clip(0, 1), {"cmap": "gray", "clim": (0, 1)}
        left, top, width, height = self._box(left, top, *size, fill=False, edgecolor=RULE, linewidth=0.5, zorder=1)
        drawn = AxesImage(
            self.page,
            extent=(left, left + width, top + height, top),
            origin="upper",
            interpolation="hanning" if smooth else "nearest",
            clip_on=False,
            **scale,
        )
        drawn.set_data(image)
        self.page.add_image(drawn)
        return drawn

    def _box(self, left: float, top: float, width: float, height: float, **style: Any) -> tuple[float, ...]:
        """Draw a rectangle on the page, and return it aligned to saved pixels."""
        from matplotlib.patches import Rectangle

        left, top, width, height = snap(left), snap(top), snap(width), snap(height)
        self.page.add_artist(Rectangle((left, top), width, height, clip_on=False, **style))
        return left, top, width, height

    def text(
        self, left: float, top: float, text: str, max_width: float = np.inf, size: float = BODY, **style: Any
    ) -> None:
        """Draw text with its top left corner at the given position, shortened to `max_width` inches."""
        fitting = self.fit(text, max_width, size, style.get("weight", "normal"))
        style = {"color": INK, "va": "top"} | style
        self.figure.text(left / self.width, 1 - top / self.height, fitting, size=size, **PLAIN, **style)

    def fit(self, text: str, max_width: float, size: float = BODY, weight: str = "normal") -> str:
        """Replace characters that the font lacks, and cut the middle until the text fits into `max_width` inches."""
        from matplotlib.font_manager import FontProperties, findfont, get_font

        properties = FontProperties(family=[FONT], size=size, weight=weight)
        font = get_font(findfont(properties))
        text = "".join(letter if letter.isprintable() and font.get_char_index(ord(letter)) else "□" for letter in text)
        measure = self._backend.get_renderer().get_text_width_height_descent

        def shorten(count: int) -> str:
            return text if count == len(text) else text[: (count + 1) // 2] + "…" + text[len(text) - count // 2 :]

        def too_wide(count: int) -> bool:
            return bool(measure(shorten(count), properties, False)[0] > max_width * NOMINAL_DPI)

        return shorten(max(1, bisect_left(range(min(len(text), 200) + 1), True, key=too_wide) - 1)) if text else ""


def snap(inches: float) -> float:
    """Round a length to a whole number of saved pixels."""
    return round(inches * SAVED_DPI) / SAVED_DPI


def cell_size(shape: Sequence[int], target: float) -> tuple[float, float]:
    """Return (width, height) for an (H, W, ...) image about `target` long; unless it shrinks, pixels stay sharp."""
    scale = target * SAVED_DPI / max(shape[:2])
    scale = max(1, round(scale)) if scale > 0.75 else scale
    return max(1, round(shape[1] * scale)) / SAVED_DPI, max(1, round(shape[0] * scale)) / SAVED_DPI


def scale_axis(axes: Axes, direction: Literal["x", "y"], ratio: float) -> None:
    """Put plain numbers along an axis; it is logarithmic where the `ratio` of its ends is not 0.

    The larger the ratio, the fewer the numbers.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if ratio:
        axes.set(**{f"{direction}scale": "log"})
    axis = axes.xaxis if direction == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 2000 else (1,)) if ratio else MaxNLocator(7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Label both axes."""
    axes.set_xlabel(x, color=INK, fontsize=BODY, **PLAIN)
    axes.set_ylabel(y, color=INK, fontsize=BODY, **PLAIN)


def add_legend(axes: Axes, handles: Sequence[Line2D], labels: Sequence[str], **options: Any) -> None:
    """Add a legend without a frame, in the canvas's font; `options` are those of `Axes.legend`."""
    legend = axes.legend(handles, labels, frameon=False, fontsize=BODY, title_fontsize=BODY, **options)
    legend.set_alignment("left")
    for text in (legend.get_title(), *legend.get_texts()):
        text.set(color=INK, **PLAIN)


def format_score(value: float) -> str:
    """Format a score with four significant digits.

    >>> format_score(0.018), format_score(1234.0), format_score(float("inf"))
    ('0.01800', '1234', '∞')
    """
    return f"{value:#.4g}".rstrip(".").replace("inf", "∞").replace("-", "−")


def require_data(count: int, name: str) -> None:
    """Check that there is something to draw.

    Raises:
        DataError: `count` is 0.
    """
    if not count:
        raise DataError(f"there are no {name} to draw: found 0, give at least one")
