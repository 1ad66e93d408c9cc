"""PI0 as LeRobot has it; only the draw of times differs."""

from lerobot.policies.pi0.modeling_pi0 import PI0Policy

from lerobot_policy_ambient_diffusion.configuration_ambient_pi0 import AmbientPI0Config
from lerobot_policy_ambient_diffusion.flow import AmbientFlow


class AmbientPI0Policy(AmbientFlow, PI0Policy):
    """LeRobot's PI0, every window at times that its annotation admits."""

    config_class = AmbientPI0Config
    name = "ambient_pi0"
