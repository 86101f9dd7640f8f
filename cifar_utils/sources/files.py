"""Files that are whole and right: verified, written in one piece, resumed."""

import hashlib
import os
import sys
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = (5, 20)  # seconds to connect, seconds without a byte


def md5(path: str | Path) -> str:
    """Hex MD5 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def no_bar() -> bool:
    """Whether a progress bar would only fill a file: stderr is no terminal and no notebook's."""
    of_a_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return sys.stderr is None or not (of_a_notebook or sys.stderr.isatty())


def safe_name(text: str) -> str:
    """Text that may come from anywhere, as part of a file's name that every system takes.

    Whatever could end a folder's name, move a cursor or mean something to a shell on Windows is an
    underscore, and 150 bytes are kept. Two texts may get the same name.
    """
    letters = [letter if _is_safe(letter) else "_" for letter in text]
    name = "".join(letters).encode()[:150].decode(errors="ignore")
    return name if name.strip(". ") else name.replace(".", "_").replace(" ", "_") or "_"


def _is_safe(letter: str) -> bool:
    if not letter.isprintable() or letter in '/\\:*?"<>|':
        return False
    try:
        os.fsencode(letter)
    except UnicodeEncodeError:  # on a system whose file names are in ASCII
        return False
    return True


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


def download(target: Path, urls: Iterable[str], digest: str) -> None:
    """Download to `target` from the first of `urls` that delivers bytes with MD5 `digest`.

    A broken transfer is resumed, even by a later call and from another mirror, because all copies
    are the same to the byte. Wrong bytes are thrown away and fetched afresh, once per mirror. If
    several processes call it, one downloads and the others wait.

    Raises:
        ConnectionError: if no mirror delivers; it says what each of them did.
    """
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    with suppress(NotImplementedError, OSError):  # some network drives have no locks
        lock.acquire()
    try:
        if not target.is_file() or md5(target) != digest:
            _download(target, urls, digest)
    finally:
        lock.release()


def _download(target: Path, urls: Iterable[str], digest: str) -> None:
    import requests

    part = target.with_name(target.name + ".part")
    problems = []
    for url in urls:
        host = urlsplit(url).netloc
        for _ in range(2):
            before = _size(part)
            try:
                _transfer(url, part)
            except requests.RequestException as error:
                if _size(part) > before:
                    problems.append(f"{host}: broken off")
                    continue
                status = getattr(error.response, "status_code", "no answer")
                problems.append(f"{host}: {status}")
                break  # trying again at once would not help
            if md5(part) == digest:
                part.replace(target)
                return
            part.unlink(missing_ok=True)
            problems.append(f"{host}: wrong MD5")
    raise ConnectionError(f"no mirror delivered {target.name} ({'; '.join(problems)})")


def _transfer(url: str, part: Path) -> None:
    """Append to `part` what it lacks of the file at `url`; start over if the server cannot."""
    import requests
    from tqdm import tqdm

    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as reply:
        if reply.status_code == 416:  # nothing beyond what we have: its MD5 will tell
            return
        reply.raise_for_status()
        if not reply.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0
        length = reply.headers.get("Content-Length", "")
        size = (int(length) if length.isdecimal() else 0) + have
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=part.stem) as progress,
        ):
            for chunk in reply.iter_content(1 << 16):
                file.write(chunk)
                progress.update(len(chunk))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
