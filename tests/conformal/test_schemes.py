"""Schemes of calibration: their bounds are proved, and said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddlens.conformal.schemes import HELD_OUT, LEAVE_ONE_OUT, CalibrationScheme, in_folds


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 5))
def test_few_images_of_a_tournament_lose_little(seed: int, n_groups: int, max_size: int) -> None:
    """The proof of leave-one-out, by group: whoever wins, at most 2 c + 1 of the weight loses to at most c."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), rng.integers(1, max_size + 1, n_groups))
    weight = 1 / np.bincount(group)[group]
    wins = rng.random((len(group), len(group))) < rng.random((len(group), 1))  # some images win more often
    loses = np.triu(wins, 1) | np.tril(~wins.T, -1)  # of each pair exactly one
    loses &= group[:, None] != group[None]
    lost = loses @ weight
    for allowed in np.unique(lost):
        assert weight[lost <= allowed].sum() <= (LEAVE_ONE_OUT.slope * allowed + LEAVE_ONE_OUT.offset) + 1e-9


def test_a_regular_tournament_reaches_the_bound_of_leave_one_out() -> None:
    n = 9  # each loses to the next four
    lost = [sum((j - i) % n in range(1, 5) for j in range(n)) for i in range(n)]
    assert lost == [4] * n
    assert LEAVE_ONE_OUT.slope * 4 + LEAVE_ONE_OUT.offset == n


@pytest.mark.parametrize(
    ("scheme", "bound", "text", "groups"),
    [
        (HELD_OUT, "(c + 1) / (n + 1)", "663 held-out normal images", "(counted as 146 groups of near-duplicates)"),
        (
            LEAVE_ONE_OUT,
            "(2 c + 1) / (n + 1)",
            "663 normal images (leave-one-out)",
            "(leave-one-out, counted as 146 groups of near-duplicates)",
        ),
        (in_folds(5), "2 (c + 5) / (n + 5)", "663 normal images in 5 folds", "(counted as 146 groups of near-"),
    ],
)
def test_a_scheme_says_its_bound_and_what_calibrates(
    scheme: CalibrationScheme, bound: str, text: str, groups: str
) -> None:
    assert scheme.bound == bound
    assert scheme.format_count(663) == text
    assert groups in scheme.format_count(146, 663)
    assert (
        scheme.format_count(1)
        .split(" (")[0]
        .endswith("image" if scheme.name != "folds" else "1 normal image in 5 folds")
    )
