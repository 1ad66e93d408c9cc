"""The parts of a report: what is said of datasets, of levels, and of single episodes."""
