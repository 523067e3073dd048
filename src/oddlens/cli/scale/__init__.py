"""Commands for more images than one process scores: `oddlens manifest` and `oddlens batch`."""
