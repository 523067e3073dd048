"""Scoring of many images: resumable jobs, verdict files and map files."""
