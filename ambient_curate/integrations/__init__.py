"""Integrations: the few lines that another trainer adds to use an export."""

from ambient_curate.integrations.lookup import FrameAnnotations
from ambient_curate.integrations.replay import AnnotatedWindows, SamplerAnnotations, pop_annotation
from ambient_curate.integrations.times import (
    AdmittedPairs,
    Draw,
    Law,
    PairDraws,
    PairSampler,
    sample_time,
)

__all__ = [
    "AdmittedPairs",
    "AnnotatedWindows",
    "Draw",
    "FrameAnnotations",
    "Law",
    "PairDraws",
    "PairSampler",
    "SamplerAnnotations",
    "pop_annotation",
    "sample_time",
]
