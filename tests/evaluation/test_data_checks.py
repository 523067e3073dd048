"""Checks of the content of a data set: brightness, shortcuts, duplicates and contamination."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wave_images import build_dataset, finding_names, wave_images

from oddlens.data.open import open_dataset
from oddlens.evaluation import contamination, data_checks

needs_weights = pytest.mark.skipif(not contamination.has_backbone(), reason="the extra 'pretrained' is not installed")


def test_two_groups_of_brightness_are_reported_and_a_wide_spread_is_not() -> None:
    good, bad = wave_images(20, 120, 1), wave_images(20, 120, 2)
    mixed = np.concatenate([wave_images(150, 80, 3), wave_images(50, 170, 4)])
    findings = {f.name: f for f in data_checks.check(build_dataset(mixed, good, bad)).findings}
    assert set(findings["brightness groups"].files) == {f"train[{i}]" for i in range(150, 200)}
    assert "150 around 31% and 50 around 66%" in findings["brightness groups"].text
    spread = np.concatenate([wave_images(1, mean, 10 + i) for i, mean in enumerate(np.linspace(60, 190, 200))])
    assert "brightness groups" not in finding_names(data_checks.check(build_dataset(spread, good, bad)))
    copies = np.repeat(good[:1], 40, axis=0)
    assert "brightness groups" not in finding_names(data_checks.check(build_dataset(copies, good, bad)))


@pytest.mark.parametrize(("values", "separation"), [("normal", 0.64), ("uniform", 0.75), ("two groups", 1.0)])
def test_separation_of_otsu_threshold_agrees_with_theory(values: str, separation: float) -> None:
    rng = np.random.default_rng(0)
    samples = {
        "normal": rng.normal(size=20_000), "uniform": rng.random(20_000), "two groups": rng.normal(0, 0.01, 20_000)
    }[values]  # fmt: skip
    samples[:10_000] += 5 * (values == "two groups")
    assert data_checks.otsu_threshold(samples)[1] == pytest.approx(separation, abs=0.01)


def test_properties_that_separate_the_labels_are_shortcuts(tmp_path: Path) -> None:
    train, good = wave_images(60, 120, 0), wave_images(20, 120, 1)
    shortcuts = data_checks.check(build_dataset(train, good, wave_images(20, 150, 2))).facts["shortcuts"]
    assert shortcuts["mean brightness"] > data_checks.MIN_SHORTCUT_AUROC
    fair = data_checks.check(build_dataset(train, good, wave_images(20, 120, 2)))
    assert "shortcut" not in finding_names(fair)
    for folder, pixels, quality in (("train/good", wave_images(30, 120, 0), 90), ("test/good", good, 90),
                                    ("test/bad", wave_images(20, 120, 2), 20)):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
        for i, image in enumerate(pixels):
            Image.fromarray(image[..., 0]).save(tmp_path / folder / f"{i}.jpg", quality=quality)
    diagnosis = data_checks.check(open_dataset(tmp_path))
    assert any("file size alone" in finding.text for finding in diagnosis.findings)
    assert diagnosis.facts["shortcuts"]["image size"] == 0.5


def test_a_clean_data_set_has_no_findings() -> None:
    clean = build_dataset(wave_images(400, 120, 0), wave_images(30, 120, 1), wave_images(30, 120, 2))
    assert data_checks.check(clean).findings == []


@pytest.mark.parametrize(("count", "n_copies"), [(1, "1 exact copy of"), (3, "3 exact copies of")])
def test_copies_and_leaks_are_listed_with_the_image_that_they_resemble(count: int, n_copies: str) -> None:
    train = wave_images(120, 120, 0)
    repeated = np.concatenate([train, train[:count]])
    diagnosis = data_checks.check(build_dataset(repeated, train[5:20], wave_images(15, 120, 2)))
    findings = {finding.name: finding for finding in diagnosis.findings}
    copies, leak = findings["duplicates"], findings["leak"]
    assert dict(zip(copies.files, copies.similar, strict=True))["train[120]"] == "train[0]"
    assert copies.text.startswith(f"{count + 15} exact copies of")
    assert dict(zip(leak.files, leak.similar, strict=True))["test[0]"] == "train[5]"
    assert diagnosis.facts["n_leaks"] == 15
    assert diagnosis.facts["n_groups_train"] == 120
    alone = data_checks.check(build_dataset(repeated, wave_images(15, 120, 1), wave_images(15, 120, 2)))
    assert next(f.text for f in alone.findings if f.name == "duplicates").startswith(n_copies)


@pytest.mark.parametrize(("count", "best"), [(1, "no rate"), (20, "0.091 at best"), (197, "0.01 at best")])
def test_too_few_images_are_reported_with_the_best_rate(count: int, best: str) -> None:
    diagnosis = data_checks.check(
        build_dataset(wave_images(count, 120, 0), wave_images(5, 120, 1), wave_images(5, 120, 2))
    )
    (finding,) = [finding for finding in diagnosis.findings if finding.name == "too few images"]
    assert f"guarantee {best}: add normal images" in finding.text
    assert "needs 99 held-out images, about 198 in total" in finding.text
    assert diagnosis.facts["n_needed"] == 198


@pytest.fixture
def without_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `pretrained` is not installed."""
    monkeypatch.setattr(contamination, "has_backbone", lambda: False)


@needs_weights
def test_images_unlike_the_others_are_a_warning_with_their_distance_and_the_reason() -> None:
    train = wave_images(60, 120, 6)
    train[11] = 230 + train[11] // 16
    train[42] = np.random.default_rng(5).integers(0, 256, train[42].shape)
    diagnosis = data_checks.check(build_dataset(train, wave_images(5, 120, 1), wave_images(5, 120, 2)), budget=60)
    findings = {finding.name: finding for finding in diagnosis.findings}
    finding = findings["unlike the others"]
    assert finding.level == "warning"
    assert set(finding.files) == {"train[11]", "train[42]"}
    assert any("brighter" in reason and "times as far as usual" in reason for reason in finding.reasons)
    result = diagnosis.as_json
    assert [row["file"] for row in result["outliers"]] == list(finding.files)
    assert {"file", "deviations", "distance", "reason"} == result["unusual"][0].keys()
    assert (result["n_compared"], len(result["unusual"])) == (60, 3)
    rows = {f["name"]: f for f in result["findings"]}
    assert rows["unlike the others"]["reasons"] == list(finding.reasons)
    assert findings["unusual"].level == "note"


@needs_weights
def test_similar_images_are_no_outliers() -> None:
    clean = build_dataset(wave_images(60, 120, 6), wave_images(5, 120, 1), wave_images(5, 120, 2))
    diagnosis = data_checks.check(clean, budget=60)
    assert diagnosis.facts["outliers"] == []
    assert "unlike the others" not in finding_names(diagnosis)


@needs_weights
def test_images_that_the_time_did_not_suffice_for_are_counted() -> None:
    data = build_dataset(wave_images(60, 120, 6), wave_images(5, 120, 1), wave_images(5, 120, 2))
    diagnosis = data_checks.check(data, budget=1e-9)
    (finding,) = [finding for finding in diagnosis.findings if finding.name == "unusual"]
    assert "of 8 training images" in finding.text
    assert "52 others, drawn at random, were not compared" in finding.text


@needs_weights
def test_a_few_images_are_listed_but_are_no_outliers() -> None:
    images = wave_images(4, 120, 6)
    images[0] = 255
    diagnosis = data_checks.check(build_dataset(images, wave_images(5, 120, 1), wave_images(5, 120, 2)), budget=60)
    assert len(diagnosis.facts["unusual"]) == 1
    assert diagnosis.facts["outliers"] == []


@pytest.mark.usefixtures("without_backbone")
def test_foreign_images_among_the_normal_ones_are_the_most_unusual() -> None:
    rng = np.random.default_rng(5)
    foreign = rng.integers(0, 256, (8, 24, 24, 1), dtype=np.uint8)  # noise among waves
    index = np.sort(rng.permutation(200)[:8])
    mixed = np.insert(wave_images(192, 120, 6), index - np.arange(8), foreign, axis=0)
    assert np.array_equal(mixed[index], foreign)
    good, bad = wave_images(20, 120, 1), wave_images(20, 120, 2)
    diagnosis = data_checks.check(build_dataset(mixed, good, bad), budget=12)
    (finding,) = [finding for finding in diagnosis.findings if finding.name == "unusual"]
    assert len(finding.files) == 10
    assert "pip install 'oddlens[pretrained]'" in finding.text
    assert set(finding.files[:8]) == {f"train[{i}]" for i in index}
    deviations = [row["deviations"] for row in diagnosis.as_json["unusual"]]
    assert deviations == sorted(deviations, reverse=True)
    assert diagnosis.as_json["ok"]
    few = data_checks.check(build_dataset(mixed[:30], good, bad), budget=12)
    assert "unusual" not in finding_names(few)


@pytest.mark.parametrize(
    ("has_backbone", "expected"), [(True, "too few to compare"), (False, "cannot be split into two halves")]
)
def test_a_failed_search_for_anomalies_is_a_note_beside_the_other_findings(
    has_backbone: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contamination, "has_backbone", lambda: has_backbone)
    copies = np.repeat(wave_images(1, 120, 0), 50, axis=0)
    diagnosis = data_checks.check(build_dataset(copies, wave_images(5, 120, 1), wave_images(5, 120, 2)), budget=1)
    (finding,) = [finding for finding in diagnosis.findings if finding.name == "not looked for"]
    assert finding.level == "note"
    assert expected in finding.text
    assert {"duplicates", "too few images"} <= finding_names(diagnosis)
