"""`oddlens show`: what a detector is."""

from __future__ import annotations

from oddlens.cli.options import (
    JsonOption,
    PartArgument,
    SeedOption,
    ThreadsOption,
)
from oddlens.cli.session import command, detector_summary


def show(
    detector: PartArgument, as_json: JsonOption = False, threads: ThreadsOption = None, seed: SeedOption = None
) -> None:
    """What this detector is, what it promises, what it was made from."""
    with command(as_json, threads) as terminal:
        from oddlens.detector.detector import Detector

        part = Detector.load(detector)
        manifest = part.manifest
        if as_json:
            terminal.result(detector_summary(part) | {"manifest": manifest.model_dump(mode="json")})
            return
        spec, data = manifest.input, manifest.data
        rows = [
            ("family", manifest.model.family),
            (
                "input",
                f"{spec.width} x {spec.height}, {'grey' if spec.channels == 1 else 'colour'}, 0 to {spec.value_max}",
            ),
            ("runs with", part.backend.name),
            ("trained on", f"{data.n_training} images of {data.source} ({data.normal})"),
            ("calibrated on", f"{data.n_calibration} images ({data.calibration_source})"),
            ("decides by", manifest.decision.method.replace("_", " ")),
            *(
                (f"threshold {name}".strip(), f"{one.threshold:.6g} ({len(one.calibration_scores)} images)")
                for name, one in part.decisions_.parts.items()
            ),
            *(("remark", remark) for remark in manifest.remarks),
            ("made", f"{manifest.created} with " + ", ".join(f"{k} {v}" for k, v in manifest.versions.items())),
        ]
        terminal.table(str(detector), ("", ""), rows)
        terminal.result({}, part.decisions_.summary_lines())
