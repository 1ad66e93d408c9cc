"""Processors: LeRobot's own of SmolVLA, which keep ``index``, and the features."""

from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors

from lerobot_policy_ambient_diffusion.annotation import keep_features


def make_ambient_smolvla_pre_post_processors(config, dataset_stats=None, **kwargs):
    """Make the pipelines before and after the policy."""
    return keep_features(make_smolvla_pre_post_processors(config, dataset_stats, **kwargs))
