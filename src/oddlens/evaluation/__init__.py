"""Evaluation of detectors on labelled test sets, and checks of data sets."""
