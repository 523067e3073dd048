"""How probable it is that so many images score above one of the calibration images by chance; NumPy only."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from oddlens.errors import SettingsError

DEFAULT_MAX_ANOMALOUS = 0.1


def lot_p_value(n_above: int, n_images: int, n_units: int, max_anomalous: float = DEFAULT_MAX_ANOMALOUS) -> float:
    """P-value of a lot of m = `n_images`, of which `n_above` score above the median of n = `n_units` calibration units.

    A unit is an independent piece of evidence: a held-out image, or a group of near-duplicates that counts as one. An
    image is above the median if fewer than h = ceil(n / 2) units score as high as it does or higher.

    At most a = floor(`max_anomalous` m) images are anomalous. So `n_above` is at most K + a, where K counts the images
    above the median among N = m - a normal ones, which are exchangeable with the units. The p-value
    P(K + a >= `n_above`), see `exceedance_p_value`, is therefore at most t with a probability of at most t.

    Raises:
        SettingsError: `max_anomalous` is not from 0 to below 1.

    >>> round(lot_p_value(38, 50, 99), 4), round(lot_p_value(38, 50, 99, max_anomalous=0), 4)
    (0.0057, 0.0015)
    """
    n_anomalous = max_anomalous_images(n_images, max_anomalous)
    return exceedance_p_value(n_above - n_anomalous, n_images - n_anomalous, n_units, max_rank_above(n_units))


def exceedance_p_value(n_above: int, n_images: int, n_units: int, rank: int) -> float:
    """Probability that at least `n_above` of N = `n_images` score above the h-th highest (`rank`) of n = `n_units`.

    Let the N images and the n units be exchangeable and without ties. Every order of the n + N scores is then equally
    likely, and that K = k images are above is that the h-th highest unit has rank h + k among all:

        P(K = k) = C(h + k - 1, k) C(n - h + N - k, N - k) / C(n + N, N),

    which is beta-binomial: a binomial of N images whose probability has the distribution Beta(h, n + 1 - h). Ties with
    that unit do not count as above it, so they only lower K. K is the number of exceedances of a quantile (Gumbel and
    von Schelling, "The distribution of the number of exceedances", 1950).

    >>> round(exceedance_p_value(4, 20, 62, 1), 4)
    0.0028
    """
    k = np.arange(n_images)
    log_ratios = np.log((rank + k) * (n_images - k) / ((k + 1) * (n_units - rank + n_images - k)))  # P(k + 1) to P(k)
    log_weights = np.concatenate([[0.0], np.cumsum(log_ratios)])
    weights = np.exp(log_weights - log_weights.max())
    return float(min(1.0, weights[max(0, n_above) :].sum() / weights.sum()))


def max_rank_above(n_units: int) -> int:
    """Largest rank, 1 + the number of units at or above a score, that counts as above the median of the units."""
    return -(-n_units // 2)


def max_anomalous_images(n_images: int, max_anomalous: float) -> int:
    """The largest number of anomalous images in a lot, with `max_anomalous` read as the decimal that it is written as.

    Raises:
        SettingsError: `max_anomalous` is not from 0 to below 1.
    """
    if not 0 <= max_anomalous < 1:
        raise SettingsError(
            f"the largest share of anomalous images in a lot must be from 0 to below 1, got {max_anomalous}: write 10% "
            "as 0.1 (--max-anomalous)"
        )
    return math.floor(Fraction(str(max_anomalous)) * n_images)
