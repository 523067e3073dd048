"""Muon: momentum whose step is made orthogonal, for convolutions; Adam for everything else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.6
ROUNDS = 3  # of the Newton-Schulz iteration; the step's direction needs no more
CONVOLUTION_RATE = 80.0  # times the learning rate that Adam gets
BETAS, TINY = (0.9, 0.999), 1e-8


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum (Jordan, 2024) on convolutions' weights, Adam on all other parameters.

    Convolutions are kept at a fixed norm: normalisation follows them, so only their direction matters, and the
    learning rate then is the angle of a step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        known = list(parameters)
        convolutions = [parameter for parameter in known if parameter.ndim == 4]
        others = [parameter for parameter in known if parameter.ndim != 4]
        groups = [{"params": convolutions, "lr": lr * CONVOLUTION_RATE}, {"params": others, "lr": lr}]
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures here
        """Take one step from the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._orthogonal if parameter.ndim == 4 else self._adam
                    update(parameter, parameter.grad, self.state[parameter], group["lr"])

    def _orthogonal(self, weight: Tensor, gradient: Tensor, state: dict[str, Any], rate: float) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].mul_(MOMENTUM).add_(gradient)
        ahead = gradient.add(state["momentum"], alpha=MOMENTUM)
        weight.mul_(len(weight) ** 0.5 / (weight.norm() + 1e-7))
        weight.add_(orthogonalised(ahead.flatten(1)).view_as(weight), alpha=-rate)

    def _adam(self, weight: Tensor, gradient: Tensor, state: dict[str, Any], rate: float) -> None:
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].lerp_(gradient * gradient, 1 - BETAS[1])
        count = float(state["step"])
        mean, square = state["mean"] / (1 - BETAS[0] ** count), state["square"] / (1 - BETAS[1] ** count)
        weight.addcdiv_(mean, square.sqrt().add_(TINY), value=-rate)


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix to (R, C), roughly: singular values come out between 0.7 and 1.2."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    found = wide.bfloat16()
    found = found / (found.norm() + 1e-7)
    for _ in range(ROUNDS):
        gram = found @ found.T
        found = 3.4445 * found + (2.0315 * gram @ gram - 4.7750 * gram) @ found
    step: Tensor = found if wide is matrix else found.T
    return step.to(matrix.dtype)
