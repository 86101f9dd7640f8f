"""Files that are whole and right: verified, and written in one piece."""

import hashlib
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any


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
