"""Files that are whole and right: verified, and written in one piece."""

import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

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


def unreadable(path: Path, what: str = "file") -> str:
    """Why `path` is not a file that can be read, or a link to one; an empty string if it is.

    Ask before you open a file that anybody may have put there: opening a named pipe waits for ever.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return f"it is a folder, not a {what}"
        if not stat.S_ISREG(mode):
            return f"it is a pipe or a device, not a {what}"
        path.open("rb").close()
    except FileNotFoundError:
        return f"there is no such {what}"
    except (OSError, ValueError) as error:  # a ValueError if there is a zero in its name
        return f"it cannot be read ({getattr(error, 'strerror', None) or error})"
    return ""


def check_file(path: Path) -> None:
    """Raise CifarError, with the reason, if the file is `unreadable`."""
    if reason := unreadable(path):
        raise CifarError(f"{path}: {reason}")


def digest_of(path: str | Path, algorithm: str = "md5") -> str:
    """The digest of a file's bytes, in hex digits."""
    new = partial(hashlib.new, algorithm, usedforsecurity=False)
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, new).hexdigest()


def no_bar() -> bool:
    """Whether a bar would only fill a file: stderr is neither a terminal nor a notebook's."""
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

    Missing parent folders are made. If it fails, `path` stays as it was, and nothing else is left.

    Raises:
        OSError: in one line that names `path`, whatever kind the library that writes has raised.
    """
    from safetensors import SafetensorError

    path = expanded(path)
    if path.exists() and not path.is_file():  # the rename would replace even /dev/null
        raise OSError(f"{path} is not an ordinary file; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    # No process id: on a drive that machines share, two of them may have the same one.
    temporary = path.with_name(f".cifar-{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with suppress(OSError):  # some drives have no permissions
            temporary.chmod(0o644)  # safetensors lets nobody else read its files
        temporary.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch raises a RuntimeError
        raise failed_write(path, error) from error
    finally:
        with suppress(OSError):  # a drive that has gone away says so above
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, *, older_than: float = 3600) -> None:
    """Delete the temporary files of `write_whole` that killed processes have left in `folder`.

    older_than: seconds since they were last written to. An hour spares those of a process that
    writes at this moment, perhaps on another machine.
    """
    for leftover in folder.glob(".cifar-*.tmp"):
        with suppress(OSError):  # another process may be deleting it, too
            if time.time() - leftover.stat().st_mtime >= older_than:
                leftover.unlink()


def failed_write(path: Path, error: Exception) -> OSError:
    """An error in one line: which file could not be written, and why, whatever library says so."""
    in_words = re.search(r"\(os error (\d+)\)", str(error))  # safetensors, which is in Rust
    number = getattr(error, "errno", None) or (int(in_words[1]) if in_words else None)
    with suppress(OSError):  # torch and Pillow do not say
        if number is None and shutil.disk_usage(path.parent).free < 1 << 16:
            number = errno.ENOSPC
    why = os.strerror(number) if number else (str(error).splitlines() or [type(error).__name__])[0]
    remedy = "; free some space" if number == errno.ENOSPC else ""
    failure = OSError(f"{path} cannot be written: {why}{remedy}")
    failure.errno = number
    return failure
