"""Figures, heatmaps and HTML reports of results."""
