"""Configuration of SmolVLA: LeRobot's own, and where the annotation lies."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

from lerobot_policy_ambient_diffusion.annotation import AnnotatedConfig


@PreTrainedConfig.register_subclass("ambient_smolvla")
@dataclass
class AmbientSmolVLAConfig(AnnotatedConfig, SmolVLAConfig):
    """Of a SmolVLA that obeys ``ambient-curate export --to lerobot --schedule flow``."""
