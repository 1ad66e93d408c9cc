"""What real robot data says about spectral decay."""
