"""Kernels in C for the autoencoders of oddlens: an accelerator, which oddlens uses where it is installed."""
