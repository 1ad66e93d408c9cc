"""A collection as windows: settings, episodes, cache, folds, and the populations p and q_i."""
