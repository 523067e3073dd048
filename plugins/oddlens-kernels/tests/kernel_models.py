"""Small autoencoders whose outputs from the kernels and from the PyTorch layers can be compared number by number."""

from __future__ import annotations

import torch
from oddlens_kernels.autoencoder import KernelNetwork
from torch import Tensor

from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings
from oddlens.models import registry
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.base import ModelOutput

CASES = {
    "strided": (AutoencoderSettings(widths=(16, 32, 48), latent_dim=16), (24, 32, 3)),
    "strided, wide": (AutoencoderSettings(widths=(32, 64), latent_dim=128), (16, 16, 1)),
    "strided, padded": (AutoencoderSettings(widths=(16, 32), latent_dim=32), (18, 21, 3)),
    "one place at the bottom": (AutoencoderSettings(widths=(16, 16, 32), latent_dim=32), (8, 8, 1)),
    "pooling": (AutoencoderSettings(architecture="pooling", widths=(32, 64)), (28, 28, 1)),
    "pooling to one place": (AutoencoderSettings(architecture="pooling", widths=(16, 16, 32)), (8, 8, 1)),
    "pooling to a line": (AutoencoderSettings(architecture="pooling", widths=(16, 16, 32)), (8, 24, 3)),
    "pooling, padded": (AutoencoderSettings(architecture="pooling", widths=(16, 32, 16)), (18, 30, 3)),
}


def kernel_network(model: Autoencoder) -> KernelNetwork:
    """The network of the kernels that computes for a model."""
    assert isinstance(model.accelerated, KernelNetwork), "the kernels are not used"
    return model.accelerated


def build_model(name: str, **changes: object) -> Autoencoder:
    """Model of a case, in the memory layout that it has in training."""
    settings, (height, width, channels) = CASES[name]
    spec = InputSpec.model_validate({"height": height, "width": width, "channels": channels})
    model = registry.build(settings.model_copy(update=changes), spec, seed=0)
    assert isinstance(model, Autoencoder)
    kernel_network(model)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def with_integer_weights(model: Autoencoder) -> Autoencoder:
    """Set a few weights to -1 or 1 and the others to 0: outputs are then small integers, exact in bfloat16."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            nonzero = torch.rand(parameter.shape, generator=generator) < 1.5 / fan
            parameter.copy_(torch.randint(0, 2, parameter.shape, generator=generator).mul(2).sub(1) * nonzero)
    return model


def sample_images(model: Autoencoder, count: int) -> Tensor:
    """A batch of zeros and ones."""
    generator = torch.Generator().manual_seed(2)
    shape = (count, model.spec.height, model.spec.width, model.spec.channels)
    return torch.randint(0, 2, shape, generator=generator).float().permute(0, 3, 1, 2)


def logits_and_gradients(
    model: Autoencoder, batch: Tensor, logit_gradients: Tensor, *, bf16: bool
) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the gradients of all parameters."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model.training_logits(batch)
    torch.autograd.backward(logits, logit_gradients)
    return logits.detach(), [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def kernel_outputs(model: Autoencoder, batch: Tensor, *, bf16: bool) -> list[Tensor]:
    """Score, map and reconstruction, from the kernels."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return as_list(model(batch))


def layer_outputs(model: Autoencoder, batch: Tensor) -> list[Tensor]:
    """The same in float32 from the PyTorch layers, which run outside inference mode."""
    idle = list(kernel_network(model).idle)
    with torch.no_grad():
        actual = as_list(model(batch))
    assert kernel_network(model).idle == idle, "the kernels ran"
    return actual


def as_list(scored: ModelOutput) -> list[Tensor]:
    assert scored.anomaly_map is not None
    assert scored.reconstruction is not None
    return [scored.anomaly_score, scored.anomaly_map, scored.reconstruction]


def assert_outputs_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Compare outputs from equal logits, whose sigmoids and means are rounded differently."""
    for first, second in zip(actual, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=2e-6, atol=2e-7)
