"""`oddlens manifest`: the list of images for `oddlens batch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oddlens.cli.options import GroupByOption, JsonOption, SeedOption, ThreadsOption, path_option
from oddlens.cli.session import command, report_left_out
from oddlens.errors import SettingsError
from oddlens.io.paths import check_output


def manifest(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER|URL", help="Folder of images, or a URL: s3://bucket/folder.")
    ],
    output: Annotated[Path, path_option("-o", "--output", help="Manifest to write, .parquet.")],
    group_by: GroupByOption = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """List the images in a folder or at a URL, with what shows that one of them changes."""
    with command(as_json, threads) as console:
        from oddlens.batch.image_manifest import list_images, require_pyarrow, write_manifest

        if output.suffix != ".parquet":
            raise SettingsError(f"{output}: manifests end in .parquet")
        require_pyarrow()
        check_output(output)
        images = list_images(source, group_by)
        left_out = report_left_out(images.left_out, console)
        write_manifest(output, images, source)
        n, n_bytes = len(images.files), sum(file.size or 0 for file in images.files)
        result = {"n": n, "bytes": n_bytes, "left_out": left_out, "files": {"manifest": str(output)}}
        console.result(result, [f"{n} images, {n_bytes / 1e9:.3g} GB, listed in {output}"])
