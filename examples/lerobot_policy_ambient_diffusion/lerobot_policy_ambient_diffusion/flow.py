"""What SmolVLA, pi0 and pi0.5 have in common: times of a flow, drawn by ``model.sample_time``."""

from typing import Any

from torch import Tensor

from lerobot_policy_ambient_diffusion.annotation import Annotation


class AmbientFlow:
    """Mixed in before a flow policy: draws the times of a batch where its frames may be used.

    LeRobot's loss takes the times from ``model.sample_time``, which is replaced for one call.
    """

    annotation: Annotation | None = None

    def forward(self, batch: dict[str, Tensor], *, reduction: str = "mean", **kwargs: Any):
        """Give the loss, each row weighted by its share of the times; or that of every row."""
        self.annotation = self.annotation or Annotation(self.config)
        drawn = self.annotation.draw(batch, "flow", **self.law)
        self.model.sample_time = lambda *_: drawn.time
        try:
            each, output = super().forward(batch, reduction="none", **kwargs)
        finally:
            del self.model.sample_time  # the class's own again
        each = each * drawn.weight
        return (each if reduction == "none" else each.mean()), output

    @property
    def law(self) -> dict[str, float]:
        """Of the times: Beta(exponent, 1), squeezed into [floor, 1].

        Raises
        ------
        ValueError
            If the policy draws them otherwise.
        """
        names = ("beta_alpha", "beta_beta", "scale", "offset")
        usual = (1.5, 1.0, 0.999, 0.001)  # SmolVLA has them in its code
        found = [
            getattr(self.config, f"time_sampling_{name}", value)
            for name, value in zip(names, usual, strict=True)
        ]
        exponent, other, scale, floor = found
        if other != 1.0 or abs(scale + floor - 1.0) > 1e-9:
            raise ValueError(
                f"times of Beta({exponent}, {other}) * {scale} + {floor} are not known"
            )
        return {"exponent": exponent, "floor": floor}
