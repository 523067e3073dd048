"""The pages of the service: for the operator at the line, and for the engineer who fits its detectors."""
