"""`oddlens threshold`: another threshold, without training."""

from __future__ import annotations

from typing import Annotated

import typer

from oddlens.cli.options import (
    ConfidenceOption,
    DetectorArgument,
    JsonOption,
    OnAverageOption,
    OutputOption,
    RateOption,
    SeedOption,
    ThreadsOption,
)
from oddlens.cli.session import changed_decision, command, decision_result, decision_summary
from oddlens.io.paths import check_output

PercentileOption = Annotated[
    float | None,
    typer.Option("--train-percentile", help="Decide by this percentile of the training scores (no guarantee)."),
]


def threshold(
    path: DetectorArgument,
    false_alarm_rate: RateOption = None,
    confidence: ConfidenceOption = None,
    on_average: OnAverageOption = False,
    train_percentile: PercentileOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Change the threshold of a saved detector without training; its scores stay the same."""
    if false_alarm_rate is None and confidence is None and not on_average and train_percentile is None:
        raise typer.BadParameter("nothing to change: give the --false-alarm-rate that the detector shall guarantee")
    with command(as_json, threads) as console:
        from oddlens.detector.detector import Detector

        check_output(output or path)
        detector = Detector.load(path, threads=console.threads)
        before = decision_summary(detector)
        current = detector.manifest.decision
        detector.set_decision(changed_decision(current, false_alarm_rate, confidence, on_average, train_percentile))
        detector.save(output or path)
        console.result(*decision_result(detector, before, output or path))
