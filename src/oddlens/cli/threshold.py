"""Commands that change a detector's decision, and never its scores: threshold, calibrate, feedback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from oddlens.cli.options import (
    ConfidenceOption,
    JsonOption,
    PartArgument,
    RateOption,
    SeedOption,
    ThreadsOption,
)
from oddlens.cli.session import command

if TYPE_CHECKING:
    pass
from oddlens.cli.options import OnAverageOption, OutOption
from oddlens.cli.session import changed_decision, decision_before, decision_result

PercentileOption = Annotated[
    float | None,
    typer.Option(
        "--train-percentile", help="Decide by this percentile of the training scores, which promises nothing."
    ),
]


def threshold(
    detector: PartArgument,
    false_alarm_rate: RateOption = None,
    confidence: ConfidenceOption = None,
    on_average: OnAverageOption = False,
    train_percentile: PercentileOption = None,
    output: OutOption = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Move the threshold of a saved detector, without training; its scores stay as they are."""
    if false_alarm_rate is None and confidence is None and not on_average and train_percentile is None:
        raise typer.BadParameter("nothing to change: give the --false-alarm-rate that the detector shall keep")
    with command(as_json, threads) as terminal:
        from oddlens.detector.detector import Detector

        part = Detector.load(detector)
        before = decision_before(part)
        part.set_decision(
            changed_decision(part.manifest.decision, false_alarm_rate, confidence, on_average, train_percentile)
        )
        part.save(output or detector)
        terminal.result(*decision_result(part, before, output or detector))
