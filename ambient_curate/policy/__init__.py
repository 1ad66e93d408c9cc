"""The minimal ambient diffusion policy."""
