"""Plot of realized false-alarm rates over many calibrations, with the requested rate and the training percentile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from oddlens.reporting.canvas import ANOMALY, DASHES, HEADING, INK, MARGIN, MUTED, NORMAL, RULE, SMALL, Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LABEL, PANEL, ROW = 2.3, 3.3, 0.24  # inches: width of the names, width of a panel, height of a row
BEYOND = 4.0  # right edge of a panel in requested rates; larger values are drawn at the edge


class Spread(NamedTuple):
    """Realized false-alarm rates of one detector on one data set."""

    name: str
    requested: float
    rates: list[float]  # one per calibration; empty where the calibration set is too small for the rate
    train_percentile: float  # rate realized by the percentile of the training scores


def draw(spreads: Sequence[Spread]) -> Figure:
    """Draw a panel per rate with a row per detector: the mean and 95% range over calibrations, and the percentile."""
    names = list(dict.fromkeys(spread.name for spread in spreads))
    rates = sorted({spread.requested for spread in spreads})
    height = ROW * len(names)
    canvas = Canvas(2 * MARGIN + LABEL + len(rates) * (PANEL + 0.25), height + 1.35)
    for column, rate in enumerate(rates):
        axes = canvas.axes(MARGIN + LABEL + column * (PANEL + 0.25), 0.6, PANEL, height)
        edge = BEYOND * rate
        for spread in spreads:
            if spread.requested != rate:
                continue
            row = len(names) - names.index(spread.name)
            if spread.rates:
                low, high = np.quantile(spread.rates, (0.025, 0.975))
                axes.plot((low, high), (row, row), color=NORMAL, linewidth=2.2, solid_capstyle="round", alpha=0.5)
                axes.plot(np.mean(spread.rates), row, "o", color=NORMAL, markersize=5)
            marker = ">" if spread.train_percentile > edge else "D"
            axes.plot(min(spread.train_percentile, edge), row, marker, color=ANOMALY, markersize=4.5, clip_on=False)
        axes.axvline(rate, color=INK, linewidth=1.2, linestyle=DASHES[1])
        axes.set(xlim=(0, edge), ylim=(0.3, len(names) + 0.7), yticks=[])
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        axes.grid(axis="x", color=RULE, linewidth=0.5)
        left = MARGIN + LABEL + column * (PANEL + 0.25)
        canvas.text(left, 0.2, f"requested: {rate:.0%}", size=HEADING, weight="bold")
    for place, name in enumerate(names):
        middle = 0.6 + height * (place + 0.7) / (len(names) + 0.4)
        canvas.text(MARGIN, middle, name, LABEL - 0.1, SMALL, va="center")
    note = (
        "dot and line: conformal, mean and 95% of calibrations   diamond: percentile of the training scores "
        "(arrow: beyond the edge)"
    )
    canvas.text(MARGIN, height + 1.0, note, size=SMALL, color=MUTED)
    return canvas.figure
