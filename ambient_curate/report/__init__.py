"""Figures, the HTML page of a run, and Rerun recordings."""
