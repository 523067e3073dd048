"""The command line: each command parses its options, calls the library and prints the result."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from oddlens import __version__
from oddlens.cli.calibrate import calibrate
from oddlens.cli.check import check
from oddlens.cli.compare import compare
from oddlens.cli.demo import demo
from oddlens.cli.evaluate import evaluate
from oddlens.cli.export import export_detector
from oddlens.cli.feedback import feedback
from oddlens.cli.fit import fit
from oddlens.cli.run import run
from oddlens.cli.scale.batch import batch
from oddlens.cli.scale.manifest import manifest
from oddlens.cli.score import score
from oddlens.cli.serving.serve import serve
from oddlens.cli.serving.watch import watch
from oddlens.cli.show import show
from oddlens.cli.store import app as store
from oddlens.cli.streams import prepare_streams, visible
from oddlens.cli.threshold import threshold
from oddlens.errors import OddlensError

app = typer.Typer(
    help="Learn what normal images look like, from normal images alone; detect anomalous images and highlight where.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


RANK_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of processes that torchrun starts


def main() -> None:
    """Run the command line; errors of oddlens become one line on stderr and exit code 1.

    Of the processes that torchrun starts, the first one does; the others take part in what it trains.
    """
    prepare_streams()
    warnings.filterwarnings("ignore", module="PIL")  # oddlens raises its own errors for bad images
    try:
        if all(name in os.environ for name in RANK_VARIABLES) and os.environ["WORLD_SIZE"] != "1":
            run_in_ranks()
        else:
            app()
    except OddlensError as error:
        print("error:", visible(str(error)), file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python reports it again at exit
        sys.exit(1)


def run_in_ranks() -> None:
    """Run the command line in the first process of several, and follow it in the others."""
    from oddlens.training.distributed import follow, process_group

    with process_group() as ranks:
        if ranks.is_first:
            app(obj=ranks)
        else:
            follow(ranks)


def show_version(value: bool) -> None:
    """Print the version and stop."""
    if value:
        typer.echo(f"oddlens {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "run": run,
    "fit": fit,
    "compare": compare,
    "check": check,
    "eval": evaluate,
    "score": score,
    "threshold": threshold,
    "calibrate": calibrate,
    "feedback": feedback,
    "show": show,
    "export": export_detector,
    "serve": serve,
    "watch": watch,
    "manifest": manifest,
    "batch": batch,
}
for name, function in COMMANDS.items():
    app.command(name)(function)
app.add_typer(store, name="store")
