"""Settings: the parser of ``ambient.toml``, and where the datasets of a collection lie."""

import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ambient_curate import readers
from ambient_curate.data.selection import MemberOptions
from ambient_curate.errors import ConfigError, DatasetError, name_some
from ambient_curate.option_fields import check_values, raise_problems, spell_keys
from ambient_curate.options import FILE_OPTIONS, check_given
from ambient_curate.readers import hdf5, lerobot, minari, plain_arrays, rlds, zarr

SETTINGS_FILE = "ambient.toml"
_OUTPUTS = ("run.json", "policy.json", "export.json", ".work/options.json")
_DOCUMENTS = (  # suffixes of what stands beside data and holds none
    *("", ".md", ".txt", ".rst", ".pdf", ".html", ".toml", ".yaml", ".yml", ".json", ".py", ".sh"),
    *(".ipynb", ".log", ".png", ".jpg", ".jpeg", ".gif", ".svg"),
)
_REVISION = re.compile(r"/snapshots/[0-9a-f]+$")  # of a dataset in the cache of Hugging Face's hub


@dataclass(frozen=True)
class CollectionSettings:
    """The content of one ``ambient.toml``.

    Parameters
    ----------
    options : dict
        Values of `AnnotateOptions` given in the file (``tv`` and ``delta`` as ``epsilon``).
    members : dict of str to MemberOptions
        The tables ``[datasets.NAME]``, by name.
    """

    options: dict[str, Any] = field(default_factory=dict)
    members: dict[str, MemberOptions] = field(default_factory=dict)


def read_collection_file(path: Path) -> CollectionSettings:
    """Read and check an ``ambient.toml``.

    Raises
    ------
    ConfigError
        If the file cannot be read or is no TOML; or listing every wrong line by its key path.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not TOML
        raise ConfigError(f"{path} cannot be read as TOML: {error}", "correct the file") from error
    tables = content.pop("datasets", {})
    options, problems = check_given(content, FILE_OPTIONS)
    if not isinstance(tables, dict):
        problems.append(f"datasets = {tables!r}: expected tables [datasets.NAME]")
        tables = {}
    members = {}
    for name, table in tables.items():
        members[name], wrong = _read_table(f"datasets.{name}", table)
        problems += wrong
    raise_problems(problems, prefix=f"{path}: ")
    return CollectionSettings(
        options, {name: MemberOptions(**values) for name, values in members.items()}
    )


def _read_table(key: str, table: Any) -> tuple[dict[str, Any], list[str]]:
    if not isinstance(table, dict):
        return {}, [f"{key} = {table!r}: expected a table [{key}]"]
    known = MemberOptions.declared
    values, problems = spell_keys(table, (*known, "resample_hz"))
    if "resample_hz" in values:
        del values["resample_hz"]
        problems.append("resample_hz is not supported yet: resample the dataset itself")
    values, wrong = check_values(values, known)
    problems += wrong
    if isinstance(values.get("rate_hz"), int):  # 20 and 20.0 are one rate, but two digests
        values["rate_hz"] = float(values["rate_hz"])
    return values, [f"{key}.{problem}" for problem in problems]


@dataclass(frozen=True)
class Sources:
    """What `find_sources` finds.

    Parameters
    ----------
    settings : CollectionSettings
        The content of ``ambient.toml``; empty without one.
    members : dict of str to (Path, MemberOptions)
        Path and options of every member, by name.
    clean : str or None
        What the user calls the clean set; not checked to be a member.
    clean_elsewhere : bool
        Whether it is a member only since it is named: the collection lies elsewhere.
    unread : tuple of Path
        Directories and files that lie there and belong to no member.
    """

    settings: CollectionSettings
    members: dict[str, tuple[Path, MemberOptions]]
    clean: str | None
    clean_elsewhere: bool = False
    unread: tuple[Path, ...] = ()

    def describe_unread(self, path: Path) -> list[str]:
        """Say in a sentence what in the collection at `path` is not read; none if all is."""
        names = [each.relative_to(path).as_posix() + "/" * each.is_dir() for each in self.unread]
        return [f"not read, since in no dataset: {name_some(names)}"] if names else []


def find_sources(path: Path, clean: str | None = None) -> Sources:
    """Find the members of the collection at `path`, at most `readers.DEPTH` directories down.

    A directory of array or HDF5 files is one dataset, whose files hold its episodes; it is a
    collection of one member a file where the files' dimensions or formats differ, where datasets
    lie in directories beside them, or where one file is called ``clean`` or is named by
    ``ambient.toml`` or `clean`. A directory of directories with an episode each is one dataset
    too. A dataset further down is called by its path, such as ``user/name``. What this program
    wrote is no dataset.

    Parameters
    ----------
    path : Path
        Directory of datasets, or one dataset; ``ambient.toml`` is read from the directory, or
        from beside a single dataset.
    clean : str or None
        Name of the clean member, or path of a dataset elsewhere that becomes a member. None: what
        ``ambient.toml`` says, else the member named ``clean``, else none.

    Raises
    ------
    DatasetError
        If there is no dataset at `path`.
    ConfigError
        If ``ambient.toml`` is wrong.
    """
    readers.check_readable(path)
    folder, settings = _find_settings(path)
    named = _named_clean(clean, folder, settings)
    members, unread = _find_members(path, folder, settings, named)
    inside = set(members)
    name = _place_clean(members, named)
    return Sources(settings, members, name, name in members.keys() - inside, unread)


def dataset_name(path: Path) -> str:
    """Return the name of a dataset or collection: its directory's, or its file's stem.

    ``clean.zarr`` and ``clean.zarr.zip`` are both called clean.
    """
    name = path.stem if path.is_file() else Path(os.path.abspath(path)).name
    return name.removesuffix(".zarr") or name


def _real(path: Path) -> Path:
    """Follow all links; unlike `Path.resolve`, keep a loop of them and an impossible name."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a NUL in the name
        return path


def _find_settings(path: Path) -> tuple[Path, CollectionSettings]:
    """Read the ``ambient.toml`` in the directory, or what the one beside a dataset says of it."""
    if (path / SETTINGS_FILE).is_file():
        return path, read_collection_file(path / SETTINGS_FILE)
    beside = _real(path).parent
    if not _is_dataset(path) or not (beside / SETTINGS_FILE).is_file():
        return (beside if path.is_file() else path), CollectionSettings()
    settings = read_collection_file(beside / SETTINGS_FILE)
    own = {
        name: options
        for name, options in settings.members.items()
        if (
            name == dataset_name(path)
            if options.path is None
            else _real(beside / options.path) == _real(path)
        )
    }
    options = dict(settings.options)
    if options.get("clean") not in (*own, dataset_name(path)):
        options.pop("clean", None)
    return beside, CollectionSettings(options, own)


def _named_clean(
    clean: str | None, folder: Path, settings: CollectionSettings
) -> tuple[str, Path] | None:
    """Return what the user calls the clean set, as a name and as a path."""
    if clean is not None:
        return clean, _real(Path(os.path.expanduser(clean)))
    listed = settings.options.get("clean")
    return None if listed is None else (listed, _real(folder / listed))


def _find_members(
    path: Path, folder: Path, settings: CollectionSettings, clean: tuple[str, Path] | None
) -> tuple[dict[str, tuple[Path, MemberOptions]], tuple[Path, ...]]:
    """Find path and options of every member, lying in `path` or in the tables; and what is none."""
    if _is_output(path):
        raise DatasetError(
            f"{path} was written by this program and is no data",
            "give the collection that it was made of",
        )
    tables = settings.members
    placed = {
        name: _place_table(folder, name, options.path)
        for name, options in tables.items()
        if options.path
    }
    taken = {_real(target) for target in placed.values()}
    mentioned: set[str | Path] = {"clean", *tables, *taken, *(clean or ())}
    datasets, unread = _search(path, path, mentioned)
    found = {
        name: source
        for name, source in _name_datasets(path, datasets).items()
        if (name in tables and name not in placed) or _real(source) not in taken
    }
    _check_tables(path, tables, found, placed)
    sources = found | placed
    if not sources:
        raise _nothing_found(path)
    members = {name: (sources[name], tables.get(name, MemberOptions())) for name in sources}
    return members, tuple(each for each in unread if _real(each) not in taken)


def _place_table(folder: Path, name: str, text: str) -> Path:
    target = folder / text
    target = _real(target) if ".." in target.parts else target
    if not os.path.exists(target):
        raise ConfigError(
            f"[datasets.{name}] path = {text!r}: {target} does not exist",
            f"correct the path, which is relative to {folder}",
        )
    return _place(target, f"[datasets.{name}] path = {text!r}")


def _place(target: Path, said: str) -> Path:
    """Find the dataset at a path: there, or the only one that lies below it."""
    if not target.is_dir() or _is_dataset(target):
        return target
    datasets, _ = _search(target, target, set())
    if len(datasets) > 1:
        names = list(_name_datasets(target, datasets))
        raise ConfigError(
            f"{said}: {target} holds {len(names)} datasets: {name_some(names)}",
            f"name one of them, such as {datasets[0]}",
        )
    return datasets[0] if datasets else target


def _search(
    root: Path, path: Path, mentioned: Container[str | Path]
) -> tuple[list[Path], list[Path]]:
    """List the datasets at `path` and below in the collection at `root`, and what is in none."""
    depth = len(path.relative_to(root).parts)
    if not readers.is_readable(path):  # a link to nothing: opening it will tell
        return ([path], []) if depth < 2 else ([], [path])
    if path.is_file():
        is_document = path.suffix.lower() in _DOCUMENTS
        return ([path], []) if readers.recognizes(path) else ([], [] if is_document else [path])
    episodes = readers.find_episode_files(path)
    if episodes or readers.recognizes(path):
        parts = [file.parent for file in episodes] or _list_parts(path)
        if not _is_divided(root, path, parts, mentioned):
            return [path], _list_beside(path, parts if episodes else [])
    found, unread, known = list[Path](), list[Path](), path == root
    for child in sorted(path.iterdir()) if depth < readers.DEPTH else []:
        if _is_output(child):
            known = True
        elif not child.name.startswith("."):
            below, rest = _search(root, child, mentioned)
            found += below
            unread += rest
    return (found, unread) if found or known else ([], [path])


def _is_dataset(path: Path) -> bool:
    return readers.recognizes(path) or bool(readers.find_episode_files(path))


def _is_output(path: Path) -> bool:
    """Tell whether this program wrote a directory: a run, a policy or an export, ended or not."""
    for file in (path / name for name in _OUTPUTS):
        try:
            schema = json.loads(file.read_text(encoding="utf-8"))["schema"]
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            continue
        if str(schema).startswith("ambient-curate/"):
            return True
    return False


def _list_parts(path: Path) -> list[Path]:
    """List what in a directory could be a dataset of its own."""
    if _has_own_layout(path):
        return []
    children = [each for each in sorted(path.iterdir()) if not each.name.startswith(".")]
    readable = [each for each in children if readers.is_readable(each)]
    found = [each for each in readable if readers.recognizes(each) and not _is_output(each)]
    return sorted([*found, *(set(children) - set(readable))])


def _is_divided(
    root: Path, path: Path, parts: Sequence[Path], mentioned: Container[str | Path]
) -> bool:
    """Tell whether the parts of a directory are datasets of their own, rather than its episodes."""
    if any(_name(root, each) in mentioned or _real(each) in mentioned for each in parts):
        return True
    if not readers.recognizes(path) or not parts:  # a directory an episode; another layout
        return False
    if any(each.is_dir() for each in parts) or len({hdf5.recognizes(each) for each in parts}) > 1:
        return True
    try:
        return plain_arrays.members(path) != []
    except DatasetError:  # a damaged file: opening the directory as one dataset will tell
        return False


def _has_own_layout(path: Path) -> bool:
    """Tell whether the format says itself which files belong to a dataset."""
    own = lerobot.recognizes(path) or rlds.recognizes(path) or zarr.recognizes(path)
    return own or (path / "data" / minari.FILE).is_file()


def _list_beside(path: Path, episodes: Container[Path]) -> list[Path]:
    """List the directories in a dataset of plain files that hold data and are not read."""
    if _has_own_layout(path):
        return []
    return [
        folder
        for folder in readers.list_folders(path)
        if folder not in episodes and not _is_output(folder)
        if _holds_data(folder, readers.DEPTH)
    ]


def _holds_data(folder: Path, depth: int) -> bool:
    return readers.recognizes(folder) or (
        depth > 0 and any(_holds_data(child, depth - 1) for child in readers.list_folders(folder))
    )


def _name(root: Path, path: Path) -> str:
    """Name a dataset of the collection at `root`: by its path in it, without suffix."""
    if path == root:
        return dataset_name(path)
    name = (path.relative_to(root).parent / dataset_name(path)).as_posix()
    return _REVISION.sub("", name)


def _name_datasets(root: Path, datasets: Sequence[Path]) -> dict[str, Path]:
    shared = Counter(_name(root, each) for each in datasets)
    return {
        name if shared[name := _name(root, each)] == 1 else each.relative_to(root).as_posix(): each
        for each in datasets
    }


def _check_tables(
    path: Path,
    tables: Mapping[str, MemberOptions],
    found: Mapping[str, Path],
    placed: Mapping[str, Path],
) -> None:
    for name in tables:
        if name in found and name in placed:
            raise ConfigError(
                f"two members are called {name}: {found[name]} and {placed[name]}",
                f"give [datasets.{name}] another name",
            )
        if name not in found and name not in placed:
            raise ConfigError(
                f"[datasets.{name}] has no path, and {path} holds no dataset of that name; "
                f"it holds: {', '.join(found) or 'none'}",
                'correct the name, or add a line path = "..."',
            )


def _nothing_found(path: Path) -> DatasetError:
    names = sorted(child.name for child in path.iterdir()) if path.is_dir() else [path.name]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    found = f"found {', '.join(names[:10])}{more}" if names else "it is empty"
    return DatasetError(
        f"{path} holds no dataset of a known format: {found}", f"known formats: {readers.FORMATS}"
    )


def describe_split(path: Path, dataset: Path) -> str:
    """Write tables that make a clean set and a rest of the only dataset of a collection."""
    place = Path(os.path.relpath(dataset, path if path.is_dir() else path.parent)).as_posix()
    return (
        f'[datasets.clean] with path = "{place}" and episodes = ":30" (or where = "..."), and '
        f'[datasets.rest] with path = "{place}" and episodes = "30:"'
    )


def _place_clean(
    members: dict[str, tuple[Path, MemberOptions]], clean: tuple[str, Path] | None
) -> str | None:
    """Return the name of the clean set; a dataset elsewhere is added to the members."""
    if clean is None:
        return "clean" if "clean" in members else None
    name, path = clean
    if name in members or not os.path.exists(path):
        return name
    same = [name for name, (source, _) in members.items() if _real(source) == path]
    if same:
        return same[0] if len(same) == 1 else name
    new = "clean" if dataset_name(path) in members else dataset_name(path)
    if new in members:
        raise ConfigError(
            f"the clean set {path} would be called {new}, as a member already is",
            f"name it in {SETTINGS_FILE}: [datasets.NAME] path = {str(path)!r}",
        )
    members[new] = (_place(path, f"clean = {name!r}"), MemberOptions())
    return new
