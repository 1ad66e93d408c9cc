"""A run on disk: directory, records, tables, workers, and its verification."""
