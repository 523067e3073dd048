"""`oddlens show`: what a detector is."""

from __future__ import annotations

from typing import Annotated

import typer

from oddlens.cli.options import DetectorArgument, JsonOption, SeedOption, ThreadsOption
from oddlens.cli.session import command, detector_summary


def show(
    path: DetectorArgument,
    notices: Annotated[
        bool, typer.Option("--notices", help="Print the licences of the pretrained weights inside.")
    ] = False,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Show what a detector is, what it guarantees, and what it was made from."""
    with command(as_json, threads) as console:
        from oddlens.detector.detector import Detector

        detector = Detector.load(path, threads=console.threads)
        manifest = detector.manifest
        if as_json:
            console.result(detector_summary(detector) | {"manifest": manifest.model_dump(mode="json")})
            return
        spec, data = manifest.input, manifest.data
        colour = "grey" if spec.channels == 1 else "colour"
        rows = [
            ("family", manifest.model.family),
            ("input", f"{spec.width} x {spec.height}, {colour}, 0 to {spec.value_max}"),
            *([] if manifest.tiling is None else [("tiles", manifest.tiling.describe(spec))]),
            ("runs with", detector.backend.name),
            ("trained on", f"{data.n_training} images of {data.source} ({data.normal})"),
            ("calibrated on", f"{data.n_calibration} images ({data.calibration_source})"),
            ("decides by", manifest.decision.method.replace("_", " ")),
            *(
                (f"threshold {name}".strip(), f"{part.threshold:.6g} ({len(part.calibration_scores)} images)")
                for name, part in detector.decisions_.parts.items()
            ),
            *(
                ("contains", f"{notice.name} ({notice.licence}), from {notice.source}, SHA-256 {notice.sha256}")
                for notice in manifest.notices
            ),
            *(("remark", remark) for remark in manifest.remarks),
            ("made", f"{manifest.created} with " + ", ".join(f"{k} {v}" for k, v in manifest.versions.items())),
        ]
        console.table(str(path), ("", ""), rows)
        lines = detector.decisions_.summary_lines()
        for notice in manifest.notices if notices else ():
            lines += ["", f"{notice.name}, SHA-256 {notice.sha256}:", "", *notice.text.splitlines()]
        console.result({}, lines)
