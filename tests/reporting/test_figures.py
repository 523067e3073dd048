import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from sklearn.datasets import load_digits

from oddlens.errors import DataError, MissingExtraError, OddlensError
from oddlens.metrics import auroc
from oddlens.reporting import figures
from oddlens.reporting.figures import Example

DIGITS = np.round(load_digits().images[:12] * 255 / 16).astype(np.uint8)[..., None]  # (12, 8, 8, 1), real pixels
REBUILT = (DIGITS / 255 * 0.8 + 0.1).astype(np.float32)
MAPS = np.abs(DIGITS / 255 - REBUILT)[..., 0] ** 2
LONG = "a-very/long_name/with $x_1$ and more/" * 8 + "the end.png"


def example(
    index: int = 0,
    score: float = 0.02,
    *,
    truth: int | None = 0,
    rebuilt: bool = True,
    mapped: bool = True,
    mask: np.ndarray | None = None,
    name: str = "digits[0]",
) -> Example:
    assert truth in (0, 1, None)
    return Example(
        pixels=DIGITS[index],
        reconstruction=REBUILT[index] if rebuilt else None,
        anomaly_map=MAPS[index] if mapped else None,
        mask=mask,
        kind="digit",
        score=score,
        threshold=0.02,
        name=name,
        truth=truth,  # type: ignore[arg-type]
    )


def saved(figure: Figure, folder: Path) -> np.ndarray:
    with Image.open(figures.save_figure(figure, folder / "figure.png")) as image:
        return np.asarray(image.convert("RGB"))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def pictures(figure: Figure) -> list[tuple[float, float]]:
    """Left and top of every picture on the page, in inches."""
    height = figure.get_figheight()
    boxes = [axes.get_position() for axes in figure.axes if axes.images]
    return [(round(box.x0 * figure.get_figwidth(), 3), round((1 - box.y1) * height, 3)) for box in boxes]


def assert_nothing_overlaps(figure: Figure) -> None:
    """No two texts touch, and none leaves the page."""
    figure.draw_without_rendering()
    unused = set()  # matplotlib keeps ticks beyond the ends of an axis, and does not draw them
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            unused |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    drawn = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = {text: text.get_window_extent() for text in drawn if text not in unused}
    assert boxes
    for text, box in boxes.items():
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
    for (one, first), (other, second) in itertools.combinations(boxes.items(), 2):
        apart = first.x1 <= second.x0 or second.x1 <= first.x0 or first.y1 <= second.y0 or second.y1 <= first.y0
        assert apart, (one, other)


def test_reconstructions_are_two_rows_of_as_many_columns_as_images(tmp_path: Path) -> None:
    figure = figures.reconstructions(DIGITS, REBUILT, 255, [LONG] * 12, heading=LONG)
    places = pictures(figure)
    assert len(places) == 24
    assert len({left for left, _ in places}) == 12
    assert len({top for _, top in places}) == 2
    assert {"original", "reconstruction"} <= set(texts(figure))
    assert_nothing_overlaps(figure)
    image = saved(figure, tmp_path)
    assert image.shape[:2] == (round(figure.get_figheight() * 200), round(figure.get_figwidth() * 200))


@pytest.mark.parametrize(("dtype", "value_max"), [("uint8", 255), ("uint16", 4095)])
def test_a_small_image_is_drawn_in_crisp_squares_of_its_own_values(tmp_path: Path, dtype: str, value_max: int) -> None:
    pixels = np.round(DIGITS[:1] / 255 * value_max).astype(dtype)
    figure = figures.reconstructions(pixels, pixels / value_max, value_max)
    page = saved(figure, tmp_path)
    side = round(figure.axes[0].get_position().width * page.shape[1])
    assert side % 8 == 0
    for left, top in pictures(figure):
        drawn = page[round(top * 200) :, round(left * 200) :][:side, :side, 0].astype(int)
        squares = drawn.reshape(8, side // 8, 8, side // 8)[:, 2:-2, :, 2:-2]  # without the hairline frame
        assert np.ptp(squares, axis=(1, 3)).max() == 0
        np.testing.assert_allclose(squares[:, 0, :, 0], DIGITS[0, :, :, 0], atol=1)


def test_a_large_photograph_is_shrunk_and_its_shape_kept() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (2, 600, 300, 3), dtype=np.uint8)
    figure = figures.reconstructions(photograph, photograph / 255, 255)
    box = figure.axes[0].get_position()
    width, height = box.width * figure.get_figwidth(), box.height * figure.get_figheight()
    assert height == pytest.approx(1.4, abs=0.01)
    assert width == pytest.approx(0.7, abs=0.01)


def test_verdict_rows_show_a_row_an_image_and_say_what_was_decided(tmp_path: Path) -> None:
    figure = figures.verdict_rows([example(0, 0.031, truth=1), example(1, 0.02)], 255, "Two digits")
    assert len(pictures(figure)) == 6
    said = texts(figure)
    assert {"original", "reconstruction", "anomaly map", "verdict", "▲ anomaly", "● normal"} <= set(said)
    assert "score 0.03100 > threshold 0.02000" in said
    assert "score 0.02000 ≤ threshold 0.02000" in said, "a score equal to the threshold is normal"
    assert said.count("✓ right") == 2
    assert not any("wrong" in text for text in said)
    assert saved(figure, tmp_path).std() > 10


@pytest.mark.parametrize(
    ("rebuilt", "mapped", "columns"), [(True, True, 3), (False, True, 2), (True, False, 2), (False, False, 1)]
)
def test_a_column_that_no_example_can_fill_is_left_out(rebuilt: bool, mapped: bool, columns: int) -> None:
    figure = figures.verdict_rows([example(rebuilt=rebuilt, mapped=mapped)] * 2, 255)
    assert len({left for left, _ in pictures(figure)}) == columns
    assert ("reconstruction" in texts(figure)) == rebuilt
    assert ("anomaly map" in texts(figure)) == mapped
    assert ("one scale for all maps" in texts(figure)) == mapped


def test_an_example_without_a_map_among_others_leaves_a_dash() -> None:
    figure = figures.verdict_rows([example(), example(mapped=False)], 255)
    assert len(pictures(figure)) == 5
    assert texts(figure).count("–") == 1


def test_a_wrong_verdict_is_marked_in_words_and_an_unknown_one_is_not_judged() -> None:
    missed, false_alarm, unknown = example(0, 0.01, truth=1), example(1, 0.9, truth=0), example(2, 0.9, truth=None)
    assert (missed.mistake, false_alarm.mistake, unknown.mistake) == ("missed", "false alarm", "")
    figure = figures.verdict_rows([missed, false_alarm, unknown], 255)
    marks = [text for text in texts(figure) if "wrong" in text or "right" in text]
    assert marks == ["✗ wrong: missed", "✗ wrong: false alarm"]
    washed = [axes for axes in figure.axes if not axes.images and axes.get_position().width > 0.5]
    assert len(washed) == 2


def test_all_maps_share_one_colour_scale() -> None:
    figure = figures.verdict_rows([example(index) for index in range(3)], 255)
    limits = {
        axes.images[0].get_clim() for axes in figure.axes if axes.images and axes.images[0].get_cmap().name == "inferno"
    }
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == 0
    assert high == pytest.approx(np.quantile(MAPS[:3], 0.999))


def test_the_outline_runs_along_the_edges_of_the_mask() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 3:5] = True
    figure = figures.verdict_rows([example(mask=mask)], 255)
    (lines, *_) = figure.axes[0].findobj(LineCollection)
    segments = np.array(lines.get_segments())
    assert len(segments) == 2 * (3 + 2)
    assert segments[..., 0].min() == 2.5
    assert segments[..., 0].max() == 4.5
    assert segments[..., 1].min() == 1.5
    assert segments[..., 1].max() == 4.5


def test_a_mask_without_a_defect_has_no_outline(tmp_path: Path) -> None:
    figure = figures.verdict_rows([example(mask=np.zeros((8, 8), dtype=bool))], 255)
    assert not any(lines.get_segments() for lines in figure.findobj(LineCollection))
    assert saved(figure, tmp_path).std() > 10


def test_hostile_and_endless_names_are_drawn_as_plain_text_that_fits(tmp_path: Path) -> None:
    names = [LONG, "$\\frac{1}{0}$.png", "two\nlines\t.png", "写真\udcff.png", "", "_hidden", "x" * 5000]
    figure = figures.verdict_rows([example(name=name) for name in names], 255, LONG)
    assert_nothing_overlaps(figure)
    assert "two□lines□.png" in texts(figure)
    assert "$\\frac{1}{0}$.png" in texts(figure)
    assert saved(figure, tmp_path).shape[1] == round(figure.get_figwidth() * 200)


def test_score_histogram_has_a_row_a_kind_and_the_share_above_the_threshold() -> None:
    scores = {
        LONG: np.linspace(1, 2, 41),
        "far": np.full(5, 3.0),
        "good": np.linspace(0, 1, 100, endpoint=False),
        "none": np.empty(0),
    }
    figure = figures.score_histogram(scores, {"conformal, 5%": 0.945, "99th percentile": 0.97}, "good")
    said = texts(figure)
    assert {"good", "far", "100 images", "41 images", "5.0%", "100.0%", "over solid line"} <= set(said)
    assert "none" not in said, "a kind without images has nothing to show"
    assert "threshold 0.9450 (conformal, 5%)" in said
    assert figure.axes[0].get_ylim() == (0, 3)
    lines = [np.asarray(line.get_xdata()).tolist() for line in figure.axes[0].lines]
    assert [0.945, 0.945] in lines
    assert [0.97, 0.97] in lines
    assert_nothing_overlaps(figure)


def test_score_histogram_of_eleven_long_kinds_stays_readable(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    scores = {f"{index} {LONG}": generator.normal(index, 1, 30) for index in range(11)}
    figure = figures.score_histogram(scores, {LONG: 2.0}, f"0 {LONG}")
    assert_nothing_overlaps(figure)
    assert saved(figure, tmp_path).std() > 10


@pytest.mark.parametrize(
    ("others", "threshold", "scale"),
    [
        ({"near": [0.06, 0.2]}, 0.1, "linear"),
        ({"far": [5.0, 90.0], "blank": [0.0] * 9}, 0.1, "log"),
        ({"endless": [np.inf, 0.2]}, np.inf, "linear"),
        ({"negative": [-7.0, 0.1]}, 0.1, "linear"),
    ],
)
def test_heavy_tails_zeros_and_infinite_scores_are_all_counted(
    tmp_path: Path, others: dict[str, list[float]], threshold: float, scale: str
) -> None:
    scores = {"good": np.linspace(0.03, 0.09, 50)} | {kind: np.array(values) for kind, values in others.items()}
    figure = figures.score_histogram(scores, {"conformal": threshold}, "good")
    axes = figure.axes[0]
    assert axes.get_xscale() == scale
    low, high = axes.get_xlim()
    everything = np.concatenate(list(scores.values()))
    beyond = bool(((everything < low * 0.999) | (everything > high * 1.001)).any()) or np.isinf(threshold)
    assert ("outermost bars" in axes.get_xlabel()) == beyond
    assert low <= 0.03
    assert high >= 0.09
    assert saved(figure, tmp_path).std() > 5


def test_scores_that_are_all_equal_are_still_drawn(tmp_path: Path) -> None:
    assert saved(figures.score_histogram({"good": np.zeros(5)}, {"conformal": 0.0}, "good"), tmp_path).std() > 5


def test_roc_names_the_auroc_and_marks_the_operating_point() -> None:
    labels, scores = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0.1, 0.2, 0.3, 0.8, 0.4, 0.9, np.inf])
    points = {"conformal": (0.25, 2 / 3), "_p": (0.0, 0.0)}
    figure = figures.roc({LONG: (labels, scores), "$other$": (labels, -scores)}, points)
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


def test_every_roc_curve_can_be_told_from_the_others() -> None:
    labels, scores = np.array([0, 1]), np.array([0.0, 1.0])
    figure = figures.roc({f"kind {index}": (labels, scores) for index in range(11)})
    styles = [(line.get_color(), str(line.get_linestyle())) for line in figure.axes[0].lines[1:]]
    assert len(styles) == len(set(styles)) == 11
    assert_nothing_overlaps(figure)


def test_roc_without_anomalies_says_what_is_missing() -> None:
    with pytest.raises(DataError):
        figures.roc({"good": (np.zeros(4), np.arange(4.0))})


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


def test_a_loss_that_was_not_measured_in_every_epoch_keeps_its_place() -> None:
    figure = figures.training_curve([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "held_out_loss": 1.5}])
    assert [list(np.asarray(line.get_xdata())) for line in figure.axes[0].lines] == [[1, 2], [2]]


def test_maps_on_the_calibrated_scale_are_calm_below_the_level_and_outlined_above() -> None:
    highest = float(MAPS[0].max())
    for level, outlined in ((2 * highest, False), (highest / 2, True)):
        figure = figures.verdict_rows([example()], 255, level=level)
        assert any(axes.collections for axes in figure.axes) == outlined
        assert any("normal images keep to" in text for text in texts(figure))
        original, _, mapped, scale = (np.asarray(axes.images[0].get_array()) for axes in figure.axes)
        assert mapped.shape[-1] == scale.shape[-1] == 3
        quiet = MAPS[0] < level / 2
        assert mapped[quiet].std(axis=-1).max() == pytest.approx(0, abs=1e-6)  # as grey as the original
        assert (mapped[MAPS[0] > level].std(axis=-1) > 0.05).all()
        assert original.shape == MAPS[0].shape


def test_the_alarm_of_a_stream_is_marked() -> None:
    figure = figures.drift_curve([0.0, 0.5, 2.2, 1.0], 2.0, 2)
    assert "raised at image 3" in texts(figure)
    assert "raised" not in " ".join(texts(figures.drift_curve([0.0, 0.5], 2.0, None)))


def test_nothing_to_draw_is_one_clear_line() -> None:
    draws: list[Callable[[], Figure]] = [
        lambda: figures.reconstructions(DIGITS[:0], REBUILT[:0], 255),
        lambda: figures.verdict_rows([], 255),
        lambda: figures.score_histogram({"bad": np.ones(3)}, {}, "good"),
        lambda: figures.roc({}),
        lambda: figures.training_curve([]),
        lambda: figures.drift_curve([], 2.0, None),
    ]
    for draw in draws:
        with pytest.raises(DataError, match=r"^there are no [a-z ]+ to draw: found 0, give at least one$"):
            draw()


def all_kinds() -> list[Figure]:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.2, 0.9])
    return [
        figures.reconstructions(DIGITS[:3], REBUILT[:3], 255, ["1", "2", "3"], "Digits"),
        figures.verdict_rows([example(mask=MAPS[0] > 0.01), example(1, 0.5)], 255, "Digits"),
        figures.verdict_rows([example(), example(1, 0.5)], 255, "Digits", level=float(MAPS[0].max()) / 2),
        figures.drift_curve([0.1, 0.3, 2.1, 2.4], 2.0, 2),
        figures.score_histogram({"good": scores[:2], "bad": scores[2:]}, {"a": 0.2, "b": 0.25}, "good"),
        figures.roc({"one": (labels, scores)}, {"a": (0.5, 0.5)}),
        figures.training_curve([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 0.01}]),
    ]


def test_a_users_own_matplotlib_style_changes_nothing(tmp_path: Path) -> None:
    expected = [saved(figure, tmp_path) for figure in all_kinds()]
    with matplotlib.rc_context():
        matplotlib.style.use(["ggplot", "dark_background"])
        matplotlib.rcParams.update({"font.family": "serif", "font.size": 20})
        styled = [saved(figure, tmp_path) for figure in all_kinds()]
    for one, other in zip(expected, styled, strict=True):
        np.testing.assert_array_equal(one, other)


def test_names_never_go_through_latex() -> None:
    with matplotlib.rc_context({"text.usetex": True}):
        figure = figures.roc({"a_b": (np.array([0, 1]), np.array([0.0, 1.0]))})
        ours = [*figure.texts, *figure.axes[0].get_legend().get_texts(), figure.axes[0].xaxis.label]  # type: ignore[union-attr]
        ours += figures.verdict_rows([example(name="a_b")], 255, "$").texts
    assert not any(text.get_usetex() for text in ours)


def test_drawing_starts_no_pyplot_and_leaves_the_settings_alone() -> None:
    program = (
        "import sys, numpy, matplotlib\n"
        "settings = lambda: {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != 'backend'}\n"
        "before = settings()\n"
        "from oddlens.reporting import figures\n"
        "figures.training_curve([{'epoch': 1, 'loss': 2.0}])\n"
        "figures.reconstructions(numpy.zeros((1, 8, 8, 1), numpy.uint8), numpy.zeros((1, 8, 8, 1)), 255)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert settings() == before\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oddlens\[train\]'"):
        figures.training_curve([{"epoch": 1, "loss": 2.0}])


def test_save_gives_a_whole_png_of_twice_the_nominal_size_or_nothing(tmp_path: Path) -> None:
    figure = figures.training_curve([{"epoch": 1, "loss": 2.0}])
    path = figures.save_figure(figure, tmp_path / "new" / "curve.png")
    assert path == tmp_path / "new" / "curve.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1480, 640)
    assert [file.name for file in path.parent.iterdir()] == ["curve.png"]
    with pytest.raises(OddlensError, match="cannot be written"):
        figures.save_figure(figure, path / "below-a-file.png")
