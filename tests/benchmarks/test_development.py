"""Tests of the development sets."""

from __future__ import annotations

from pathlib import Path

import development
import numpy as np
import pytest

from oddlens.data.open import open_dataset


def image_bytes(pixels: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in pixels]


def test_development_set_has_disjoint_splits_of_training_images_only(tmp_path: Path) -> None:
    path = tmp_path / "seven.npz"
    assert development.main(["digits", "7", "-o", str(path)]) == 0
    whole, data = open_dataset("digits"), open_dataset(path, normal="7")
    train_bytes = image_bytes(whole.train.load(whole.train.choose_spec(None)))
    test_bytes = set(image_bytes(whole.test.load(whole.test.choose_spec(None)))) - set(train_bytes)
    train, test = (image_bytes(part.load(part.choose_spec(None))) for part in (data.train, data.test))
    assert set(train + test) <= set(train_bytes)
    assert not test_bytes & set(train + test)
    assert set(data.train.kinds) == {"7"}
    assert len(set(data.test.kinds)) == 10
    held_out = sum(label == 0 for label in data.test.labels)
    assert held_out == whole.train.kinds.count("7") - len(train) > 0


def test_unknown_class_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        development.main(["digits", "eleven", "-o", str(tmp_path / "x.npz")])
    assert "has no class eleven" in capsys.readouterr().err
