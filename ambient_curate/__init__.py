"""Find the noise levels at which imperfect robot data may train a diffusion policy."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ambient_curate.annotation.annotate import annotate as annotate
    from ambient_curate.annotation.annotate import annotate_share as annotate_share
    from ambient_curate.annotation.annotate import merge as merge
    from ambient_curate.data.collection import open_collection as open_collection
    from ambient_curate.errors import CurateError as CurateError
    from ambient_curate.options import AnnotateOptions as AnnotateOptions
    from ambient_curate.policy.acting import load_policy as load_policy
    from ambient_curate.policy.level_sampler import Admission as Admission
    from ambient_curate.policy.level_sampler import LevelSampler as LevelSampler
    from ambient_curate.policy.losses import noise_further as noise_further
    from ambient_curate.policy.losses import noise_windows as noise_windows
    from ambient_curate.policy.options import PolicyOptions as PolicyOptions
    from ambient_curate.policy.rollouts import roll_out as roll_out
    from ambient_curate.policy.train import train_policy as train_policy
    from ambient_curate.report.plots import plot_accuracy as plot_accuracy
    from ambient_curate.report.plots import plot_bracket as plot_bracket
    from ambient_curate.report.plots import plot_delta as plot_delta
    from ambient_curate.report.plots import plot_reliability as plot_reliability
    from ambient_curate.report.plots import plot_sigma_min as plot_sigma_min
    from ambient_curate.report.plots import plot_tv as plot_tv
    from ambient_curate.run.compare import compare_runs as compare_runs
    from ambient_curate.run.tables import read_manifest as read_manifest
    from ambient_curate.run.verify import verify as verify

__version__ = "0.1.0"

_HOMES = {
    "Admission": "policy.level_sampler",
    "AnnotateOptions": "options",
    "CurateError": "errors",
    "LevelSampler": "policy.level_sampler",
    "PolicyOptions": "policy.options",
    "annotate": "annotation.annotate",
    "annotate_share": "annotation.annotate",
    "compare_runs": "run.compare",
    "load_policy": "policy.acting",
    "merge": "annotation.annotate",
    "noise_further": "policy.losses",
    "noise_windows": "policy.losses",
    "open_collection": "data.collection",
    "plot_accuracy": "report.plots",
    "plot_bracket": "report.plots",
    "plot_delta": "report.plots",
    "plot_reliability": "report.plots",
    "plot_sigma_min": "report.plots",
    "plot_tv": "report.plots",
    "read_manifest": "run.tables",
    "roll_out": "policy.rollouts",
    "train_policy": "policy.train",
    "verify": "run.verify",
}
__all__ = [  # noqa: RUF022 (in the order of docs/api.md)
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
