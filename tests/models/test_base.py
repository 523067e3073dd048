"""What all models inherit: the region of interest, batches, banks and the scoring graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.errors import SettingsError
from oddlens.models.base import GradientModel, Model, ModelOutput, ScoringGraph, leave_groups_out, leave_one_out

SPEC = InputSpec(height=4, width=5, channels=3)
ROI = np.arange(20).reshape(4, 5) % 3 == 0  # 7 pixels


class Brightness(Model):
    """Scores an image by its mean; has a bank and a submodule with a bank."""

    bank: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__(spec)
        self.banks = {"bank": 10}
        self.register_buffer("bank", torch.zeros(1, 3))
        self.part = nn.Module()
        self.part.excludes_self = False  # type: ignore[assignment]

    def forward(self, batch: Tensor) -> ModelOutput:
        return ModelOutput(self.mean_over_roi(batch.mean(dim=1)), None, None)


@pytest.fixture
def model() -> Brightness:
    return Brightness(SPEC)


def test_pixels_are_scaled_to_one_and_zero_outside_the_region_of_interest(model: Brightness) -> None:
    pixels = torch.full((1, 4, 5, 3), 255, dtype=torch.uint8)
    assert model.covers_whole_image
    assert torch.equal(model.scale(pixels), torch.ones(1, 3, 4, 5))
    model.set_roi(ROI)
    assert not model.covers_whole_image
    assert torch.equal(model.scale(pixels)[0, 1], torch.from_numpy(ROI).float())


def test_means_are_over_the_region_of_interest(model: Brightness) -> None:
    values = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    model.set_roi(ROI)
    inside = values[:, torch.from_numpy(ROI)]
    torch.testing.assert_close(model.mean_over_roi(values), inside.mean(dim=1))
    largest = inside.sort(dim=1).values[:, -3:].mean(dim=1)  # 30% of 7 pixels, rounded up
    torch.testing.assert_close(model.top_mean_over_roi(values, 30), largest)
    torch.testing.assert_close(model.top_mean_over_roi(values, 0.1), inside.amax(dim=1))


def test_batches_cover_all_images_in_order(model: Brightness) -> None:
    pixels = torch.arange(100, dtype=torch.uint8).repeat_interleave(60).view(100, 4, 5, 3)
    batches = list(model.batches(pixels, 30))
    assert [len(batch) for batch in batches] == [30, 30, 30, 10]
    assert torch.equal(torch.cat(batches), model.scale(pixels))


def test_batches_of_large_images_are_smaller() -> None:
    model = Brightness(InputSpec(height=1024, width=512, channels=1))
    pixels = torch.zeros(3, 1024, 512, 1, dtype=torch.uint8)
    assert [len(batch) for batch in model.batches(pixels)] == [2, 1]


def test_banks_take_the_number_of_rows_of_the_loaded_weights(model: Brightness) -> None:
    rows = torch.rand(7, 3)
    model.load_weights({"bank": rows})
    assert torch.equal(model.bank, rows)
    with pytest.raises(RuntimeError, match="size mismatch"):
        nn.Module.load_state_dict(Brightness(SPEC), {"bank": rows})


def test_leaving_one_out_reaches_submodules_and_ends_after_an_error(model: Brightness) -> None:
    inside: list[bool] = []

    def fail() -> None:
        with leave_one_out(model):
            inside.extend([model.excludes_self, bool(model.part.excludes_self)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [True, True]
    assert not model.excludes_self
    assert not model.part.excludes_self


def test_leaving_groups_out_ignores_the_rows_of_all_images_of_the_group_and_ends(model: Brightness) -> None:
    assert not model.supports_leave_one_out
    training_groups = torch.tensor([5, 7, 5, 9])
    with leave_groups_out(model, training_groups, torch.tensor([7, 5])):
        assert model.left_out is not None
        ignored = model.left_out.ignores(torch.tensor([0, 0, 1, 3, 2]))  # two rows of the first image
    assert ignored.tolist() == [[False, False, True, False, False], [True, True, False, False, True]]
    assert model.left_out is None


def test_closed_form_models_refuse_training_settings_but_the_seed() -> None:
    Brightness.check_training("dictionary", {"seed": 3})
    with pytest.raises(SettingsError, match="epochs, optimizer cannot be set for the dictionary"):
        Brightness.check_training("dictionary", {"seed": 3, "optimizer": "adam", "epochs": 2})
    GradientModel.check_training("defects", {"epochs": 2})


def test_the_scoring_graph_takes_pixels(model: Brightness) -> None:
    pixels = torch.randint(0, 256, (3, 4, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    output = ScoringGraph(model)(pixels)
    torch.testing.assert_close(output.anomaly_score, pixels.float().mean(dim=(1, 2, 3)) / 255)
