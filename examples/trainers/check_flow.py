"""Trains LeRobot's SmolVLA, a flow, on an export, and looks at every time that its network saw.

``python check_flow.py --data SO101 --out DIR [--command ambient-curate]``, in the environment of
LeRobot that `environments.sh` makes; SO101 is a LeRobot v3.0 dataset without gaps. Half of the
episodes are made to tremble; `ambient-curate` tells by how much noise that is hidden. SmolVLA is
LeRobot's own, its language model tiny and random; its loss takes the times as an argument, so that
nothing of it is changed. Of 10,000 pairs of a frame and the time at which the network saw it

* none may be at a time that the manifest forbids;
* each tenth of a window's own law over the times it is admitted at must occur, as often as chance
  says, for clean windows and for corrupt ones of low, middle and high sigma_min alike.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from answers import Answers, compare, say
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import dataset_to_policy_features
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from tiny_vlm import IMAGE, write_tiny_vlm
from tremor import annotate, export, make_data

from ambient_curate.integrations import FrameAnnotations, sample_time

DRAWS, BATCH, TENTHS = 10_000, 50, 10
EXPONENT, FLOOR = 1.5, 0.001  # of VLAFlowMatching.sample_time
CAMERA = "observation.images.none"


def build(data: LeRobotDataset, vlm: Path, horizon: int) -> tuple[SmolVLAPolicy, object]:
    """Build SmolVLA and what prepares its batches."""
    features = dataset_to_policy_features(data.meta.features)
    state = {"observation.state": features["observation.state"]}
    config = SmolVLAConfig(
        input_features=state | {CAMERA: PolicyFeature(FeatureType.VISUAL, (3, IMAGE, IMAGE))},
        output_features={"action": features["action"]},
        vlm_model_name=str(vlm),
        num_vlm_layers=2,
        chunk_size=horizon,
        n_action_steps=horizon,
        resize_imgs_with_padding=None,
        device="cpu",
        push_to_hub=False,
    )
    # as the run scaled them; a mean and deviation would need another --normalizer
    config.normalization_mapping["ACTION"] = NormalizationMode.MIN_MAX
    before, _ = make_pre_post_processors(config, dataset_stats=data.meta.stats)
    return SmolVLAPolicy(config), before


def train(root: Path, files: Path, vlm: Path, horizon: int) -> list[tuple[int, float, float]]:
    """Train; give the global index, time and weight of every row."""
    torch.manual_seed(0)  # noqa: TID251  (SmolVLA draws from the global state)
    policy, before = build(LeRobotDataset("local/tremor", root=root), vlm, horizon)
    annotations = FrameAnnotations(*sorted(files.glob("*/ambient.parquet")))
    rate = LeRobotDataset("local/tremor", root=root).meta.fps
    data = LeRobotDataset(
        "local/tremor", root=root, delta_timestamps={"action": [n / rate for n in range(horizon)]}
    )
    seen: list[torch.Tensor] = []
    embed = policy.model.embed_suffix

    def embed_and_record(noisy_actions, timestep):
        seen.append(timestep)
        return embed(noisy_actions, timestep)

    policy.model.embed_suffix = embed_and_record
    order = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, generator=order)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    drawn, losses = [], []
    while len(drawn) < DRAWS:
        for batch in loader:
            batch[CAMERA] = torch.zeros(len(batch["index"]), 3, IMAGE, IMAGE)
            batch = before(batch)
            low, high, _ = annotations.of(batch["index"])
            draw = sample_time(low, high, "flow", exponent=EXPONENT, floor=FLOOR)
            each, _ = policy.forward(batch, time=draw.time, reduction="none")
            loss = (each * draw.weight).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            given = (batch["index"], seen.pop(), draw.weight)
            drawn.extend(zip(*(each.tolist() for each in given), strict=True))
            if len(drawn) >= DRAWS:
                break
    first, last = np.mean(losses[:20]), np.mean(losses[-20:])
    say(f"{len(losses)} steps of training, loss {first:.3f} -> {last:.3f}")
    return drawn


def share_below(time: np.ndarray | float) -> np.ndarray:
    """Share of SmolVLA's own times that lie below one."""
    return np.clip((np.asarray(time) - FLOOR) / (1 - FLOOR), 0, 1) ** EXPONENT


def judge(answers: Answers, drawn: list[tuple[int, float, float]]) -> None:
    """Compare the draws with the manifest itself, not with the export."""
    found = [answers.find(index) for index, _, _ in drawn]
    name = np.array([dataset for dataset, _, _ in found])
    sigma_min = np.array([answers.of(*where) for where in found])
    time, weight = np.array([(t, w) for _, t, w in drawn]).T
    bound = sigma_min / (sigma_min + np.sqrt(1 - sigma_min**2))
    share = 1 - share_below(bound)
    assert np.abs(weight - share).max() < 1e-5
    usable = sigma_min < 1
    forbidden = int((time <= bound - 1e-6)[usable].sum())
    own = share_below(bound)[usable].sum()
    say(f"forbidden: {forbidden}; SmolVLA's own times would have been {own:.0f} times")
    place = (share_below(time) - share_below(bound)) / np.where(usable, share, 1)
    tenth = np.clip((place * TENTHS).astype(int), 0, TENTHS - 1)
    for label, rows in sorted(classes(name, sigma_min).items()):
        count = np.bincount(tenth[rows & usable], minlength=TENTHS)
        compare(label, count, np.full(TENTHS, count.sum() / TENTHS))
    assert forbidden == 0 and own > 100


def classes(name: np.ndarray, sigma_min: np.ndarray) -> dict[str, np.ndarray]:
    """Split the rows by dataset, and each by thirds of sigma_min where it has several."""
    found = {}
    for dataset in sorted(set(name.tolist())):
        rows = name == dataset
        edges = np.unique(np.quantile(sigma_min[rows], [0, 1 / 3, 2 / 3, 1]))
        for low, high in pairwise(edges) if len(edges) > 1 else [(edges[0], 2.0)]:
            inside = (sigma_min >= low) & ((sigma_min < high) | (high == edges[-1]))
            text = f"{low:.3f}" if len(edges) == 1 else f"{low:.3f} to {high:.3f}"
            found[f"{dataset}, sigma_min {text}"] = rows & inside
    return found


def main() -> None:
    """Make the data, annotate, export, train, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a LeRobot v3.0 dataset")
    parser.add_argument("--out", type=Path, required=True, help="a directory to make")
    parser.add_argument("--command", default="ambient-curate", help="the program, if not on PATH")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    root = make_data(given.data, given.out)
    run = annotate(given.out, given.command)
    words = ("--schedule", "flow", "--n-obs-steps", "1")
    scale = ("--normalizer", str(root / "meta/stats.json"))
    files = export(run, given.command, "lerobot", *words, *scale)
    answers = Answers(run)
    vlm = write_tiny_vlm(given.out / "vlm")
    drawn = train(root, files, vlm, answers.options["horizon"])
    (given.out / "draws.json").write_text(json.dumps(drawn))
    judge(answers, drawn)


if __name__ == "__main__":
    main()
