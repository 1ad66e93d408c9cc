"""Processors: LeRobot's own of PI0, which keep ``index``, and the features."""

from lerobot.policies.pi0.processor_pi0 import make_pi0_pre_post_processors

from lerobot_policy_ambient_diffusion.annotation import keep_features


def make_ambient_pi0_pre_post_processors(config, dataset_stats=None, **kwargs):
    """Make the pipelines before and after the policy."""
    return keep_features(make_pi0_pre_post_processors(config, dataset_stats, **kwargs))
