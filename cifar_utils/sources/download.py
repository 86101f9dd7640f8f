"""Downloads that end: from several mirrors, resumed where they broke off, verified."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cifar_utils.sources.files import check_file, digest_of

TIMEOUT = (5, 20)  # seconds to connect, seconds without a byte
PATIENCE = 60  # seconds to begin a reply, and after which its speed is looked at
SLOWEST = 10_000  # bytes per second that a mirror must deliver on average
CHUNK = 1 << 16


class MirrorError(Exception):
    """Why a mirror is given up for the next one, in a few words."""


def download(
    target: Path, urls: Iterable[str], digest: str, *, size: int, algorithm: str = "md5"
) -> None:
    """Download to `target` from the first of `urls` that delivers the file with that digest.

    A broken transfer is resumed, even by a later call and from another mirror, because all copies
    are the same to the byte. Wrong bytes are thrown away and fetched afresh, once per mirror. A
    mirror is left if it does not connect within 5 seconds, sends nothing for 20, has not begun its
    reply after 60, delivers less than 10,000 bytes per second over 60 seconds, or sends more than
    `size` bytes. If several processes call it, one downloads and the others wait. digest: hex
    digits of that algorithm, all of them or the first ones.

    Raises:
        ConnectionError: if no mirror delivers; it says what each of them did.
        CifarError: if `target` is there and is not a file.
        OSError: if it cannot be written. What has arrived is kept, and a later call goes on.
    """
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    with suppress(NotImplementedError, OSError):  # some network drives have no locks
        lock.acquire()
    try:
        if target.exists():
            check_file(target)
        if not target.exists() or not digest_of(target, algorithm).startswith(digest):
            _download(target, urls, digest, size, algorithm)
    finally:
        lock.release()


def _download(target: Path, urls: Iterable[str], digest: str, size: int, algorithm: str) -> None:
    part = target.with_name(target.name + ".part")
    if part.exists():
        check_file(part)
    problems = []
    for url in urls:
        host = urlsplit(url).netloc
        for _ in range(2):
            before = _size(part)
            try:
                _transfer(url, part, size)
            except MirrorError as problem:
                if _size(part) > size:
                    part.unlink()
                problems.append(f"{host}: {problem}")
                if _size(part) <= before:
                    break  # trying again at once would not help
                continue
            if digest_of(part, algorithm).startswith(digest):
                part.replace(target)
                return
            part.unlink(missing_ok=True)
            problems.append(f"{host}: wrong {algorithm.upper()}")
    raise ConnectionError(f"no mirror delivered {target.name} ({'; '.join(problems)})")


def _transfer(url: str, part: Path, size: int) -> None:
    """Append to `part` what it lacks of the file at `url`; start over if the server cannot.

    Another thread talks to the server, because no time-out of a socket ends a reply that drips.
    """
    from tqdm import tqdm

    have = _size(part)
    arriving: queue.SimpleQueue = queue.SimpleQueue()
    left = threading.Event()
    threading.Thread(target=_request, args=(url, have, arriving, left), daemon=True).start()
    try:
        reply = _next(arriving, failed="no answer")
        if reply.status_code == 416 and have:  # nothing beyond that: its MD5 will tell
            return
        if reply.status_code >= 400:
            raise MirrorError(str(reply.status_code))
        if not reply.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=part.stem) as progress,
        ):
            for chunk in _chunks(arriving):
                file.write(chunk)
                progress.update(len(chunk))
                have += len(chunk)
                if have > size:
                    raise MirrorError("more bytes than the file has")
    except OSError as error:  # a full disk does not say which file
        raise OSError(error.errno, error.strerror, str(part)) from None
    finally:
        left.set()


def _request(url: str, have: int, arriving: queue.SimpleQueue, left: threading.Event) -> None:
    """Put the server's reply, then its bytes, then b"" into `arriving`; or what was raised."""
    import requests

    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as reply:
            arriving.put(reply)
            # Nothing is decompressed: some servers call a .gz compressed, and some send a bomb.
            for chunk in reply.raw.stream(CHUNK, decode_content=False):
                if left.is_set():
                    return
                arriving.put(chunk)
        arriving.put(b"")
    except Exception as error:  # of many kinds, whatever the server has sent
        arriving.put(error)


def _chunks(arriving: queue.SimpleQueue) -> Iterator[bytes]:
    """The bytes of a reply as they come. Raises MirrorError if they stop, or come too slowly."""
    start, received = time.monotonic(), 0
    while chunk := _next(arriving, failed="broken off", late="too slow"):
        yield chunk
        received += len(chunk)
        passed = time.monotonic() - start
        if passed > PATIENCE:
            if received < SLOWEST * passed:
                raise MirrorError("too slow")
            start, received = time.monotonic(), 0


def _next(arriving: queue.SimpleQueue, *, failed: str, late: str = "no answer") -> Any:
    """What the other thread puts next. Raises MirrorError if that is an error or takes too long."""
    try:
        item = arriving.get(timeout=PATIENCE)
    except queue.Empty:
        raise MirrorError(late) from None
    if isinstance(item, Exception):
        raise MirrorError(failed) from item
    return item


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
