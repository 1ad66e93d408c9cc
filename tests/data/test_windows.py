"""Windows against naive slicing, normalisers against their formulas, draws against their law."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from ambient_curate.data.normalizer import Normalizer, fit_normalizer, share_outside
from ambient_curate.data.windows import (
    Windows,
    clean_values,
    count_windows,
    draw_windows,
    pick_windows,
)
from ambient_curate.options import Normalization, Representation

DIM = 3


def make_windows(
    lengths: Sequence[int],
    horizon: int,
    stride: int,
    represent: Representation = "absolute",
    *,
    with_state: bool = False,
    normalizer: Normalizer | None = None,
) -> Windows:
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(2, sum(lengths), DIM)).astype(np.float32)
    length = np.array(lengths, dtype=np.int64)
    return Windows(
        torch.from_numpy(frames[0]),
        torch.from_numpy(frames[1]) if with_state else None,
        np.cumsum(length) - length,
        length,
        horizon,
        stride,
        represent,
        normalizer,
    )


def naive_windows(windows: Windows, episode: int) -> list[NDArray[np.float32]]:
    """All whole windows of an episode by plain slicing, un-normalised."""
    first = int(windows.offset[episode])
    own = slice(first, first + int(windows.length[episode]))
    action = windows.action.numpy()[own]
    state = None if windows.state is None else windows.state.numpy()[own]
    result = []
    for start in range(0, len(action) - windows.horizon + 1, windows.stride):
        window = action[start : start + windows.horizon]
        reference = window[0] if state is None else state[start]
        if windows.represent == "relative":
            window = window - reference
        elif windows.represent == "delta":
            window = window - np.concatenate([reference[None], window[:-1]])
        result.append(window)
    return result


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@given(
    LENGTHS,
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from(get_args(Representation)),
    st.booleans(),
)
def test_windows_are_the_slices_of_their_episode(
    lengths: list[int], horizon: int, stride: int, represent: Representation, with_state: bool
) -> None:
    windows = make_windows(lengths, horizon, stride, represent, with_state=with_state)
    for episode in range(len(lengths)):
        expected = naive_windows(windows, episode)
        found = windows.of_episode(episode)
        assert found.shape == (len(expected), horizon, DIM)
        assert windows.counts[episode] == len(expected)
        assert [w.tolist() for w in found.numpy()] == [w.tolist() for w in expected]


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 20))
def test_the_count_of_windows_is_the_count_of_their_starts(
    length: int, horizon: int, stride: int
) -> None:
    starts = [s for s in range(0, length, stride) if s + horizon <= length]
    assert count_windows(np.array([length]), horizon, stride).tolist() == [len(starts)]


def test_gather_reads_windows_in_the_order_asked_for() -> None:
    windows = make_windows([5, 2, 7], horizon=3, stride=2)
    assert windows.counts.tolist() == [2, 0, 3]
    assert windows.dim == 9
    found = windows.gather(np.array([2, 0, 2]), np.array([2, 1, 0]))
    naive = {e: naive_windows(windows, e) for e in (0, 2)}
    expected = np.stack([naive[2][2], naive[0][1], naive[2][0]])
    assert found.numpy().tolist() == expected.tolist()
    assert found.dtype == torch.float32


def test_a_relative_window_forgets_where_it_lies() -> None:
    windows = make_windows([6], 3, 1, "relative")
    moved = Windows(windows.action + 4.0, None, windows.offset, windows.length, 3, 1, "relative")
    torch.testing.assert_close(moved.of_episode(0), windows.of_episode(0), atol=1e-6, rtol=0.0)
    assert not windows.of_episode(0)[:, 0].any()


def test_deltas_sum_to_the_relative_window() -> None:
    delta = make_windows([6], 3, 1, "delta", with_state=True).of_episode(0)
    relative = make_windows([6], 3, 1, "relative", with_state=True).of_episode(0)
    torch.testing.assert_close(delta.cumsum(dim=1), relative, atol=1e-5, rtol=0.0)


def values_of(seed: int = 3) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.gamma(2.0, size=(400, DIM)) * [1.0, 50.0, 1e-3] + [0.0, -7.0, 3.0]).astype(
        np.float32
    )


def test_normalisers_do_what_their_names_say() -> None:
    values = values_of()
    scaled = {
        kind: fit_normalizer(kind, values).apply(torch.from_numpy(values)).numpy()
        for kind in get_args(Normalization)
    }
    np.testing.assert_allclose(scaled["minmax"].min(axis=0), -1.0, atol=1e-5)
    np.testing.assert_allclose(scaled["minmax"].max(axis=0), 1.0, atol=1e-5)
    ends = np.quantile(values.astype(np.float64), [0.01, 0.99], axis=0)
    quantile = 2.0 * (values - ends[0]) / (ends[1] - ends[0]) - 1.0
    np.testing.assert_allclose(scaled["quantile"], quantile, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scaled["gaussian"].mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(scaled["gaussian"].std(axis=0), 1.0, rtol=1e-4)
    assert scaled["none"].tolist() == values.tolist()


@pytest.mark.parametrize("kind", get_args(Normalization))
def test_a_normaliser_survives_json_and_does_not_clip(kind: Normalization) -> None:
    fitted = fit_normalizer(kind, values_of())
    again = Normalizer.from_dict(fitted.as_dict())
    outside = torch.tensor([[1e3, -1e3, 5.0]])
    assert again.apply(outside).tolist() == fitted.apply(outside).tolist()
    expected = (outside.double().numpy() - fitted.offset) * fitted.scale
    np.testing.assert_allclose(fitted.apply(outside).numpy(), expected, rtol=1e-6)
    assert again.kind == kind


@pytest.mark.parametrize("kind", ["minmax", "quantile", "gaussian"])
@pytest.mark.parametrize("value", [0.0, 0.1, -12345.678])
def test_a_constant_dimension_becomes_zero(kind: Normalization, value: float) -> None:
    values = values_of()
    values[:, 1] = np.float32(value)
    jitter = np.nextafter(np.float32(value), np.float32(np.inf))
    values[::7, 1] = jitter if value else 0.0  # the noise of a float32 copy is no motion
    fitted = fit_normalizer(kind, values)
    assert fitted.constant == [1]
    scaled = fitted.apply(torch.tensor([[0.0, 1e6, 0.0]]))
    assert scaled[0, 1] == 0.0
    assert torch.isfinite(scaled).all()


def test_a_small_motion_is_no_constant() -> None:
    values = values_of() * np.float32(1e-5)
    values[:, 2] = np.linspace(1.0, 1.001, len(values))
    assert fit_normalizer("minmax", values).constant == []


def test_share_outside_counts_values_beyond_the_clean_range() -> None:
    clean = np.array([[0.0, -1.0, 5.0], [1.0, 1.0, 5.0]], dtype=np.float32)
    fitted = fit_normalizer("minmax", clean)
    values = np.array([[0.5, 0.0, 5.0], [1.5, -1.0, 5.1], [-0.1, 1.0, 5.0], [0.0, 1.0, 5.0]])
    assert share_outside(values, fitted) == 3 / 12
    assert share_outside(clean, fitted) == 0.0


@pytest.mark.parametrize("represent", ["relative", "delta"])
def test_clean_values_are_what_the_representation_makes(represent: Representation) -> None:
    windows = make_windows([5, 2, 7], 3, 2, represent, with_state=True)
    expected = np.concatenate([w for e in (0, 2) for w in naive_windows(windows, e)])
    assert clean_values(windows).tolist() == expected.tolist()


def test_clean_values_of_absolute_windows_are_the_frames() -> None:
    windows = make_windows([5, 2, 7], 3, 2)
    assert clean_values(windows).tolist() == windows.action.tolist()


def test_windows_are_normalised_after_they_are_centred() -> None:
    raw = make_windows([5, 7], 3, 1, "relative", with_state=True)
    fitted = fit_normalizer("gaussian", clean_values(raw))
    scaled = make_windows([5, 7], 3, 1, "relative", with_state=True, normalizer=fitted)
    expected = (np.array(naive_windows(raw, 1)) - fitted.offset) * fitted.scale
    np.testing.assert_allclose(scaled.of_episode(1).numpy(), expected, rtol=1e-5, atol=1e-6)


def numbered(lengths: Sequence[int], horizon: int) -> Windows:
    """Windows whose first value is the number of their first frame."""
    length = np.array(lengths, dtype=np.int64)
    frames = torch.arange(length.sum(), dtype=torch.float32)[:, None]
    return Windows(frames, None, np.cumsum(length) - length, length, horizon, 1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_episodes_take_equal_turns_whatever_their_length(seed: int, count: int) -> None:
    windows = numbered([4, 50, 3, 9], horizon=3)
    drawn, episode = draw_windows(windows, [0, 1, 3], count, np.random.default_rng(seed))
    shares = np.bincount(episode, minlength=4)
    assert shares[2] == 0
    assert np.ptp(shares[[0, 1, 3]]) <= 1
    start = drawn[:, 0, 0].numpy() - windows.offset[episode]
    assert (start >= 0).all()
    assert (start < windows.counts[episode]).all()
    assert drawn.shape == (count, 3, 1)


def test_windows_of_an_episode_are_equally_likely() -> None:
    windows = numbered([6, 30], horizon=3)
    drawn, _ = draw_windows(windows, [0, 1], 16_000, np.random.default_rng(5))
    start = drawn[:, 0, 0].numpy().astype(int)
    for episode in range(2):
        first, count = int(windows.offset[episode]), int(windows.counts[episode])
        seen = np.bincount(start, minlength=36)[first : first + count]
        assert seen.sum() == 8_000
        assert chisquare(seen).pvalue > 1e-3


def test_drawn_by_window_every_window_is_equally_likely() -> None:
    windows = numbered([6, 30, 2, 11], horizon=3)
    rng = np.random.default_rng(6)
    drawn, episode = draw_windows(windows, [0, 1, 3], 20_000, rng, by_window=True)
    seen = np.bincount(drawn[:, 0, 0].numpy().astype(int))
    kept = seen[seen > 0]
    assert kept.size == windows.counts.sum()
    assert chisquare(kept).pvalue > 1e-3
    assert set(episode) == {0, 1, 3}


def test_the_order_of_turns_is_shuffled_afresh() -> None:
    _, episode = draw_windows(numbered([9] * 6, 3), range(6), 60, np.random.default_rng(8))
    turns = episode.reshape(10, 6)
    assert len({tuple(turn) for turn in turns}) > 5
    assert (np.sort(turns, axis=1) == np.arange(6)).all()


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
    st.integers(1, 60),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_picked_windows_exist_and_drawn_ones_are_those_picked(
    counts: list[int], count: int, by_window: bool, seed: int
) -> None:
    horizon, rows = 3, np.arange(len(counts)) * 2  # every other episode
    lengths = np.full(2 * len(counts), horizon)
    lengths[rows] = np.array(counts) + horizon - 1
    windows = numbered(lengths.tolist(), horizon)
    episode, number = pick_windows(
        rows, np.array(counts), count, np.random.default_rng(seed), by_window=by_window
    )
    assert episode.shape == number.shape == (count,)
    assert episode.dtype == number.dtype == np.int64
    assert set(episode) <= set(rows)
    assert (number >= 0).all() and (number < windows.counts[episode]).all()
    rng = np.random.default_rng(seed)
    drawn, owner = draw_windows(windows, rows, count, rng, by_window=by_window)
    assert owner.tolist() == episode.tolist()
    assert drawn[:, 0, 0].tolist() == (windows.offset[episode] + number).tolist()


def test_picked_windows_are_equally_likely_in_their_episode_or_all_together() -> None:
    counts, rng = np.array([4, 28, 9]), np.random.default_rng(9)
    episode, number = pick_windows(np.array([5, 0, 7]), counts, 12_000, rng)
    for each, size in zip((5, 0, 7), counts.tolist(), strict=True):
        seen = np.bincount(number[episode == each], minlength=size)
        assert seen.size == size and seen.sum() == 4_000
        assert chisquare(seen).pvalue > 1e-3
    episode, number = pick_windows(np.array([5, 0, 7]), counts, 12_000, rng, by_window=True)
    first = {5: 0, 0: 4, 7: 32}
    seen = np.bincount(number + np.array([first[int(each)] for each in episode]))
    assert seen.size == 41
    assert chisquare(seen).pvalue > 1e-3
