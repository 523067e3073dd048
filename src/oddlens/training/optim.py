"""Steps from gradients: Adam; and Muon, whose step is made orthogonal, for convolutions.

PyTorch's own optimisers bring its compiler along as soon as one is made, which takes two seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 0.6
NEWTON_SCHULZ_STEPS = 3  # of the Newton-Schulz iteration; the step's direction needs no more
CONVOLUTION_LR_FACTOR = 80.0  # times the learning rate that Adam gets
BETAS, EPSILON = (0.9, 0.999), 1e-8


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) with decoupled weight decay, one fused step for all parameters.

    `factor` multiplies the learning rate; a schedule sets it. `states` are each parameter's tensors by their names,
    in the order of the parameters.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        self.parameters = list(parameters)
        self.lr, self.weight_decay, self.factor = lr, weight_decay, 1.0
        self.states = [self.new_state(parameter) for parameter in self.parameters]

    def new_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is remembered of a parameter before the first step."""
        count = torch.zeros((), device=parameter.device)
        return {"step": count, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step from the gradients."""
        self.adam(range(len(self.parameters)))

    def adam(self, places: Sequence[int]) -> None:
        """Adam's step for some of the parameters."""
        learned = [i for i in places if self.parameters[i].grad is not None]
        if not learned:
            return
        parameters = [self.parameters[i] for i in learned]
        gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
        counts, means, squares = ([self.states[i][name] for i in learned] for name in ("step", "exp_avg", "exp_avg_sq"))
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
    """The tensors, axes in the order in which their parameters lie in memory: the kernel would copy others first."""
    orders = (sorted(range(each.ndim), key=each.stride, reverse=True) for each in parameters)
    return [each.permute(order) for each, order in zip(tensors, orders, strict=True)]


class Muon(Adam):
    """Orthogonalised momentum (Jordan, 2024) on convolutions' weights, Adam on all other parameters.

    Convolutions are kept at a fixed norm: normalisation follows them, so only their direction matters, and the
    learning rate then is the angle of a step.
    """

    def new_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is remembered of a parameter before the first step."""
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
        ahead = gradient.add(momentum, alpha=MOMENTUM)
        weight.mul_(len(weight) ** 0.5 / (weight.norm() + 1e-7))
        weight.add_(
            orthogonalize(ahead.flatten(1)).view_as(weight), alpha=-self.lr * CONVOLUTION_LR_FACTOR * self.factor
        )


def orthogonalize(matrix: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix to (R, C), roughly: singular values come out between 0.7 and 1.2."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    found = wide.bfloat16()
    found = found / (found.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = found @ found.T
        found = 3.4445 * found + (2.0315 * gram @ gram - 4.7750 * gram) @ found
    step: Tensor = found if wide is matrix else found.T
    return step.to(matrix.dtype)
