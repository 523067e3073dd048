"""Scoring many images: jobs that can be resumed, and verdict files."""
