"""Unsupervised anomaly detection in images: learn normal, score new images, keep a false-alarm rate."""
