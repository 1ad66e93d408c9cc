"""Annotation: from a collection to sigma_min, its bounds, and the manifest."""
