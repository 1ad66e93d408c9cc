"""Find the noise levels at which imperfect robot data may train a diffusion policy."""
