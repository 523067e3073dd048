"""Conformal prediction: p-values, thresholds with guarantees, and drift alarms from calibration scores; NumPy only."""
