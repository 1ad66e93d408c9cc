"""Find the noise levels at which imperfect robot data may train a diffusion policy."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ambient_curate.annotation import annotate as annotate
    from ambient_curate.annotation import annotate_share as annotate_share
    from ambient_curate.annotation import merge as merge
    from ambient_curate.collection import open_collection as open_collection
    from ambient_curate.config import AnnotateOptions as AnnotateOptions
    from ambient_curate.errors import CurateError as CurateError
    from ambient_curate.manifest import read_manifest as read_manifest
    from ambient_curate.plots import plot_accuracy as plot_accuracy
    from ambient_curate.plots import plot_bracket as plot_bracket
    from ambient_curate.plots import plot_delta as plot_delta
    from ambient_curate.plots import plot_reliability as plot_reliability
    from ambient_curate.plots import plot_sigma_min as plot_sigma_min
    from ambient_curate.plots import plot_tv as plot_tv

__version__ = "0.1.0"

_HOMES = {
    "AnnotateOptions": "config",
    "CurateError": "errors",
    "annotate": "annotation",
    "annotate_share": "annotation",
    "merge": "annotation",
    "open_collection": "collection",
    "plot_accuracy": "plots",
    "plot_bracket": "plots",
    "plot_delta": "plots",
    "plot_reliability": "plots",
    "plot_sigma_min": "plots",
    "plot_tv": "plots",
    "read_manifest": "manifest",
}
__all__ = [  # noqa: RUF022 (in the order of the README)
    "open_collection",
    "annotate",
    "annotate_share",
    "merge",
    "read_manifest",
    "plot_accuracy",
    "plot_delta",
    "plot_tv",
    "plot_bracket",
    "plot_sigma_min",
    "plot_reliability",
    "AnnotateOptions",
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
