"""How much less probable the classes of an image are among normal images than among photographs of all kinds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TEMPERATURE = 4.0  # by which logits are divided: small images are told apart less surely than a classifier believes
ITERATIONS = 5  # of expectation-maximization; more would leave out classes that look alike
MIN_SHARE = 1e-6  # of a class among normal images
MIN_RATIO_SPREAD = 0.1  # of log ratios of normal images; ratios that differ less say nothing


class ClassRatio(nn.Module):
    """The log ratio of the density of all photographs to that of normal images, by the classes of a classifier.

    Where normal images are photographs that only have other shares of classes, the ratio of their density to that of
    the classifier's training images is the sum over classes c of p(c | x) q_c / p_c. The p_c are equal for ImageNet,
    and the shares q_c follow by expectation-maximization (Saerens et al., "Adjusting the outputs of a classifier to new
    a priori probabilities", 2002).

    Args:
        n_classes: number of classes.
    """

    log_shares: Tensor  # (n_classes,) of normal images

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("log_shares", torch.zeros(n_classes))

    def fit(self, logits: Tensor, count: int) -> Tensor:
        """Estimate the shares from logits (copies * count, n_classes): of all images, then of each other copy.

        Returns the log ratios (count,) of the images, each left out with its copies from the last iteration.
        """
        probabilities = (logits.double() / TEMPERATURE).softmax(dim=1)
        weights, copies = probabilities, len(logits) // count
        shares = weights.mean(dim=0)
        for _ in range(ITERATIONS):
            weights = probabilities * shares
            weights = weights / weights.sum(dim=1, keepdim=True)
            shares = weights.mean(dim=0)
        self.log_shares.copy_(shares.clamp_min(MIN_SHARE).log())
        if count < 2:
            return self.forward(logits[:count])
        own = weights.reshape(copies, count, -1).mean(dim=0)
        others = ((count * shares - own) / (count - 1)).clamp_min(MIN_SHARE)
        return -(probabilities[:count] * others).sum(dim=1).log().float()

    def forward(self, logits: Tensor) -> Tensor:
        """(N, n_classes) -> (N,)."""
        scaled = logits / TEMPERATURE
        return torch.logsumexp(scaled, dim=1) - torch.logsumexp(scaled + self.log_shares, dim=1)
