"""The data doctor: what is wrong with a data set, and its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.open import open_dataset
from oddlens.evaluation import contamination, data_checks
from oddlens.reporting import data_report


def made(count: int, mean: float, seed: int, side: int = 24) -> np.ndarray:
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(side) * rng.uniform(0.3, 0.9, (count, 1)) + rng.uniform(0, 6, (count, 1)))
    pixels = mean + 30 * waves[:, None, :] + rng.normal(0, 9, (count, side, side))
    return np.clip(pixels, 0, 255).astype(np.uint8)[..., None]


def data(train: np.ndarray, good: np.ndarray, bad: np.ndarray) -> DataSet:
    labels = np.repeat([0, 1], [len(good), len(bad)])
    test = ImageSet.from_array(np.concatenate([good, bad]), name="test", label=labels)
    return DataSet("made", ImageSet.from_array(train, name="train"), test, "good")


def names(diagnosis: data_checks.Diagnosis) -> set[str]:
    return {finding.name for finding in diagnosis.findings}


def test_two_lamps_in_one_folder_are_noticed_and_a_wide_spread_is_not() -> None:
    good, bad = made(20, 120, 1), made(20, 120, 2)
    mixed = np.concatenate([made(150, 80, 3), made(50, 170, 4)])
    found = {f.name: f for f in data_checks.check(data(mixed, good, bad)).findings}
    assert set(found["brightness groups"].files) == {f"train[{i}]" for i in range(150, 200)}
    spread = np.concatenate([made(1, mean, 10 + i) for i, mean in enumerate(np.linspace(60, 190, 200))])
    assert "brightness groups" not in names(data_checks.check(data(spread, good, bad)))
    assert "brightness groups" not in names(data_checks.check(data(np.repeat(good[:1], 40, axis=0), good, bad)))


@pytest.mark.parametrize(("values", "share"), [("bell", 0.64), ("even", 0.75), ("two", 1.0)])
def test_the_share_between_two_groups_is_what_theory_says(values: str, share: float) -> None:
    rng = np.random.default_rng(0)
    drawn = {"bell": rng.normal(size=20_000), "even": rng.random(20_000), "two": rng.normal(0, 0.01, 20_000)}[values]
    drawn[:10_000] += 5 * (values == "two")
    assert data_checks.two_groups(drawn)[1] == pytest.approx(share, abs=0.01)


def test_what_tells_the_classes_apart_without_looking_is_a_shortcut(tmp_path: Path) -> None:
    shortcuts = data_checks.check(data(made(60, 120, 0), made(20, 120, 1), made(20, 150, 2))).facts["shortcuts"]
    assert shortcuts["mean brightness"] > data_checks.MIN_SHORTCUT_AUROC
    fair = data_checks.check(data(made(60, 120, 0), made(20, 120, 1), made(20, 120, 2)))
    assert "shortcut" not in names(fair)
    for place, pixels, quality in (("train/good", made(30, 120, 0), 90), ("test/good", made(20, 120, 1), 90),
                                   ("test/bad", made(20, 120, 2), 20)):  # fmt: skip
        (tmp_path / place).mkdir(parents=True)
        for i, image in enumerate(pixels):
            Image.fromarray(image[..., 0]).save(tmp_path / place / f"{i}.jpg", quality=quality)
    found = data_checks.check(open_dataset(tmp_path))
    assert any("file size alone" in finding.text for finding in found.findings)
    assert found.facts["shortcuts"]["image size"] == 0.5


def test_masks_that_match_no_image_are_named(tmp_path: Path) -> None:
    for place in ("train/good/0", "test/bad/0", "test/good/0", "ground_truth/bad/0_mask", "ground_truth/bad/7_mask",
                  "ground_truth/other/0_mask"):  # fmt: skip
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made(1, 120, len(place))[0, ..., 0]).save(path)
    (found,) = [f for f in data_checks.check(open_dataset(tmp_path)).findings if f.name == "stray masks"]
    assert {Path(name).parent.name + "/" + Path(name).name for name in found.files} == {
        "bad/7_mask.png",
        "other/0_mask.png",
    }


def test_the_page_shows_each_finding_with_pictures_and_twins(tmp_path: Path) -> None:
    train = made(120, 120, 0)
    leaking = data(np.concatenate([train, train[:3]]), train[5:20], made(15, 120, 2))
    diagnosis = data_checks.check(leaking)
    page = data_report.write_data_report(tmp_path / "check.html", diagnosis, "oddlens check <made>").read_text()
    assert {"duplicates", "leak"} <= names(diagnosis)
    for finding in diagnosis.findings:
        assert f"{finding.level.capitalize()}: {finding.name}" in page
    assert "resembles" in page
    assert "oddlens check &lt;made&gt;" in page
    assert {"leak.png", "duplicates.png"} <= {path.name for path in (tmp_path / "check").iterdir()}
    (leak,) = [f for f in diagnosis.findings if f.name == "leak"]
    assert dict(zip(leak.files, leak.twins, strict=True))["test[0]"] == "train[5]"


def test_a_clean_set_says_so(tmp_path: Path) -> None:
    diagnosis = data_checks.check(data(made(400, 120, 0), made(30, 120, 1), made(30, 120, 2)))
    assert diagnosis.findings == []
    assert "Nothing wrong was found" in data_report.write_data_report(tmp_path / "c.html", diagnosis, "x").read_text()


def test_what_does_not_belong_among_the_normals_is_listed_first() -> None:
    rng = np.random.default_rng(5)
    foreign = rng.integers(0, 256, (8, 24, 24, 1), dtype=np.uint8)  # noise among waves
    places = np.sort(rng.permutation(200)[:8])
    mixed = np.insert(made(192, 120, 6), places - np.arange(8), foreign, axis=0)
    assert np.array_equal(mixed[places], foreign)
    diagnosis = data_checks.check(data(mixed, made(20, 120, 1), made(20, 120, 2)), budget=12)
    (found,) = [finding for finding in diagnosis.findings if finding.name == "unusual"]
    assert len(found.files) == 10
    assert set(found.files[:8]) == {f"train[{place}]" for place in places}
    deviations = [row["deviations"] for row in diagnosis.as_json["unusual"]]
    assert deviations == sorted(deviations, reverse=True)
    assert diagnosis.as_json["ok"]
    few = data_checks.check(data(mixed[:30], made(20, 120, 1), made(20, 120, 2)), budget=12)
    assert "unusual" not in names(few)


def test_looking_for_the_unusual_takes_what_time_it_is_given() -> None:
    assert contamination.default_budget(50) == 10
    assert contamination.default_budget(500) == 50
    assert contamination.default_budget(50_000) == 120
    assert contamination.robust_zscore(np.array([1.0, 2.0, 3.0, 4.0, 5.0])).tolist()[2] == 0
    assert np.isfinite(contamination.robust_zscore(np.full(9, 2.0))).all()
