"""Log-ratios of one action dimension: marginals, stationary normal laws and Markov chains.

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

from ambient_curate.classifier.samples import noise_scales

BINS = 257  # of a table
SMOOTHING = 0.08  # of them: standard deviation of a table's kernel
LIMIT = 8.0  # robust standard deviations at its ends
SHARED = 0.05  # of the mean of both densities, added to each
PARTS = 3  # of the training episodes: what is fitted on a part leaves it out
STATES = 12  # of a Markov chain
BORROWED = 0.03  # share of the other set's transitions in a chain
ROWS = 600  # windows of a class that a table is made of at a level
THINNED = 7  # every so-manyth value tells a scale
UNLIKELY = -20.0  # nats: products of `RESCALED` likelihoods stay where floats are fast
RESCALED = 4  # frames after which the likelihoods of a chain are scaled to a sum of 1


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

    def forward(
        self,
        frames: Float32[Tensor, "level row frame action"],
        levels: Int64[Tensor, " level"],
        part: int,
    ) -> list[Tensor]:
        """Log-ratios, each (level, row, dimension), of noised frames.

        Parameters
        ----------
        frames : Tensor, float32, shape (level, row, frame, action)
            Less the signal's share of the centre.
        levels : Tensor, int64, shape (level,)
            Places in the lattice.
        part : int
            Which part was left out; `PARTS`, or -1: none.
        """
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
            signal, spread = noise_scales(snr)
            shown = [
                _statistics(signal * x + spread * torch.randn(x.shape, generator=generator))
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

    def forward(self, frames: Tensor, levels: Tensor, part: int) -> list[Tensor]:
        """Sum over the frames, (level, row, dimension) for every statistic."""
        _, parts, columns, bins = self.table.shape
        first = (levels * parts + part % parts) * columns
        of = first[:, None] + torch.arange(columns, device=levels.device)
        place, scale, row = self.place[levels], self.scale[levels], (of * bins).int()
        flat, done, result = self.table.flatten(), 0, []
        for values in _statistics(frames):
            mine = slice(done, done + values.shape[-1])
            own, spread, start = (x[:, None, None, mine] for x in (place, scale, row))
            index = _to_bin((values - own) / spread).round_().int().add_(start)
            ratio = flat.index_select(0, index.flatten()).view(index.shape)
            result.append(ratio.sum(dim=2))
            done = mine.stop
        return result


def _statistics(frames: Float32[Tensor, "*batch frame action"]) -> list[Tensor]:
    """Filter frames, multiply neighbouring steps, take the log-speed: (..., time, dimension).

    The filters: a frame, a step, a bend, Haar steps of two frames and of four, a mean of four.
    """
    horizon = frames.shape[-2]
    shown = [frames]
    if horizon > 1:
        step = _ahead(frames, 1) - _behind(frames, 1)
        speed = torch.log(step.square().mean(dim=-1, keepdim=True) + 1e-6)
        shown += [step, speed]
    if horizon > 2:
        shown += [_ahead(step, 1) - _behind(step, 1), _ahead(step, 1) * _behind(step, 1)]
    if horizon > 3:
        two = _ahead(frames, 1) + _behind(frames, 1)
        four = 0.25 * (_ahead(two, 2) + _behind(two, 2))
        shown += [four, 0.5 * (_ahead(two, 2) - _behind(two, 2))]
    if horizon > 7:
        shown.append(_ahead(four, 4) - _behind(four, 4))
    return shown


def _ahead(frames: Tensor, count: int) -> Tensor:
    return frames[..., count:, :]


def _behind(frames: Tensor, count: int) -> Tensor:
    return frames[..., :-count, :]


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
    row = torch.arange(parts)[:, None, None, None] * dims + torch.arange(dims)
    cell = row * BINS + _to_bin(values).round().long()
    counts = torch.bincount(cell.flatten(), minlength=parts * dims * BINS).float()
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

    def forward(self, frames: Tensor, levels: Tensor, part: int) -> list[Tensor]:
        """Log-ratios (level, row, dimension)."""
        rows = frames.permute(0, 3, 1, 2)  # (level, action, row, frame)
        square = ((rows @ self.form[part, levels]) * rows).sum(dim=-1)
        return [square.mT + self.constant[part, levels][:, None]]


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

    def forward(self, frames: Tensor, levels: Tensor, part: int) -> list[Tensor]:
        """Log-ratios (level, row, dimension), by the forward recursion."""
        start, move = (
            torch.stack([getattr(self, f"{side}_{name}")[part] for side in ("clean", "corrupt")])
            for name in ("start", "move")
        )
        clean, corrupt = _forward(self._emissions(frames, levels), start, move)
        return [(clean - corrupt).T.reshape(*frames.shape[:2], -1)]

    def _emissions(
        self, frames: Tensor, levels: Tensor
    ) -> Float32[Tensor, "frame action state row"]:
        """Likelihoods of the states, but for a factor of each frame."""
        snr = self.snr[levels].repeat_interleave(frames.shape[1])
        precision, centre = torch.exp(snr), self.centre[..., None]
        values = (
            frames.flatten(0, 1).permute(1, 2, 0)
            * torch.exp(0.5 * snr)
            * torch.rsqrt(torch.sigmoid(-snr))
        )
        logs = values[:, :, None] * centre
        logs.addcmul_(precision, centre.square(), value=-0.5)
        return torch.exp_(logs.sub_(logs.amax(dim=2, keepdim=True)).clamp_min_(UNLIKELY))


def _forward(
    seen: Float32[Tensor, "frame action state row"],
    start: Float32[Tensor, "law action state"],
    move: Float32[Tensor, "law action state state"],
) -> Float32[Tensor, "law action row"]:
    """Log-likelihoods of noised chains, but for the factors left out of `seen`."""
    ahead, logs = start[..., None], seen.new_zeros(())
    for frame, likelihood in enumerate(seen):
        ahead = (torch.matmul(move.mT, ahead) if frame else ahead) * likelihood
        if (frame + 1) % RESCALED == 0 or frame + 1 == len(seen):
            total = ahead.sum(dim=2, keepdim=True).clamp_min(1e-36)
            logs, ahead = logs + torch.log(total[:, :, 0]), ahead / total
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
