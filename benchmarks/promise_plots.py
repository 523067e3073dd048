"""A picture of realised false-alarm rates: what was asked, what came of it in many calibrations, and the seeds' way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from oddlens.reporting.canvas import ANOMALY, DASHES, HEADING, INK, MARGIN, MUTED, NORMAL, RULE, SMALL, Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LABEL, PANEL, ROW = 2.3, 3.3, 0.24  # inches: the names at the left, a panel's width, a row's height
BEYOND = 4.0  # times the asked rate: where a panel ends, and what lies farther is drawn at its edge


class Spread(NamedTuple):
    """The realised rates of one detector on one set."""

    name: str
    asked: float
    rates: list[float]  # one a calibration; empty where it was too small to promise the rate
    seeds: float  # what the percentile of the training scores flags


def draw(spreads: Sequence[Spread]) -> Figure:
    """A panel a rate, a row a detector: the range of 95% of the calibrations, their mean, and the seeds' percentile."""
    names = list(dict.fromkeys(spread.name for spread in spreads))
    asked = sorted({spread.asked for spread in spreads})
    height = ROW * len(names)
    sheet = Canvas(2 * MARGIN + LABEL + len(asked) * (PANEL + 0.25), height + 1.35)
    for column, rate in enumerate(asked):
        axes = sheet.axes(MARGIN + LABEL + column * (PANEL + 0.25), 0.6, PANEL, height)
        edge = BEYOND * rate
        for spread in spreads:
            if spread.asked != rate:
                continue
            row = len(names) - names.index(spread.name)
            if spread.rates:
                low, high = np.quantile(spread.rates, (0.025, 0.975))
                axes.plot((low, high), (row, row), color=NORMAL, linewidth=2.2, solid_capstyle="round", alpha=0.5)
                axes.plot(np.mean(spread.rates), row, "o", color=NORMAL, markersize=5)
            marker = ">" if spread.seeds > edge else "D"
            axes.plot(min(spread.seeds, edge), row, marker, color=ANOMALY, markersize=4.5, clip_on=False)
        axes.axvline(rate, color=INK, linewidth=1.2, linestyle=DASHES[1])
        axes.set(xlim=(0, edge), ylim=(0.3, len(names) + 0.7), yticks=[])
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        axes.grid(axis="x", color=RULE, linewidth=0.5)
        sheet.text(MARGIN + LABEL + column * (PANEL + 0.25), 0.2, f"asked: {rate:.0%}", size=HEADING, weight="bold")
    for place, name in enumerate(names):
        middle = 0.6 + height * (place + 0.7) / (len(names) + 0.4)
        sheet.text(MARGIN, middle, name, LABEL - 0.1, SMALL, va="center")
    note = (
        "dot and line: conformal, mean and 95% of calibrations   diamond: percentile of the training scores "
        "(arrow: beyond the edge)"
    )
    sheet.text(MARGIN, height + 1.0, note, size=SMALL, color=MUTED)
    return sheet.figure
