"""Optimizers: Adam, and Muon, which orthogonalizes the steps of convolutions.

PyTorch's own optimizers import its compiler when the first one is made, which takes two seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 0.6
NEWTON_SCHULZ_STEPS = 3  # the direction of a step needs no more
CONVOLUTION_LR_FACTOR = 80.0  # times Adam's learning rate
BETAS, EPSILON = (0.9, 0.999), 1e-8


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) with decoupled weight decay, one fused step for all parameters.

    `factor` multiplies the learning rate; a schedule sets it. `states` holds the state tensors of each parameter by
    name, in the order of the parameters. Matrix products of a step are computed in `dtype`; Adam itself has none.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.weight_decay, self.factor, self.dtype = lr, weight_decay, 1.0, dtype
        self.states = [self.new_state(parameter) for parameter in self.parameters]

    def new_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """State of a parameter before the first step."""
        count = torch.zeros((), device=parameter.device)
        return {"step": count, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step from the gradients."""
        self.adam(range(len(self.parameters)))

    def adam(self, indices: Sequence[int]) -> None:
        """Adam's step for some of the parameters."""
        with_gradient = [i for i in indices if self.parameters[i].grad is not None]
        if not with_gradient:
            return
        parameters = [self.parameters[i] for i in with_gradient]
        gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
        names = ("step", "exp_avg", "exp_avg_sq")
        counts, means, squares = ([self.states[i][name] for i in with_gradient] for name in names)
        torch._foreach_add_(counts, 1)
        torch._fused_adamw_(
            in_memory_order(parameters, parameters), in_memory_order(gradients, parameters),
            in_memory_order(means, parameters), in_memory_order(squares, parameters), [], counts,
            lr=self.lr * self.factor, beta1=BETAS[0], beta2=BETAS[1], weight_decay=self.weight_decay, eps=EPSILON,
            amsgrad=False, maximize=False,
        )  # fmt: skip
        for parameter in parameters:  # the kernel does not say that it changed them
            torch.autograd.graph.increment_version(parameter)


def in_memory_order(tensors: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """The tensors with axes in the memory order of their parameters; the fused kernel would copy them otherwise."""
    orders = (sorted(range(parameter.ndim), key=parameter.stride, reverse=True) for parameter in parameters)
    return [tensor.permute(order) for tensor, order in zip(tensors, orders, strict=True)]


class Muon(Adam):
    """Orthogonalized momentum (Jordan, 2024) for the weights of convolutions, Adam for all other parameters.

    Convolutions are kept at a fixed norm: normalization follows them, so only their direction matters, and the
    learning rate becomes the angle of a step.
    """

    def new_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """State of a parameter before the first step."""
        return {"momentum": torch.zeros_like(parameter)} if parameter.ndim == 4 else super().new_state(parameter)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step from the gradients."""
        for parameter, state in zip(self.parameters, self.states, strict=True):
            if parameter.ndim == 4 and parameter.grad is not None:
                self._orthogonal(parameter, parameter.grad, state["momentum"])
        self.adam([i for i, parameter in enumerate(self.parameters) if parameter.ndim != 4])

    def _orthogonal(self, weight: Tensor, gradient: Tensor, momentum: Tensor) -> None:
        momentum.mul_(MOMENTUM).add_(gradient)
        update = orthogonalize(gradient.add(momentum, alpha=MOMENTUM).flatten(1), self.dtype).view_as(weight)
        weight.mul_(len(weight) ** 0.5 / (weight.norm() + 1e-7))
        weight.add_(update, alpha=-self.lr * CONVOLUTION_LR_FACTOR * self.factor)


OPTIMIZERS: dict[str, type[Adam]] = {"adam": Adam, "muon": Muon}  # by their names in TrainingSettings


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A (semi-)orthogonal matrix near to (R, C), by Newton-Schulz iteration: singular values between 0.7 and 1.2.

    The iteration makes small singular values 40 times as large, and the rounding of `dtype` with them.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    iterate = wide.to(dtype)
    iterate = iterate / (iterate.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = iterate @ iterate.T
        iterate = 3.4445 * iterate + (2.0315 * gram @ gram - 4.7750 * gram) @ iterate
    result: Tensor = iterate if wide is matrix else iterate.T
    return result.to(matrix.dtype)
