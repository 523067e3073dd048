"""`python -m oddlens_kernels` says whether this machine uses the kernels."""

import sys

from oddlens.errors import OddlensError
from oddlens_kernels.library import why_unused


def main() -> None:
    """Print whether the kernels are used here, or why not; an error ends the process with code 1."""
    try:
        reason = why_unused()
    except OddlensError as error:
        sys.exit(f"error: {error}")
    print(f"not used: {reason}" if reason else "used: autoencoders are trained in bf16 and scored by the kernels")


if __name__ == "__main__":
    main()
