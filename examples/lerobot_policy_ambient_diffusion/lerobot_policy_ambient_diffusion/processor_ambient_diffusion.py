"""Processors: LeRobot's own of its Diffusion Policy, which keep ``index``, and the features."""

from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

from lerobot_policy_ambient_diffusion.annotation import keep_features


def make_ambient_diffusion_pre_post_processors(config, dataset_stats=None, **kwargs):
    """Make the pipelines before and after the policy."""
    return keep_features(make_diffusion_pre_post_processors(config, dataset_stats, **kwargs))
