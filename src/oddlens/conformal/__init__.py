"""From scores of held-out normal images to p-values, thresholds, guarantees and drift alarms; NumPy alone."""
