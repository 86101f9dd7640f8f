"""Files that are whole and right: verified, and written in one piece."""

import hashlib
import stat
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from cifar_utils.errors import CifarError


def expanded(path: str | Path, remedy: str = "write the path in full") -> Path:
    """The path with the home folder in place of a leading ~.

    Raises CifarError, with the remedy, if that folder is not known: there is no such user, or
    neither $HOME nor an entry for this one.
    """
    if "\0" in str(path):
        raise CifarError(f"{path} holds a NUL character, which no path can")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = Path(path).parts[0]
        raise CifarError(f"the home folder {home} of {path} is not known; {remedy}") from None


def check_file(path: Path) -> None:
    """Raise CifarError unless `path` is a file that can be read, or a link to one.

    Ask before you open a file that anybody may have put there: opening a named pipe waits for ever.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CifarError(f"{path} is a folder, not a file")
        if not stat.S_ISREG(mode):
            raise CifarError(f"{path} is a pipe or a device, not a file")
        path.open("rb").close()
    except FileNotFoundError:
        raise CifarError(f"there is no file {path}") from None
    except OSError as error:
        raise CifarError(f"{path} cannot be read: {error.strerror}") from None


def md5(path: str | Path) -> str:
    """Hex MD5 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path), then rename it to `path`: nobody ever sees half a file.

    Missing parent folders are made. If `write` fails, `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # No process id: on a drive that machines share, two of them may have the same one.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write(temporary)
        with suppress(OSError):  # some drives have no permissions
            temporary.chmod(0o644)  # safetensors lets nobody else read its files
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_arrays(path: str | Path, **arrays: Any) -> None:
    """Write NumPy arrays as one compressed .npz, in one piece."""
    import numpy as np

    def write(temporary):
        with temporary.open("wb") as file:  # given a path, np.savez would add a suffix
            np.savez_compressed(file, **arrays)

    write_whole(path, write)
