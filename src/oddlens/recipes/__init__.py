"""Whole runs described in TOML."""
