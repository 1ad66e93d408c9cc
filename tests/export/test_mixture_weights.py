"""Weights of datasets: by the trainer's own law the share comes out that is meant."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_laws import draw_gr00t, draw_gr00t_n15, draw_openpi, draw_rlds

from ambient_curate.export.job import AnnotatedMember, Job
from ambient_curate.export.mixture_weights import share_exactly, weigh_frames
from ambient_curate.export.trainer_time import Clock
from ambient_curate.export.trainers import ExportOptions

SIZES = st.lists(
    st.tuples(st.integers(1, 10**9), st.one_of(st.just(0.0), st.floats(1e-6, 1.0))),
    min_size=0,
    max_size=12,
)
CLEAN = st.integers(1, 10**9)


def name_member(name: str) -> AnnotatedMember:
    """Make a member of which nothing but this is asked."""
    member = object.__new__(AnnotatedMember)
    vars(member).update(name=name, is_clean=name == "clean")
    return member


def make_job(clean: int, others: list[tuple[int, float]]) -> Job:
    """Members of some numbers of frames, of which a share may be used on average."""
    frames = {"clean": clean, **{f"q{i}": n for i, (n, _) in enumerate(others)}}
    usable = {"clean": 1.0, **{f"q{i}": share for i, (_, share) in enumerate(others)}}
    members = tuple(map(name_member, frames))
    job = Job(members, Path(), Clock("flow"), 16, 1, 8, {}, ExportOptions(to="octo"))
    job.rows.update(frames)
    job.effective.update({name: n * usable[name] for name, n in frames.items()})
    return job


def meant(job: Job) -> dict[str, float]:
    total = sum(job.effective.values())
    return {name: count / total for name, count in job.effective.items() if count > 0.0}


@given(CLEAN, SIZES)
def test_trainers_that_multiply_by_frames_draw_the_share_that_is_meant(
    clean: int, others: list[tuple[int, float]]
) -> None:
    job = make_job(clean, others)
    for law in (draw_rlds, draw_gr00t_n15):
        assert law(list(weigh_frames(job).items()), job.rows) == pytest.approx(meant(job), rel=1e-9)


@given(CLEAN, SIZES, st.data())
def test_trainers_that_draw_by_weight_alone_draw_the_share_that_is_meant(
    clean: int, others: list[tuple[int, float]], data: st.DataObject
) -> None:
    job = make_job(clean, others)
    weights = share_exactly(job)
    expected = {name: meant(job)[name] for name in weights}
    assert draw_openpi(weights) == pytest.approx(expected, rel=1e-6, abs=2.0**-50)
    shards = {n: data.draw(st.lists(st.integers(1, 2000), min_size=1, max_size=4)) for n in weights}
    assert draw_gr00t(weights, shards) == pytest.approx(weights, rel=1e-9)


def test_a_small_clean_set_beside_a_large_corrupt_one() -> None:
    """5,000 clean frames, 500,000 corrupt ones of which a fifth may be used: 1 in 21 is clean."""
    job = make_job(5_000, [(500_000, 0.2)])
    mixture = weigh_frames(job)
    assert mixture == {"clean": 1.0, "q0": pytest.approx(0.2)}
    assert draw_rlds(list(mixture.items()), job.rows)["clean"] == pytest.approx(1 / 21)
    twice = draw_rlds([("clean", 1.0), ("q0", 20.0)], job.rows)  # a weight that has size in it
    assert twice["clean"] == pytest.approx(1 / 2001)


def test_ten_thousand_mixtures_add_up_to_one_in_any_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10_000):
        count = int(rng.integers(1, 12))
        sizes = (10 ** rng.uniform(0, 8, count)).astype(int).tolist()
        job = make_job(
            int(10 ** rng.uniform(0, 6)), list(zip(sizes, rng.random(count), strict=True))
        )
        weights = list(share_exactly(job).values())
        naive = 0.0
        for weight in weights:  # as Python 3.11 adds, which openpi runs in; 3.12 compensates
            naive += weight
        assert naive == sum(weights) == sum(reversed(weights)) == math.fsum(weights) == 1.0


def test_what_is_never_used_is_left_out_and_said() -> None:
    job = make_job(10, [(20, 0.0), (30, 0.5)])
    assert list(weigh_frames(job)) == list(share_exactly(job)) == ["clean", "q1"]
    assert job.notes == ["q0: left out of the weights, since none of its windows may be used"]
