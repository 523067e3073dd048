"""Autoencoders small enough to compare, number by number, what the kernels in C and PyTorch's layers make of them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from oddlens import kernels
from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings
from oddlens.models import registry
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.base import ModelOutput

RUN = (
    sys.platform == "linux"
    and shutil.which("cc") is not None
    and torch.cpu._is_avx512_bf16_supported()
    and os.environ.get("ODDLENS_KERNELS") != "off"
)

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


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, and kernels wherever they run, with a matrix unit, too."""
    if not RUN:
        pytest.skip("the kernels need Linux, a C compiler, and a processor with bfloat16 products")
    monkeypatch.setattr(kernels, "is_supported", lambda: True)
    forget()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    forget()


def forget() -> None:
    """Whether there are kernels is found out anew."""
    kernels.library.cache_clear()
    kernels.path.cache_clear()


def made(name: str, **changes: object) -> Autoencoder:
    """A model of a case, with the memory layout that it has in training."""
    settings, (height, width, channels) = CASES[name]
    spec = InputSpec.model_validate({"height": height, "width": width, "channels": channels})
    model = registry.build(settings.model_copy(update=changes), spec, seed=0)
    assert isinstance(model, Autoencoder)
    assert model.native is not None, "the kernels were not built, or not loaded"
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def with_whole_numbers(model: Autoencoder) -> Autoencoder:
    """Few weights, of -1 and 1: what they make of few whole numbers is whole and small, and so exact in bfloat16."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            chosen = torch.rand(parameter.shape, generator=generator) < 1.5 / fan
            parameter.copy_(torch.randint(0, 2, parameter.shape, generator=generator).mul(2).sub(1) * chosen)
    return model


def pictures(model: Autoencoder, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (count, model.spec.height, model.spec.width, model.spec.channels)
    return torch.randint(0, 2, shape, generator=generator).float().permute(0, 3, 1, 2)


def learned(model: Autoencoder, batch: Tensor, slopes: Tensor, *, bf16: bool) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the gradients of all parameters."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model.learned_logits(batch)
    torch.autograd.backward(logits, slopes)
    return logits.detach(), [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def scores(model: Autoencoder, batch: Tensor, *, bf16: bool) -> list[Tensor]:
    """By the kernels: score, map, reconstruction."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return listed(model(batch))


def by_layers(model: Autoencoder, batch: Tensor) -> list[Tensor]:
    """The same in float32 by PyTorch's layers, which work wherever more than scoring may go on."""
    assert model.native is not None
    idle = list(model.native.idle)
    with torch.no_grad():
        found = listed(model(batch))
    assert model.native.idle == idle, "the kernels were asked"
    return found


def listed(scored: ModelOutput) -> list[Tensor]:
    assert scored.anomaly_map is not None
    assert scored.reconstruction is not None
    return [scored.anomaly_score, scored.anomaly_map, scored.reconstruction]


def assert_alike(found: list[Tensor], want: list[Tensor]) -> None:
    """Logits are the same; sigmoids and means are rounded elsewhere."""
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-7)
