"""Configuration of PI05: LeRobot's own, and where the annotation lies."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pi05.configuration_pi05 import PI05Config

from lerobot_policy_ambient_diffusion.annotation import AnnotatedConfig


@PreTrainedConfig.register_subclass("ambient_pi05")
@dataclass
class AmbientPI05Config(AnnotatedConfig, PI05Config):
    """Of a PI05 that obeys ``ambient-curate export --to lerobot --schedule flow``."""
