"""Settings: the parser of ``ambient.toml``, and where the datasets of a collection lie."""

import os
import tomllib
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ambient_curate import readers
from ambient_curate.data.selection import MemberOptions
from ambient_curate.errors import ConfigError, DatasetError
from ambient_curate.option_fields import check_values, raise_problems, spell_keys
from ambient_curate.options import FILE_OPTIONS, check_given
from ambient_curate.readers import hdf5, lerobot, minari, plain_arrays, rlds

SETTINGS_FILE = "ambient.toml"


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
    """

    settings: CollectionSettings
    members: dict[str, tuple[Path, MemberOptions]]
    clean: str | None
    clean_elsewhere: bool = False


def find_sources(path: Path, clean: str | None = None) -> Sources:
    """Find the members of the collection at `path`, opening none of them.

    A directory of array or HDF5 files is one dataset, whose files hold its episodes; it is a
    collection of one member a file where the files' dimensions or formats differ, where datasets
    lie in directories beside them, or where one file is called ``clean`` or is named by
    ``ambient.toml`` or `clean`.

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
    members = _find_members(path, folder, settings, named)
    inside = set(members)
    name = _place_clean(members, named)
    return Sources(settings, members, name, name in members.keys() - inside)


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
    if not readers.recognizes(path) or not (beside / SETTINGS_FILE).is_file():
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
) -> dict[str, tuple[Path, MemberOptions]]:
    """Find the path and options of every member: those lying in `path`, and those in the tables."""
    tables = settings.members
    placed = {name: folder / options.path for name, options in tables.items() if options.path}
    for name, target in placed.items():
        if not os.path.exists(target):
            raise ConfigError(
                f"[datasets.{name}] path = {tables[name].path!r}: {target} does not exist",
                f"correct the path, which is relative to {folder}",
            )
    taken = {_real(target) for target in placed.values()}
    mentioned: set[str | Path] = {"clean", *tables, *taken, *(clean or ())}
    found = {
        name: source
        for name, source in _find_datasets(path, mentioned).items()
        if (name in tables and name not in placed) or _real(source) not in taken
    }
    _check_tables(path, tables, found, placed)
    sources = found | placed
    if not sources:
        raise _nothing_found(path)
    return {name: (sources[name], tables.get(name, MemberOptions())) for name in sources}


def _find_datasets(path: Path, mentioned: Container[str | Path]) -> dict[str, Path]:
    """Find the datasets in `path` by name: itself, or its children."""
    if path.is_file():
        return {path.stem: path} if readers.recognizes(path) else {}
    children = [child for child in sorted(path.iterdir()) if _is_dataset(child)]
    if readers.recognizes(path) and not _is_divided(path, children, mentioned):
        return {dataset_name(path): path}
    shared = Counter(map(dataset_name, children))
    return {
        dataset_name(child) if shared[dataset_name(child)] == 1 else child.name: child
        for child in children
    }


def _is_dataset(child: Path) -> bool:
    if child.name.startswith("."):
        return False
    if child.name.endswith("_run") and (child / "run.json").is_file():
        return False
    return not readers.is_readable(child) or readers.recognizes(child)


def _is_divided(path: Path, children: list[Path], mentioned: Container[str | Path]) -> bool:
    """Tell whether the files of a directory are members of their own rather than its episodes."""
    if lerobot.recognizes(path) or rlds.recognizes(path):
        return False
    if (path / "data" / minari.FILE).is_file():
        return False
    if (
        any(dataset_name(child) in mentioned or _real(child) in mentioned for child in children)
        or any(child.is_dir() for child in children)
        or len({hdf5.recognizes(child) for child in children}) > 1
    ):
        return True
    try:
        return plain_arrays.members(path) != []
    except DatasetError:  # a damaged file: opening the directory as one dataset will tell
        return False


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
    members[new] = (path, MemberOptions())
    return new
