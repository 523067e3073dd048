"""`Detector`: fit, calibrate, score, save, load, export."""
