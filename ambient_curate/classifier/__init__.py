"""The cross-fitted noisy-channel classifier c(x_sigma, sigma), its scores and its distillation."""
