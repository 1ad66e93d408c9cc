"""LeRobot's Diffusion Policy, each window trained at the noise levels that it is admitted at."""

from lerobot_policy_ambient_diffusion.configuration_ambient_diffusion import (
    AmbientDiffusionConfig,
)
from lerobot_policy_ambient_diffusion.modeling_ambient_diffusion import AmbientDiffusionPolicy

__all__ = ["AmbientDiffusionConfig", "AmbientDiffusionPolicy"]
