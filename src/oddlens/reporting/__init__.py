"""Figures, heatmaps and HTML reports."""
