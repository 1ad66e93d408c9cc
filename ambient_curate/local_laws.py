"""Laws of one dimension at a time, and their log-ratios through the noise, clean to corrupt.

Marginals of simple statistics, stationary normal laws, and Markov chains: what few episodes are
enough to estimate. What is later fitted on a row needs log-ratios that do not know it: each is
estimated without every part of the episodes, too.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor, nn

BINS = 257  # of a table
SMOOTHING = 0.08  # of them: standard deviation of a table's kernel
LIMIT = 8.0  # robust standard deviations at its ends
SHARED = 0.05  # of the mean of both densities, added to each
PARTS = 3  # of the training episodes: what is fitted on a part leaves it out
STATES = 12  # of a Markov chain
BORROWED = 0.03  # share of the other set's transitions in a chain
ROWS = 600  # windows of a class that a table is made of at a level
THINNED = 7  # every so-manyth value tells a scale
FILTERS = (
    (1.0,),  # a frame
    (-1.0, 1.0),  # a step
    (1.0, -2.0, 1.0),  # a bend
    (-0.5, -0.5, 0.5, 0.5),  # Haar steps of two frames
    (-0.25,) * 4 + (0.25,) * 4,  # and of four
    (0.25,) * 4,  # a mean of four
)


class LocalLaw(nn.Module):
    """A kind of log-ratio: estimated without each part of the episodes, and from all."""

    sizes: list[int]

    def fit(
        self,
        frames: Sequence[Tensor],
        part: Sequence[Tensor],
        log_snr: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Estimate them on clean and corrupt frames (row, frame, action), each row of a part."""
        raise NotImplementedError

    def keep_whole(self) -> None:
        """Forget what leaves a part out."""
        raise NotImplementedError

    def forward(self, frames: Tensor, level: Tensor, part: Tensor) -> list[Tensor]:
        """Log-ratios, each (row, dimension), of noised frames at levels of the lattice."""
        raise NotImplementedError


class Tables(LocalLaw):
    """Log-ratios of the marginals of simple statistics of noised frames, from drawn noise."""

    place: Tensor
    scale: Tensor
    table: Tensor

    def __init__(self, horizon: int, action: int, levels: int) -> None:
        super().__init__()
        shown = _statistics(torch.zeros(1, horizon, action))
        self.sizes = [values.shape[-1] for values in shown]
        self.register_buffer("place", torch.zeros(levels, sum(self.sizes)))
        self.register_buffer("scale", torch.ones(levels, sum(self.sizes)))
        self.register_buffer("table", torch.zeros(levels, 1, sum(self.sizes), BINS))

    def fit(
        self,
        frames: Sequence[Tensor],
        part: Sequence[Tensor],
        log_snr: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Tabulate the log-ratios at every level, from drawn noise."""
        picked = [_pick_by_part(x, m, ROWS, generator) for x, m in zip(frames, part, strict=True)]
        tables = []
        for number, snr in enumerate(log_snr):
            shown = [
                _statistics(
                    torch.sigmoid(snr).sqrt() * x
                    + torch.sigmoid(-snr).sqrt() * torch.randn(x.shape, generator=generator)
                )
                for x in picked
            ]
            found = [_tabulate(p, q) for p, q in zip(*shown, strict=True)]
            self.place[number] = torch.cat([place for place, _, _ in found])
            self.scale[number] = torch.cat([scale for _, scale, _ in found])
            tables.append(torch.cat([table for _, _, table in found], dim=1))
        self.table = torch.stack(tables)

    def keep_whole(self) -> None:
        """Forget the tables that leave a part out."""
        self.table = self.table[:, -1:].contiguous()

    def forward(self, frames: Tensor, level: Tensor, part: Tensor) -> list[Tensor]:
        """Sum over the frames, (row, dimension) for every statistic."""
        parts, columns = self.table.shape[1:3]
        flat, first, result = self.table.flatten(), 0, []
        for values in _statistics(frames):
            last = first + values.shape[-1]
            place, scale = (x[level, first:last][:, None] for x in (self.place, self.scale))
            at = _to_bin((values - place) / scale)
            low = at.floor().clamp(0, BINS - 2)
            row = ((level * parts + part) * columns)[:, None] + torch.arange(
                first, last, device=level.device
            )
            index = row[:, None] * BINS + low.long()
            ratio = torch.lerp(flat[index], flat[index + 1], at - low)
            result.append(ratio.sum(dim=1))
            first = last
        return result


def _statistics(frames: Float32[Tensor, "*batch frame action"]) -> list[Tensor]:
    """Filter frames, multiply neighbouring steps, take the log-speed: (..., time, dimension)."""
    horizon = frames.shape[-2]
    shown = []
    for taps in FILTERS:
        length = horizon - len(taps) + 1
        if length > 0:
            parts = [tap * frames[..., i : i + length, :] for i, tap in enumerate(taps)]
            shown.append(torch.stack(parts).sum(dim=0))
    if horizon > 1:
        step = torch.diff(frames, dim=-2)
        shown.append(torch.log(step.square().mean(dim=-1, keepdim=True) + 1e-6))
        if horizon > 2:
            shown.append(step[..., 1:, :] * step[..., :-1, :])
    return shown


def _pick_by_part(
    frames: Tensor, part: Tensor, count: int, generator: torch.Generator
) -> Float32[Tensor, "part row frame action"]:
    rows = []
    for number in range(PARTS):
        mine = torch.nonzero(part == number).flatten()
        if not len(mine):  # as few episodes as that: all of them
            mine = torch.arange(len(frames))
        drawn = torch.randint(len(mine), (count // PARTS,), generator=generator)
        rows.append(frames[mine[drawn]])
    return torch.stack(rows)


def _tabulate(clean: Tensor, corrupt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Place, scale (dimension,) and log-ratio (part, dimension, bin) of a statistic's marginals."""
    place = clean.mean(dim=(0, 1, 2))
    spread = (clean - place).flatten(0, 2)[::THINNED].abs().quantile(0.75, dim=0)
    scale = (spread / 1.15).clamp_min(1e-6)  # 1: the standard deviation of a normal law
    p, q = (_leave_out(_density((x - place) / scale)) for x in (clean, corrupt))
    shared = SHARED * (p + q) / 2 + 1e-6
    return place, scale, torch.log((p + shared) / (q + shared))


def _density(values: Float32[Tensor, "part row time dim"]) -> Float32[Tensor, "part dim bin"]:
    """Smoothed histograms, of sum 1."""
    parts, _, _, dims = values.shape
    at = _to_bin(values)
    low = at.floor().clamp(0, BINS - 2)
    share = at - low
    row = torch.arange(parts)[:, None, None, None] * dims + torch.arange(dims)
    cell = (row * BINS + low.long()).flatten()
    counts = torch.zeros(parts * dims * BINS)
    counts.index_add_(0, cell, (1.0 - share).flatten())
    counts.index_add_(0, cell + 1, share.flatten())
    counts = counts.view(parts, dims, BINS) / (values.shape[1] * values.shape[2])
    frequency = torch.fft.rfftfreq(2 * BINS, d=2.0 * LIMIT / (BINS - 1))
    kernel = torch.exp(-2.0 * (math.pi * frequency * SMOOTHING).square())
    smooth = torch.fft.irfft(torch.fft.rfft(counts, 2 * BINS) * kernel, 2 * BINS)
    return smooth[..., :BINS].clamp_min(0.0)


def _leave_out(parts: Float32[Tensor, "part dim bin"]) -> Float32[Tensor, "_ dim bin"]:
    """Means of the parts without each, then of all."""
    total = parts.sum(dim=0, keepdim=True)
    return torch.cat([(total - parts) / (PARTS - 1), total / PARTS])


def _to_bin(scaled: Tensor) -> Tensor:
    return (scaled.clamp(-LIMIT, LIMIT) + LIMIT) * ((BINS - 1) / (2.0 * LIMIT))


class StationaryNormals(LocalLaw):
    """Log-ratios of stationary normal laws, dimension by dimension."""

    form: Tensor
    constant: Tensor

    def __init__(self, horizon: int, action: int, levels: int) -> None:
        super().__init__()
        self.sizes = [action]
        self.register_buffer("form", torch.zeros(1, levels, action, horizon, horizon))
        self.register_buffer("constant", torch.zeros(1, levels, action))

    def fit(
        self,
        frames: Sequence[Tensor],
        part: Sequence[Tensor],
        log_snr: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Take the mean autocovariances, and the log-ratio's form at every level."""
        signal, noise = (
            torch.sigmoid(x).double()[:, None, None, None] for x in (log_snr, -log_snr)
        )
        inverses, volumes = [], []
        for x, mine in zip(frames, part, strict=True):
            laws = torch.stack([_stationary(_without(x, mine, k)) for k in range(PARTS + 1)])
            noised = signal * laws[:, None] + noise * torch.eye(x.shape[1], dtype=torch.float64)
            inverses.append(torch.linalg.inv(noised))
            volumes.append(torch.linalg.slogdet(noised)[1])
        self.form = (0.5 * (inverses[1] - inverses[0])).float()
        self.constant = (0.5 * (volumes[1] - volumes[0])).float()

    def keep_whole(self) -> None:
        """Forget the laws that leave a part out."""
        self.form, self.constant = (x[-1:].contiguous() for x in (self.form, self.constant))

    def forward(self, frames: Tensor, level: Tensor, part: Tensor) -> list[Tensor]:
        """Log-ratios (row, dimension)."""
        ratio = frames.new_empty(len(frames), frames.shape[2])
        key = part * self.form.shape[1] + level
        for number in torch.unique(key).tolist():
            mine, (k, at) = key == number, divmod(number, self.form.shape[1])
            rows = frames[mine].permute(2, 0, 1)  # (action, row, frame)
            square = ((rows @ self.form[k, at]) * rows).sum(dim=-1)
            ratio[mine] = square.T + self.constant[k, at]
        return [ratio]


def _without(frames: Tensor, part: Tensor, number: int) -> Tensor:
    kept = frames[part != number]
    return kept if len(kept) else frames


def _stationary(frames: Tensor) -> Float64[Tensor, "action horizon horizon"]:
    """Toeplitz covariances with the mean autocovariances of the windows."""
    x = frames.double()
    x = x - x.mean(dim=(0, 1))
    horizon = x.shape[1]
    auto = torch.stack(
        [(x[:, lag:] * x[:, : horizon - lag]).mean(dim=(0, 1)) for lag in range(horizon)]
    )
    lag = (torch.arange(horizon)[:, None] - torch.arange(horizon)).abs()
    value, basis = torch.linalg.eigh(auto[lag].permute(2, 0, 1))
    return (basis * value.clamp_min(1e-6)[:, None]) @ basis.mT


class _Chain(NamedTuple):
    """Start (part, action, state) and transitions (part, action, state, state) of one class."""

    start: Tensor
    move: Tensor


class Chains(LocalLaw):
    """Log-ratios of Markov chains of quantised values, seen through the noise."""

    centre: Tensor
    snr: Tensor

    def __init__(self, action: int, levels: int) -> None:
        super().__init__()
        self.sizes = [action]
        self.register_buffer("snr", torch.zeros(levels))
        self.register_buffer("centre", torch.zeros(action, STATES))
        for side in ("clean", "corrupt"):
            self.register_buffer(f"{side}_start", torch.zeros(1, action, STATES))
            self.register_buffer(f"{side}_move", torch.zeros(1, action, STATES, STATES))

    def fit(
        self,
        frames: Sequence[Tensor],
        part: Sequence[Tensor],
        log_snr: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Count the transitions of quantised values."""
        self.snr.copy_(log_snr)
        both = torch.cat([x.flatten(0, 1) for x in frames])
        ends = torch.quantile(
            both[:: 1 + len(both) // 100_000], torch.tensor([0.002, 0.998]), dim=0
        )
        step = ((ends[1] - ends[0]) / (STATES - 1)).clamp_min(1e-6)
        state = [((x - ends[0]) / step).round().clamp(0, STATES - 1).long() for x in frames]
        self.centre.copy_(
            _centres(both, torch.cat([s.flatten(0, 1) for s in state]), ends[0], step)
        )
        counts = [_count_moves(s, mine) for s, mine in zip(state, part, strict=True)]
        start, move = ((a + b) / 2 for a, b in zip(*counts, strict=True))
        for side, found in zip(("clean", "corrupt"), counts, strict=True):
            setattr(self, f"{side}_start", _normal(found.start + BORROWED * start + 1e-4))
            setattr(self, f"{side}_move", _normal(found.move + BORROWED * move + 1e-6))

    def keep_whole(self) -> None:
        """Forget the chains that leave a part out."""
        for side in ("clean", "corrupt"):
            for name in (f"{side}_start", f"{side}_move"):
                setattr(self, name, getattr(self, name)[-1:].contiguous())

    def forward(self, frames: Tensor, level: Tensor, part: Tensor) -> list[Tensor]:
        """Log-ratios (row, dimension), by the forward recursion."""
        log_snr = self.snr[level]
        ratio = frames.new_empty(len(frames), frames.shape[2])
        for k in torch.unique(part).tolist():
            mine = part == k
            seen = self._emissions(frames[mine], log_snr[mine])
            clean, corrupt = (
                _forward(seen, getattr(self, f"{side}_start")[k], getattr(self, f"{side}_move")[k])
                for side in ("clean", "corrupt")
            )
            ratio[mine] = (clean - corrupt).T
        return [ratio]

    def _emissions(
        self, frames: Tensor, log_snr: Tensor
    ) -> Float32[Tensor, "frame action row state"]:
        """Likelihoods of the states, but for a factor of each frame."""
        signal, noise = (torch.sigmoid(x)[:, None, None, None] for x in (log_snr, -log_snr))
        logs = -0.5 * (frames[..., None] - signal.sqrt() * self.centre).square() / noise
        logs = logs - logs.amax(dim=-1, keepdim=True)
        return torch.exp(logs).permute(1, 2, 0, 3).contiguous()


def _forward(seen: Tensor, start: Tensor, move: Tensor) -> Float32[Tensor, "action row"]:
    """Log-likelihood of noised chains, but for the factors left out of `seen`."""
    ahead, logs = start[:, None] * seen[0], torch.zeros(())
    for frame in range(len(seen)):
        if frame:
            ahead = torch.bmm(ahead, move) * seen[frame]
        total = ahead.sum(dim=-1, keepdim=True) + 1e-30
        logs, ahead = logs + torch.log(total[..., 0]), ahead / total
    return logs


def _centres(values: Tensor, state: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """Mean of the values in each state, (action, state); its middle where there is none."""
    count, total = (torch.zeros(values.shape[1], STATES) for _ in range(2))
    count.scatter_add_(1, state.T, torch.ones_like(values.T))
    total.scatter_add_(1, state.T, values.T.contiguous())
    middle = low[:, None] + step[:, None] * torch.arange(STATES)
    return torch.where(count > 0, total / count.clamp_min(1), middle)


def _count_moves(state: Int64[Tensor, "row frame action"], part: Tensor) -> _Chain:
    """Shares of starts and of transitions, without each part and of all."""
    starts, moves = [], []
    for number in range(PARTS + 1):
        kept = _without(state, part, number)
        code = (kept[:, :-1] * STATES + kept[:, 1:]).flatten(0, 1)
        starts.append(_shares(kept.flatten(0, 1), STATES))
        moves.append(_shares(code, STATES**2).reshape(-1, STATES, STATES))
    return _Chain(_normal(torch.stack(starts)), torch.stack(moves))


def _shares(codes: Int64[Tensor, "n action"], count: int) -> Float32[Tensor, "action code"]:
    found = torch.stack([torch.bincount(column, minlength=count) for column in codes.T])
    return found / max(len(codes), 1)


def _normal(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=-1, keepdim=True)
