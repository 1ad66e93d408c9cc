"""Reads exported datasets back by LeRobot itself, and follows a merge by its own aggregation.

``python check_datasets.py --data SO101 --out DIR [--command ambient-curate]``, in an environment of
`environments.sh`. SO101 is cut into two datasets, which are annotated and then put together by
LeRobot's ``aggregate_datasets`` in either order. Every frame of the merged dataset must have, in
the table of ``export --merged``, what the manifest says of the episode with the same actions; and
so must the features that ``LeRobotDataset`` and ``StreamingLeRobotDataset`` hand out.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pyarrow.parquet as pq
from answers import read_arguments, say
from lerobot.datasets.aggregate import aggregate_datasets
from lerobot.datasets.dataset_tools import split_dataset
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.streaming_dataset import StreamingLeRobotDataset
from tremor import export, make_data

FEATURES = ("ambient.sigma_min", "ambient.sigma_max", "ambient.weight")


def split(root: Path, out: Path) -> dict[str, Path]:
    """Cut the dataset into the steady and the trembling half."""
    count = json.loads((root / "meta/info.json").read_text())["total_episodes"]
    half = count // 2
    parts = {"steady": list(range(half)), "trembling": list(range(half, count))}
    split_dataset(LeRobotDataset("local/tremor", root=root), parts, output_dir=out / "set")
    found = {}
    for name in parts:
        (found[name],) = (path for path in (out / "set").iterdir() if path.name.endswith(name))
    return found


def actions_of(root: Path) -> dict[int, bytes]:
    """Give the bytes of the actions of every episode."""
    tables = [pq.read_table(file) for file in sorted(root.glob("data/*/*.parquet"))]
    episode = np.concatenate([table["episode_index"].to_numpy() for table in tables])
    action = np.concatenate([np.stack(table["action"].to_numpy()) for table in tables])
    return {int(each): action[episode == each].tobytes() for each in np.unique(episode)}


def main() -> None:
    """Cut, annotate, merge, export, read back."""
    given = read_arguments(__doc__)
    root = make_data(given.data, given.out)
    shutil.rmtree(given.out / "set")
    parts = split(root, given.out)
    run = given.out / "run"
    words = ("--clean", parts["steady"].name, "--granularity", "episode", "--out", str(run))
    subprocess.run([given.command, "annotate", str(given.out / "set"), *words], check=True)
    rows = pq.read_table(run / "manifest").to_pandas()
    level = {
        (row.dataset, row.episode_index): 1.0 if np.isnan(row.sigma_min) else row.sigma_min
        for row in rows.itertuples()
    }
    known = {
        actions: level[path.name, episode]
        for path in parts.values()
        for episode, actions in actions_of(path).items()
    }
    for order in (["steady", "trembling"], ["trembling", "steady"]):
        merged = given.out / "_".join(order)
        roots = [parts[name] for name in order]
        aggregate_datasets([f"local/{n}" for n in order], "local/merged", roots, merged)
        place = run.with_name(f"export_{merged.name}")
        files = export(
            run,
            given.command,
            "lerobot",
            "--as",
            "features",
            "--merged",
            str(merged),
            name=place.name,
        )
        check(merged, files, known)


def check(merged: Path, files: Path, known: dict[bytes, float]) -> None:
    """Compare table and features with the manifest, by the actions."""
    expected = {episode: known[actions] for episode, actions in actions_of(merged).items()}
    table = pq.read_table(files / "ambient.parquet").to_pandas()
    data = LeRobotDataset("local/merged", root=files / "dataset")
    assert len(table) == len(data)
    wrong = sum(expected[row.episode_index] != row.sigma_min for row in table.itertuples())
    seen = {int(item["index"]): item for item in (data[n] for n in range(0, len(data), 7))}
    stream = StreamingLeRobotDataset("local/merged", root=files / "dataset", shuffle=False)
    streamed = {int(item["index"]): item for item, _ in zip(stream, range(2_000), strict=False)}
    for items in (seen, streamed):
        for item in items.values():
            low = expected[int(item["episode_index"])]
            wrong += not low <= float(item[FEATURES[0]]) <= low + 1e-6
    say(
        f"{merged.name}: {len(table)} rows of {len(expected)} episodes, {len(seen)} items of "
        f"LeRobotDataset, {len(streamed)} streamed: {wrong} differ from the manifest"
    )
    assert wrong == 0


if __name__ == "__main__":
    main()
