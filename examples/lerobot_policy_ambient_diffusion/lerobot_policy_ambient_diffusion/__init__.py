"""LeRobot's diffusion and flow policies, each window at the noise levels that it is admitted at."""

from lerobot_policy_ambient_diffusion.configuration_ambient_diffusion import (
    AmbientDiffusionConfig,
)
from lerobot_policy_ambient_diffusion.configuration_ambient_pi0 import AmbientPI0Config
from lerobot_policy_ambient_diffusion.configuration_ambient_pi05 import AmbientPI05Config
from lerobot_policy_ambient_diffusion.configuration_ambient_smolvla import AmbientSmolVLAConfig

__all__ = [
    "AmbientDiffusionConfig",
    "AmbientPI0Config",
    "AmbientPI05Config",
    "AmbientSmolVLAConfig",
]
