"""PI05 as LeRobot has it; only the draw of times differs."""

from lerobot.policies.pi05.modeling_pi05 import PI05Policy

from lerobot_policy_ambient_diffusion.configuration_ambient_pi05 import AmbientPI05Config
from lerobot_policy_ambient_diffusion.flow import AmbientFlow


class AmbientPI05Policy(AmbientFlow, PI05Policy):
    """LeRobot's PI05, every window at times that its annotation admits."""

    config_class = AmbientPI05Config
    name = "ambient_pi05"
