"""Configuration of the diffusion policy: LeRobot's own, and where the annotation lies."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

from lerobot_policy_ambient_diffusion.annotation import AnnotatedConfig


@PreTrainedConfig.register_subclass("ambient_diffusion")
@dataclass
class AmbientDiffusionConfig(AnnotatedConfig, DiffusionConfig):
    """Of a policy that obeys ``ambient-curate export --to lerobot``."""

    @property
    def schedule(self) -> str:
        """Name of the noise schedule, as ambient-curate calls it.

        Raises
        ------
        ValueError
            If ambient-curate knows no such schedule.
        """
        name, steps = self.beta_schedule, self.num_train_timesteps
        usual = (self.beta_start, self.beta_end) == (0.0001, 0.02)
        if name == "squaredcos_cap_v2" or (name in ("linear", "scaled_linear") and usual):
            return f"{name}:{steps}"
        raise ValueError(f"ambient-curate knows no schedule {name} of these betas")
