"""Development sets hold training images alone."""

from __future__ import annotations

from pathlib import Path

import development
import numpy as np
import pytest

from oddlens.data.open import open_dataset


def pictures(pixels: np.ndarray) -> list[bytes]:
    return [picture.tobytes() for picture in pixels]


def test_no_test_image_is_in_it_and_no_image_in_both_parts(tmp_path: Path) -> None:
    path = tmp_path / "seven.npz"
    assert development.main(["digits", "7", "-o", str(path)]) == 0
    whole, made = open_dataset("digits"), open_dataset(path, normal="7")
    known = pictures(whole.train.load(whole.train.choose_spec(None)))
    foreign = set(pictures(whole.test.load(whole.test.choose_spec(None)))) - set(known)
    learnt, shown = (pictures(part.load(part.choose_spec(None))) for part in (made.train, made.test))
    assert set(learnt + shown) <= set(known)
    assert not foreign & set(learnt + shown)
    assert set(made.train.kinds) == {"7"}
    assert len(set(made.test.kinds)) == 10
    held_out = sum(label == 0 for label in made.test.labels)
    assert held_out == whole.train.kinds.count("7") - len(learnt) > 0


def test_an_unknown_class_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        development.main(["digits", "eleven", "-o", str(tmp_path / "x.npz")])
    assert "has no class eleven" in capsys.readouterr().err
