"""Figures of scores and losses: content, layout, and independence of matplotlib's settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import pytest
from figure_checks import DIGITS, LONG_NAME, MAPS, RECONSTRUCTIONS, assert_nothing_overlaps, example, render, texts
from matplotlib.figure import Figure
from PIL import Image

from oddlens.errors import DataError, MissingExtraError, OddlensError
from oddlens.metrics import auroc
from oddlens.reporting import figures, image_grids


def test_score_histogram_has_a_row_per_kind_with_the_share_above_the_threshold() -> None:
    scores = {
        LONG_NAME: np.linspace(1, 2, 41),
        "far": np.full(5, 3.0),
        "good": np.linspace(0, 1, 100, endpoint=False),
        "none": np.empty(0),
    }
    figure = figures.score_histogram(scores, {"conformal, 5%": 0.945, "99th percentile": 0.97}, "good")
    drawn_texts = texts(figure)
    assert {"good", "far", "100 images", "41 images", "5.0%", "100.0%", "over solid line"} <= set(drawn_texts)
    assert "none" not in drawn_texts, "a kind without images has nothing to show"
    assert "threshold 0.9450 (conformal, 5%)" in drawn_texts
    assert figure.axes[0].get_ylim() == (0, 3)
    lines = [np.asarray(line.get_xdata()).tolist() for line in figure.axes[0].lines]
    assert [0.945, 0.945] in lines
    assert [0.97, 0.97] in lines
    assert_nothing_overlaps(figure)


def test_score_histogram_of_eleven_kinds_with_long_names_has_no_overlaps(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    scores = {f"{index} {LONG_NAME}": generator.normal(index, 1, 30) for index in range(11)}
    figure = figures.score_histogram(scores, {LONG_NAME: 2.0}, f"0 {LONG_NAME}")
    assert_nothing_overlaps(figure)
    assert render(figure, tmp_path).std() > 10


@pytest.mark.parametrize(
    ("others", "threshold", "scale"),
    [
        ({"near": [0.06, 0.2]}, 0.1, "linear"),
        ({"far": [5.0, 90.0], "blank": [0.0] * 9}, 0.1, "log"),
        ({"endless": [np.inf, 0.2]}, np.inf, "linear"),
        ({"negative": [-7.0, 0.1]}, 0.1, "linear"),
    ],
)
def test_score_histogram_includes_heavy_tails_zeros_and_infinite_scores(
    tmp_path: Path, others: dict[str, list[float]], threshold: float, scale: str
) -> None:
    scores = {"good": np.linspace(0.03, 0.09, 50)} | {kind: np.array(values) for kind, values in others.items()}
    figure = figures.score_histogram(scores, {"conformal": threshold}, "good")
    axes = figure.axes[0]
    assert axes.get_xscale() == scale
    low, high = axes.get_xlim()
    values = np.concatenate(list(scores.values()))
    beyond = bool(((values < low * 0.999) | (values > high * 1.001)).any()) or np.isinf(threshold)
    assert ("outermost bars" in axes.get_xlabel()) == beyond
    assert low <= 0.03
    assert high >= 0.09
    assert render(figure, tmp_path).std() > 5


def test_score_histogram_of_equal_scores_is_drawn(tmp_path: Path) -> None:
    assert render(figures.score_histogram({"good": np.zeros(5)}, {"conformal": 0.0}, "good"), tmp_path).std() > 5


def test_roc_curves_show_the_auroc_and_the_operating_points() -> None:
    labels, scores = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0.1, 0.2, 0.3, 0.8, 0.4, 0.9, np.inf])
    points = {"conformal": (0.25, 2 / 3), "_p": (0.0, 0.0)}
    figure = figures.roc_curves({LONG_NAME: (labels, scores), "$other$": (labels, -scores)}, points)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries[0].startswith(f"{auroc(labels, scores):.3f}  a-very")
    assert entries[1:] == [
        f"{auroc(labels, -scores):.3f}  $other$",
        "caught 66.7% at 25.0% (conformal)",
        "caught 0.0% at 0.0% (_p)",
    ]
    drawn = [line for line in figure.axes[0].lines if line.get_marker() in ("o", "D")]
    places = [(np.asarray(point.get_xdata()).item(), np.asarray(point.get_ydata()).item()) for point in drawn]
    assert places == [(0.25, 2 / 3), (0.0, 0.0)]
    assert_nothing_overlaps(figure)


def test_every_roc_curve_has_a_distinct_style() -> None:
    labels, scores = np.array([0, 1]), np.array([0.0, 1.0])
    figure = figures.roc_curves({f"kind {index}": (labels, scores) for index in range(11)})
    styles = [(line.get_color(), str(line.get_linestyle())) for line in figure.axes[0].lines[1:]]
    assert len(styles) == len(set(styles)) == 11
    assert_nothing_overlaps(figure)


def test_a_roc_curve_without_anomalies_is_an_error() -> None:
    with pytest.raises(DataError):
        figures.roc_curves({"good": (np.zeros(4), np.arange(4.0))})


@pytest.mark.parametrize("epochs", [1, 10, 200])
def test_training_curve_draws_every_loss_of_every_epoch(epochs: int) -> None:
    history = [
        {"epoch": epoch, "loss": 0.9**epoch, "held_out_loss": 0.95**epoch, "seconds": 0.5}
        for epoch in range(1, epochs + 1)
    ]
    figure = figures.training_curve(history)
    lines = figure.axes[0].lines
    assert [len(np.asarray(line.get_xdata())) for line in lines] == [epochs, epochs]
    assert list(np.asarray(lines[0].get_ydata())) == [row["loss"] for row in history]
    assert {"loss", "held out loss"} <= set(texts(figure))
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())
    assert_nothing_overlaps(figure)


def test_a_loss_that_is_missing_in_some_epochs_is_drawn_at_the_right_epochs() -> None:
    figure = figures.training_curve([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "held_out_loss": 1.5}])
    assert [list(np.asarray(line.get_xdata())) for line in figure.axes[0].lines] == [[1, 2], [2]]


def test_drift_curve_marks_the_alarm() -> None:
    figure = figures.drift_curve([0.0, 0.5, 2.2, 1.0], 2.0, 2)
    assert "raised at image 3" in texts(figure)
    assert "raised" not in " ".join(texts(figures.drift_curve([0.0, 0.5], 2.0, None)))


def test_drawing_nothing_is_an_error() -> None:
    draws: list[Callable[[], Figure]] = [
        lambda: figures.score_histogram({"bad": np.ones(3)}, {}, "good"),
        lambda: figures.roc_curves({}),
        lambda: figures.training_curve([]),
        lambda: figures.drift_curve([], 2.0, None),
    ]
    for draw in draws:
        with pytest.raises(DataError, match=r"^there are no [a-z ]+ to draw: found 0, give at least one$"):
            draw()


def all_kinds() -> list[Figure]:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.2, 0.9])
    return [
        image_grids.reconstruction_grid(DIGITS[:3], RECONSTRUCTIONS[:3], 255, ["1", "2", "3"], "Digits"),
        image_grids.verdict_grid([example(mask=MAPS[0] > 0.01), example(1, 0.5)], 255, "Digits"),
        image_grids.verdict_grid([example(), example(1, 0.5)], 255, "Digits", map_threshold=float(MAPS[0].max()) / 2),
        figures.drift_curve([0.1, 0.3, 2.1, 2.4], 2.0, 2),
        figures.score_histogram({"good": scores[:2], "bad": scores[2:]}, {"a": 0.2, "b": 0.25}, "good"),
        figures.roc_curves({"one": (labels, scores)}, {"a": (0.5, 0.5)}),
        figures.training_curve([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 0.01}]),
    ]


def test_a_users_matplotlib_style_does_not_change_figures(tmp_path: Path) -> None:
    expected = [render(figure, tmp_path) for figure in all_kinds()]
    with matplotlib.rc_context():
        matplotlib.style.use(["ggplot", "dark_background"])
        matplotlib.rcParams.update({"font.family": "serif", "font.size": 20})
        styled = [render(figure, tmp_path) for figure in all_kinds()]
    for plain_figure, styled_figure in zip(expected, styled, strict=True):
        np.testing.assert_array_equal(plain_figure, styled_figure)


def test_names_are_never_interpreted_as_latex() -> None:
    with matplotlib.rc_context({"text.usetex": True}):
        figure = figures.roc_curves({"a_b": (np.array([0, 1]), np.array([0.0, 1.0]))})
        ours = [*figure.texts, *figure.axes[0].get_legend().get_texts(), figure.axes[0].xaxis.label]  # type: ignore[union-attr]
        ours += image_grids.verdict_grid([example(name="a_b")], 255, "$").texts
    assert not any(text.get_usetex() for text in ours)


def test_drawing_does_not_import_pyplot_or_change_its_settings() -> None:
    program = (
        "import sys, numpy, matplotlib\n"
        "settings = lambda: {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != 'backend'}\n"
        "before = settings()\n"
        "from oddlens.reporting import figures, image_grids\n"
        "figures.training_curve([{'epoch': 1, 'loss': 2.0}])\n"
        "image_grids.reconstruction_grid(numpy.zeros((1, 8, 8, 1), numpy.uint8), numpy.zeros((1, 8, 8, 1)), 255)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert settings() == before\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oddlens\[train\]'"):
        figures.training_curve([{"epoch": 1, "loss": 2.0}])


def test_save_figure_writes_a_complete_png_of_twice_the_nominal_size_or_nothing(tmp_path: Path) -> None:
    figure = figures.training_curve([{"epoch": 1, "loss": 2.0}])
    path = figures.save_figure(figure, tmp_path / "new" / "curve.png")
    assert path == tmp_path / "new" / "curve.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1480, 640)
    assert [file.name for file in path.parent.iterdir()] == ["curve.png"]
    with pytest.raises(OddlensError, match="cannot be written"):
        figures.save_figure(figure, path / "below-a-file.png")
