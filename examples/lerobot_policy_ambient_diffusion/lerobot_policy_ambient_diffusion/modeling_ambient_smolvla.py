"""SmolVLA as LeRobot has it; only the draw of times differs."""

from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from lerobot_policy_ambient_diffusion.configuration_ambient_smolvla import AmbientSmolVLAConfig
from lerobot_policy_ambient_diffusion.flow import AmbientFlow


class AmbientSmolVLAPolicy(AmbientFlow, SmolVLAPolicy):
    """LeRobot's SmolVLA, every window at times that its annotation admits."""

    config_class = AmbientSmolVLAConfig
    name = "ambient_smolvla"
