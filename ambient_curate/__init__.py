"""Find the noise levels at which imperfect robot data may train a diffusion policy."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ambient_curate.annotation import annotate as annotate
    from ambient_curate.annotation import annotate_share as annotate_share
    from ambient_curate.annotation import merge as merge
    from ambient_curate.collection import open_collection as open_collection
    from ambient_curate.comparison import compare_runs as compare_runs
    from ambient_curate.config import AnnotateOptions as AnnotateOptions
    from ambient_curate.errors import CurateError as CurateError
    from ambient_curate.manifest import read_manifest as read_manifest
    from ambient_curate.plots import plot_accuracy as plot_accuracy
    from ambient_curate.plots import plot_bracket as plot_bracket
    from ambient_curate.plots import plot_delta as plot_delta
    from ambient_curate.plots import plot_reliability as plot_reliability
    from ambient_curate.plots import plot_sigma_min as plot_sigma_min
    from ambient_curate.plots import plot_tv as plot_tv
    from ambient_curate.policies import train_policy as train_policy
    from ambient_curate.policy.acting import load_policy as load_policy
    from ambient_curate.policy.losses import noise_further as noise_further
    from ambient_curate.policy.losses import noise_windows as noise_windows
    from ambient_curate.policy.options import PolicyOptions as PolicyOptions
    from ambient_curate.policy.sampler import Admission as Admission
    from ambient_curate.policy.sampler import LevelSampler as LevelSampler
    from ambient_curate.rollouts import roll_out as roll_out
    from ambient_curate.verification import verify as verify

__version__ = "0.1.0"

_HOMES = {
    "Admission": "policy.sampler",
    "AnnotateOptions": "config",
    "CurateError": "errors",
    "LevelSampler": "policy.sampler",
    "PolicyOptions": "policy.options",
    "annotate": "annotation",
    "annotate_share": "annotation",
    "compare_runs": "comparison",
    "load_policy": "policy.acting",
    "merge": "annotation",
    "noise_further": "policy.losses",
    "noise_windows": "policy.losses",
    "open_collection": "collection",
    "plot_accuracy": "plots",
    "plot_bracket": "plots",
    "plot_delta": "plots",
    "plot_reliability": "plots",
    "plot_sigma_min": "plots",
    "plot_tv": "plots",
    "read_manifest": "manifest",
    "roll_out": "rollouts",
    "train_policy": "policies",
    "verify": "verification",
}
__all__ = [  # noqa: RUF022 (in the order of the README)
    "open_collection",
    "annotate",
    "annotate_share",
    "merge",
    "read_manifest",
    "verify",
    "compare_runs",
    "plot_accuracy",
    "plot_delta",
    "plot_tv",
    "plot_bracket",
    "plot_sigma_min",
    "plot_reliability",
    "train_policy",
    "load_policy",
    "roll_out",
    "Admission",
    "LevelSampler",
    "noise_windows",
    "noise_further",
    "AnnotateOptions",
    "PolicyOptions",
    "CurateError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that ``--help`` loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
