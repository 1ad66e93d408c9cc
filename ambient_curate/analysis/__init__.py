"""Analysis of action data: spectra, receptive fields, probes, of a dataset or a collection."""
