"""Block sorting of Ambient Diffusion Policy: what data with the wrong rule can teach."""
