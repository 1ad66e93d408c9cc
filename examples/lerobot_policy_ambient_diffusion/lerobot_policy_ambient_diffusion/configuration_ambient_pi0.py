"""Configuration of PI0: LeRobot's own, and where the annotation lies."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pi0.configuration_pi0 import PI0Config

from lerobot_policy_ambient_diffusion.annotation import AnnotatedConfig


@PreTrainedConfig.register_subclass("ambient_pi0")
@dataclass
class AmbientPI0Config(AnnotatedConfig, PI0Config):
    """Of a PI0 that obeys ``ambient-curate export --to lerobot --schedule flow``."""
