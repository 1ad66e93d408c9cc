"""Processors: LeRobot's own of PI05, which keep ``index``, and the features."""

from lerobot.policies.pi05.processor_pi05 import make_pi05_pre_post_processors

from lerobot_policy_ambient_diffusion.annotation import keep_features


def make_ambient_pi05_pre_post_processors(config, dataset_stats=None, **kwargs):
    """Make the pipelines before and after the policy."""
    return keep_features(make_pi05_pre_post_processors(config, dataset_stats, **kwargs))
