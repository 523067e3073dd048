"""Backbones: frozen networks whose features describe images; the one that comes with an extra, and the user's own."""
