"""Files that we write and read again: a digest seals what they hold, and one door reads them.

A digest finds accidents: a flipped bit, a file cut short, a line edited by hand. It does not
protect against intent, because whoever can write a file can also write its digest. Files of earlier
versions have none; they are read, and only their form is checked.
"""

import hashlib
import json
import math
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_origin

from cifar_utils.errors import CifarError
from cifar_utils.sources.files import unreadable, write_whole

PACKAGE = Path(__file__).parent.parent
PIECE = 1 << 23  # bytes of a tensor that are hashed at once; another number gives other digests
LARGE = 1 << 30  # bytes that a small compressed file may hold

Row = TypeVar("Row")


def digest(content: Any) -> str:
    """Hex BLAKE2b of plain values, tensors and NumPy arrays, in dicts, lists and tuples.

    Equal contents have equal digests, whatever kind of file they come from: the order of a dict
    does not count, nor whether a list is a tuple, a tensor an array, or how either lies in memory.
    Types count: 1, 1.0 and True differ, and so do dtypes and shapes. Raises TypeError for anything
    else.
    """
    if content is None or isinstance(content, bool):
        return _hash(str(content))
    if isinstance(content, int):
        return _hash("int", int.__repr__(content))
    if isinstance(content, float):
        return _hash("float", float.hex(content))
    if isinstance(content, str):
        return _hash("str", content)
    if isinstance(content, dict):
        pairs = [digest(key) + digest(value) for key, value in content.items()]
        return _hash("dict", *sorted(pairs))
    if isinstance(content, (list, tuple)):
        return _hash("list", *map(digest, content))
    return _digest_of_array(content)


def _hash(*parts: str) -> str:
    text = "\n".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _digest_of_array(content: Any) -> str:
    import numpy as np
    import torch

    if torch.is_tensor(content):
        kind = str(content.dtype).removeprefix("torch.")
        content = content.detach().cpu()
        # NumPy knows no bfloat16.
        array = content.view(torch.int16) if content.dtype == torch.bfloat16 else content
        array = array.numpy()
    elif isinstance(content, (np.ndarray, np.generic)):
        if content.dtype.kind == "U":
            return digest(content.tolist())
        kind, array = content.dtype.name, np.asarray(content)
    else:
        raise TypeError(f"{type(content).__name__} has no digest")
    if array.dtype.hasobject:
        raise TypeError("Python objects have no digest")
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    values = array.view(np.uint8).reshape(-1) if array.size else b""
    pieces = [values[start : start + PIECE] for start in range(0, len(values), PIECE)]
    if len(pieces) > 1:  # hashlib lets other threads run meanwhile
        with ThreadPoolExecutor(4) as pool:
            hashes = list(pool.map(_hash_of_bytes, pieces))
    else:
        hashes = [_hash_of_bytes(piece) for piece in pieces]
    return _hash(f"array {kind} {list(content.shape)}", *hashes)


def _hash_of_bytes(piece: Any) -> str:
    return hashlib.blake2b(piece, digest_size=16).hexdigest()


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """The dict with one more entry before the others: "digest", which is theirs."""
    return {"digest": digest(content)} | content


def unseal(content: dict[str, Any]) -> dict[str, Any]:
    """What was sealed, without its digest; as it is, if it has none, as in older files.

    Raises CifarError if the content is not what was sealed.
    """
    rest = {name: value for name, value in content.items() if name != "digest"}
    if "digest" in content and str(content["digest"]) != digest(rest):
        raise CifarError("it has changed since it was written (its digest differs)")
    return rest


# --- the door -------------------------------------------------------------------------------------


@contextmanager
def reading(path: str | Path, what: str, remedy: str, *, ours: bool = True) -> Iterator[None]:
    """Around the lines that read a file and check what it holds: whatever is wrong is one line.

    That line is "PATH: what is wrong; what to do". Refused before it is opened: what is missing,
    empty, a folder or a device, may not be read, or unpacks to far more than its size.

    Args:
        what: the kind of file, such as "checkpoint".
        remedy: what to do about a bad one. For a file of the package that is to reinstall it,
            unless `ours` is False.

    Raises:
        CifarError: for all of these, for a CifarError inside, and for any other exception, because
            damaged files make parsers raise all kinds.
    """
    path = Path(path)
    if ours and PACKAGE in path.parents:
        remedy = "reinstall cifar_utils"
    try:
        _check_file(path, what)
        with warnings.catch_warnings(action="ignore"):  # parsers warn of what is refused anyway
            yield
    except CifarError as error:
        todo = "" if ";" in str(error) else f"; {remedy}"  # it may name a better remedy itself
        raise CifarError(f"{path}: {error}{todo}") from None
    except Exception:
        raise CifarError(f"{path}: it is damaged, or not a {what}; {remedy}") from None


def _check_file(path: Path, what: str) -> None:
    if reason := unreadable(path, what):
        raise CifarError(reason)
    size = path.stat().st_size
    if not size:
        raise CifarError("it is empty")
    with path.open("rb") as file:
        begins = file.read(4)  # is_zipfile asks how a file ends, and numbers may end in any way
    if begins == b"PK\x03\x04":  # torch.save and NumPy write zip files
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(part.file_size for part in packed.infolist())
        if unpacked > max(LARGE, 20 * size):
            raise CifarError(f"it would unpack to {unpacked / 1e9:,.0f} GB, so it is not a {what}")


# --- forms ----------------------------------------------------------------------------------------


def built(kind: type[Row], values: dict[str, Any]) -> Row:
    """The dataclass `kind` with these values, if each is what its field's type says.

    Numbers must be finite. Only losses may be negative, and no accuracy is above 1. Raises
    CifarError that names the field, also for one that `kind` does not have.
    """
    names = [known.name for known in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise CifarError(f"unknown field {name!r:.60}; a newer cifar_utils may know it")
    row = kind(**values)
    for known in fields(row):  # type: ignore[arg-type]
        value = getattr(row, known.name)
        wanted: Any = tuple if get_origin(known.type) is tuple else known.type
        if wanted in (float, float | None):
            wanted = wanted | int  # JSON may hold 1 for 1.0
        fits = isinstance(value, wanted) and not isinstance(value, bool)
        if fits and isinstance(value, (int, float)):
            fits = math.isfinite(value) and (value >= 0 or known.name.endswith("loss"))
            fits = fits and (value <= 1 or not known.name.endswith("accuracy"))
        if not fits:
            raise CifarError(f"{known.name} cannot be {value!r:.60}")
    return row


def check_finite(content: Any, name: str) -> None:
    """Raise CifarError if a number in tensors and plain values is infinite or not a number."""
    import torch

    if isinstance(content, dict):
        for key, value in content.items():
            check_finite(value, f"{name} {key}")
    elif isinstance(content, (list, tuple)):
        for value in content:
            check_finite(value, name)
    elif torch.is_tensor(content):
        if content.is_floating_point() and not content.isfinite().all():
            raise CifarError(f"{name} holds numbers that are not finite")
    elif isinstance(content, float) and not math.isfinite(content):
        raise CifarError(f"{name} cannot be {content}")


# --- JSON and arrays ------------------------------------------------------------------------------


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write a dict of plain values, sealed, whole or not at all."""
    plain = json.loads(json.dumps(content, allow_nan=False))  # as it will be read
    text = json.dumps(seal(plain), indent=1)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: str | Path) -> dict[str, Any]:
    """The dict in a JSON file, for use inside `reading`.

    Raises CifarError if it is not what `write_json` wrote, and a ValueError for other text.
    """
    return parsed(Path(path).read_text(encoding="utf-8"))


def parsed(text: str) -> dict[str, Any]:
    """The dict that a text holds as JSON; raises as `read_json` does."""
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    try:
        return unseal(content)
    except CifarError:
        raise CifarError(
            'it has changed since it was written (if you edited it, delete its line "digest")'
        ) from None


def save_arrays(path: str | Path, **arrays: Any) -> None:
    """Write NumPy arrays, sealed, as one compressed .npz, in one piece."""
    import numpy as np

    def write(temporary):
        with temporary.open("wb") as file:  # given a path, np.savez would add a suffix
            np.savez_compressed(file, **seal(arrays))

    write_whole(path, write)


def load_arrays(path: str | Path) -> dict[str, Any]:
    """The arrays by name in an .npz, for use inside `reading`; raises as `read_json` does."""
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return unseal(dict(file))
