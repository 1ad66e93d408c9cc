"""Statistics in NumPy: sigma_min of a curve, bounds, intervals, brackets, two-sample tests."""
