"""Integrations: the few lines that another trainer adds to use an export."""

from ambient_curate.integrations.lookup import FrameAnnotations
from ambient_curate.integrations.replay import AnnotatedWindows, SamplerAnnotations, pop_annotation
from ambient_curate.integrations.times import Draw, sample_time

__all__ = [
    "AnnotatedWindows",
    "Draw",
    "FrameAnnotations",
    "SamplerAnnotations",
    "pop_annotation",
    "sample_time",
]
