"""Processors: LeRobot's own of its Diffusion Policy, which keep ``index``."""

from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

make_ambient_diffusion_pre_post_processors = make_diffusion_pre_post_processors
