"""Trains on an export through robomimic's own dataset, and looks at every noise level drawn.

``python check_robomimic.py --data SO101 --out DIR [--command ambient-curate]``, in the environment
of robomimic that `environments.sh` makes. SO101's actions become HDF5 files of robomimic's layout,
half of them trembling. `SequenceDataset` reads the exported copies by their filter key ``ambient``
and lays its own windows, which begin before a demonstration and end after it; a small network is
trained on them by DDPM steps that ``ambient.parquet`` admits. Of 10,000 pairs of a window and a
step none may be forbidden by the manifest, and those that are admitted have to occur as often as
chance says.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import torch
from answers import Answers, compare, read_arguments, say
from diffusers import DDPMScheduler
from robomimic.utils import obs_utils
from robomimic.utils.dataset import SequenceDataset
from tremor import annotate_as_is, export

from ambient_curate.integrations import FrameAnnotations, sample_time
from ambient_curate.noise import schedule_levels

DRAWS, BATCH, STACK, STEPS = 10_000, 50, 2, 100
SCHEDULE = f"squaredcos_cap_v2:{STEPS}"


def make_files(source: Path, out: Path) -> None:
    """Write the actions of a LeRobot dataset as robomimic's files, the later half trembling."""
    tables = [pq.read_table(file) for file in sorted(source.glob("data/*/*.parquet"))]
    action = np.concatenate([np.stack(table["action"].to_numpy()) for table in tables])
    state = np.concatenate([np.stack(table["observation.state"].to_numpy()) for table in tables])
    episode = np.concatenate([table["episode_index"].to_numpy() for table in tables])
    spread = 0.1 * np.ptp(action, axis=0)
    noise = np.random.default_rng(0).normal(size=action.shape) * spread
    half = np.unique(episode).size // 2
    for name, late in (("steady", False), ("trembling", True)):
        (out / name).mkdir(parents=True)
        with h5py.File(out / name / "demo.hdf5", "w") as file:
            data = file.create_group("data")
            data.attrs["env_args"] = json.dumps({"env_name": "none", "type": 1, "env_kwargs": {}})
            for number, each in enumerate(np.unique(episode)[half:] if late else range(half)):
                rows = episode == each
                demo = data.create_group(f"demo_{number}")
                demo.attrs["num_samples"] = int(rows.sum())
                demo["actions"] = (action[rows] + late * noise[rows]).astype(np.float32)
                demo["obs/state"] = state[rows].astype(np.float32)


def open_data(file: Path, horizon: int) -> SequenceDataset:
    """Open an exported copy as robomimic does, with windows that leave their demonstration."""
    return SequenceDataset(
        hdf5_path=str(file),
        obs_keys=("state",),
        dataset_keys=("actions",),
        frame_stack=STACK,
        seq_length=horizon - STACK + 1,
        pad_frame_stack=True,
        pad_seq_length=True,
        get_pad_mask=False,
        goal_mode=None,
        hdf5_cache_mode="low_dim",
        hdf5_use_swmr=False,
        hdf5_normalize_obs=False,
        load_next_obs=False,
        filter_by_attribute="ambient",
    )


class Numbered(torch.utils.data.Dataset):
    """Windows of robomimic, each with the global index of its frame."""

    def __init__(self, data: SequenceDataset, table: Path) -> None:
        rows = pq.read_table(table).to_pandas()
        first = rows[rows.frame_index == 0].set_index("episode_id")["index"]
        self.data, self.index = data, []
        for number in range(len(data)):
            demo = data._index_to_demo_id[number]
            frame = number - data._demo_id_to_start_indices[demo]
            self.index.append(int(first[demo]) + frame)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> dict[str, object]:
        sample = self.data[number]
        state = torch.as_tensor(sample["obs"]["state"][:STACK])
        return {"action": sample["actions"], "state": state, "index": self.index[number]}


class Denoiser(torch.nn.Module):
    """A small network of the noised window, the state and the step."""

    def __init__(self, action: int, state: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(action + state + 1, 128), torch.nn.SiLU(), torch.nn.Linear(128, action)
        )

    def forward(self, noised, state, step):
        """Give the noise of a batch."""
        time = step[:, None] / STEPS
        flat = [noised.flatten(1), state.flatten(1), time]
        return self.layers(torch.cat(flat, dim=1)).reshape(noised.shape)


def train(name: str, files: Path, horizon: int, draws: int, scale: dict) -> list[tuple]:
    """Train on one file; give index, step and weight of every row."""
    annotations = FrameAnnotations(files / name / "ambient.parquet")
    data = Numbered(
        open_data(files / name / "demo.hdf5", horizon), files / name / "ambient.parquet"
    )
    offset, factor = (torch.tensor(scale[key]).float() for key in ("offset", "scale"))
    order = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, generator=order)
    clock = DDPMScheduler(STEPS, beta_schedule="squaredcos_cap_v2")
    sizes = [torch.as_tensor(data[0][key]).numel() for key in ("action", "state")]
    network = Denoiser(*sizes)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    noise_of, drawn, losses = torch.Generator().manual_seed(1), [], []
    while len(drawn) < draws:
        for batch in loader:
            low, high, _ = annotations.of(batch["index"])
            draw = sample_time(low, high, SCHEDULE, generator=noise_of)
            clean = (batch["action"].float() - offset) * factor
            noise = torch.randn(clean.shape, generator=noise_of)
            noised = clock.add_noise(clean, noise, draw.time)
            error = (network(noised, batch["state"].float(), draw.time) - noise).square()
            loss = (error.mean(dim=(1, 2)) * draw.weight).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            given = (batch["index"], draw.time, draw.weight)
            drawn.extend(zip(*(each.tolist() for each in given), strict=True))
            if len(drawn) >= draws:
                break
    first, last = np.mean(losses[:20]), np.mean(losses[-20:])
    say(f"{name}: {len(losses)} steps of training, loss {first:.3f} -> {last:.3f}")
    return drawn


def judge(name: str, answers: Answers, first: dict[int, int], drawn: list[tuple]) -> None:
    """Compare the draws with the manifest itself, not with the export."""
    levels = schedule_levels(SCHEDULE)
    starts = sorted((index, episode) for episode, index in first.items())
    begin = np.array([index for index, _ in starts])
    count, law, forbidden, own = np.zeros(STEPS), np.zeros(STEPS), 0, 0.0
    for index, step, weight in drawn:
        place = int(np.searchsorted(begin, index, side="right")) - 1
        window = index - begin[place] - (STACK - 1)
        usable = levels > answers.of(name, starts[place][1], int(window))
        assert abs(weight - usable.mean()) < 1e-6
        if not usable.any():
            continue
        forbidden += not usable[step]
        own += 1 - usable.mean()
        count[step] += 1
        law += usable / usable.sum()
    say(f"{name}: forbidden {forbidden}; steps drawn evenly would have been {own:.0f} times")
    compare(name, count, law)
    assert forbidden == 0


def main() -> None:
    """Make the files, annotate, export, train, judge."""
    given = read_arguments(__doc__)
    make_files(given.data, given.out / "set")
    run = annotate_as_is(given.out, given.command, "--clean", "steady")
    files = export(run, given.command, "robomimic", "--n-obs-steps", str(STACK))
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["state"]}})
    answers = Answers(run)
    scale = json.loads((run / "run.json").read_text())["normaliser"]
    for name in ("steady", "trembling"):
        rows = pq.read_table(files / name / "ambient.parquet").to_pandas()
        first = rows[rows.frame_index == 0].set_index("episode_index")["index"].to_dict()
        drawn = train(name, files, answers.options["horizon"], DRAWS // 2, scale)
        judge(name, answers, first, drawn)


if __name__ == "__main__":
    main()
