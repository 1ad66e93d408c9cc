"""The files of a Zarr hierarchy by their keys, in a directory or in a zip archive."""

import json
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ambient_curate.errors import DatasetError

REPAIR = "the data is damaged or cut short: copy it again from its source"
METADATA = {".zarray": 2, "zarr.json": 3}  # name beside an array's chunks, by zarr format
_LONGEST_METADATA = 1 << 20  # bytes


@dataclass(frozen=True)
class ZarrFiles:
    """The files under one root.

    Parameters
    ----------
    root : Path
        Directory, or zip archive.
    members : mapping of str to ZipInfo, or None
        What the archive holds, by key; None for a directory.
    """

    root: Path
    members: Mapping[str, zipfile.ZipInfo] | None

    def path(self, key: str) -> Path | None:
        """Path of a file; None inside of an archive."""
        return self.root / key if self.members is None else None

    def size(self, key: str) -> int | None:
        """Bytes of a file; None where there is none, a link to nothing, or a device."""
        if self.members is not None:
            return self.members[key].file_size if key in self.members else None
        try:
            status = (self.root / key).stat()
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def arrays(self, group: str) -> list[str]:
        """Names of the arrays that lie directly in a group."""
        if self.members is None:
            try:
                names = [each.name for each in (self.root / group).iterdir()]
            except OSError:
                return []
        else:
            inside = [key for key in self.members if key.startswith(f"{group}/")]
            names = [key[len(group) + 1 :].partition("/")[0] for key in inside]
        return sorted(name for name in set(names) if self.metadata_key(f"{group}/{name}"))

    def metadata_key(self, array: str) -> str | None:
        """Key of an array's metadata; None where there is no such array."""
        keys = [f"{array}/{name}" for name in METADATA]
        return next((key for key in keys if self.size(key) is not None), None)

    def read_metadata(self, key: str) -> dict[str, Any]:
        """Read the JSON object under a key.

        Raises
        ------
        DatasetError
            If it is none, or cannot be read.
        """
        if (self.size(key) or 0) > _LONGEST_METADATA:
            raise DatasetError(
                f"{self.root}: {key} has {self.size(key)} bytes, expected JSON of at most "
                f"{_LONGEST_METADATA}",
                REPAIR,
            )
        try:
            value = json.loads(self._read(key))
        except (OSError, ValueError, RecursionError, *ZIP_ERRORS) as error:
            raise DatasetError(f"{self.root}: {key} cannot be read: {error}", REPAIR) from error
        if not isinstance(value, dict):
            raise DatasetError(
                f"{self.root}: {key} is {value!r:.40}, expected a JSON object", REPAIR
            )
        return value

    def _read(self, key: str) -> bytes:
        if self.members is None:
            return (self.root / key).read_bytes()
        with zipfile.ZipFile(self.root) as archive:
            return archive.read(key)


# RuntimeError and NotImplementedError: an encrypted member, an unknown compression
ZIP_ERRORS = (zipfile.BadZipFile, KeyError, EOFError, RuntimeError)


def find_files(path: Path) -> ZarrFiles:
    """List the files of the directory or archive at `path`; nothing of an archive is extracted.

    Raises
    ------
    DatasetError
        If the archive is damaged, or holds a name that leads out of it.
    """
    if path.is_dir():
        return ZarrFiles(path, None)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, ValueError, *ZIP_ERRORS) as error:
        raise DatasetError(f"{path} cannot be read as a zip archive: {error}", REPAIR) from error
    for info in infos:
        name = PurePosixPath(info.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename:
            raise DatasetError(
                f"{path} holds {info.filename!r:.80}, expected names inside of the archive",
                "do not trust this file: no library for Zarr writes such names",
            )
    return ZarrFiles(path, {info.filename: info for info in infos if not info.is_dir()})
