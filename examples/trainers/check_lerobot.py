"""Trains LeRobot's Diffusion Policy on an export, and looks at every noise level that it drew.

``python check_lerobot.py --data SO101 --out DIR [--command ambient-curate]``, in an environment of
`environments.sh`. Every (frame, step) of the training is recorded: none may be forbidden by the
manifest, and those that are admitted have to occur as often as chance says.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from lerobot.configs.types import FeatureType
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import dataset_to_policy_features
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot_policy_ambient_diffusion import AmbientDiffusionConfig
from scipy.stats import chi2
from tremor import annotate, export, make_data

from ambient_curate.noise import schedule_levels

DRAWS, BATCH = 10_000, 50


def train(root: Path, files: Path, record: Path) -> None:
    """Train, writing down every draw."""
    data = LeRobotDataset("local/tremor", root=root)
    features = dataset_to_policy_features(data.meta.features)
    outputs = {"action": features.pop("action")}
    inputs = {key: value for key, value in features.items() if value.type is not FeatureType.VISUAL}
    paths = ",".join(str(path) for path in sorted(files.glob("*/ambient.parquet")))
    config = AmbientDiffusionConfig(
        input_features=inputs,
        output_features=outputs,
        annotations=paths,
        device="cpu",
        down_dims=(32, 64, 128),
        push_to_hub=False,
    )
    policy = get_policy_class("ambient_diffusion")(config)
    before, _ = make_pre_post_processors(config, dataset_stats=data.meta.stats)
    rate = data.meta.fps
    deltas = {key: [n / rate for n in config.observation_delta_indices] for key in inputs}
    deltas["action"] = [n / rate for n in config.action_delta_indices]
    data = LeRobotDataset("local/tremor", root=root, delta_timestamps=deltas)
    drawn = []
    model, draw = policy.diffusion, policy.diffusion.draw_steps

    def draw_and_record(index):
        found = draw(index)
        drawn.extend(zip(index.tolist(), found.time.tolist(), found.weight.tolist(), strict=True))
        return found

    model.draw_steps = draw_and_record
    loader = torch.utils.data.DataLoader(
        data, BATCH, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    optimizer = torch.optim.Adam(policy.parameters(), 1e-4)
    losses = []
    while len(drawn) < DRAWS:
        for batch in loader:
            loss, _ = policy.forward(before(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(drawn) >= DRAWS:
                break
    first, last = np.mean(losses[:20]), np.mean(losses[-20:])
    say(f"{len(losses)} steps of training, loss {first:.3f} -> {last:.3f}")
    record.write_text(json.dumps(drawn))


def judge(run: Path, record: Path, n_obs_steps: int = 2) -> None:
    """Compare the draws with the manifest itself, not with the export."""
    manifest = pq.read_table(run / "manifest").to_pandas()
    first = manifest[manifest.start == 0].set_index("episode_index")["index"].to_dict()
    by_window = {
        (row.episode_index, row.start): (row.dataset, row.sigma_min)
        for row in manifest.itertuples()
    }
    last = manifest.groupby("episode_index").start.max().to_dict()
    owner = np.array(sorted((index, episode) for episode, index in first.items()))
    levels = schedule_levels("squaredcos_cap_v2:100")
    forbidden, seen, expected = 0, {}, {}
    for index, step, weight in json.loads(record.read_text()):
        start, episode = owner[np.searchsorted(owner[:, 0], index, side="right") - 1]
        window = min(max(index - start - (n_obs_steps - 1), 0), last[episode])
        name, sigma_min = by_window[episode, window]
        usable = levels > sigma_min if sigma_min is not None else np.zeros(levels.shape, bool)
        assert abs(weight - usable.mean()) < 1e-6
        if weight > 0:
            forbidden += not usable[step]
            seen.setdefault(name, np.zeros(levels.shape))[step] += 1
            law = usable / usable.sum()
            expected[name] = expected.get(name, 0.0) + law
    for name, count in seen.items():
        law = expected[name]
        missed = int(((law > 0) & (count == 0)).sum())
        some = law >= 5
        chance = chi2.sf(((count - law)[some] ** 2 / law[some]).sum(), some.sum() - 1)
        say(
            f"{name}: {count.sum():.0f} draws, {(law > 0).sum()} steps admitted for some frame, "
            f"{missed} of them not drawn (expected together {law[count == 0].sum():.1f} times), "
            f"chi-square of the others p = {chance:.2f}"
        )
    say(f"forbidden: {forbidden}")
    assert forbidden == 0


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")


def main() -> None:
    """Make the data, annotate, export, train, judge."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--command", default="ambient-curate")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    root = make_data(given.data, given.out)
    run = annotate(given.out, given.command)
    scale = ("--normalizer", str(root / "meta/stats.json"))
    files = export(run, given.command, "lerobot", *scale)
    train(root, files, given.out / "draws.json")
    judge(run, given.out / "draws.json")


if __name__ == "__main__":
    main()
