"""Digests and the one door: equal contents, single changes, and files of every wrong kind."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from cifar_utils.errors import CifarError
from cifar_utils.sources import sealed

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def written(content):
    """What tells two contents apart, in another way: as text. Python's repr tells 1 from 1.0."""
    if isinstance(content, dict):
        return "{" + ",".join(sorted(f"{k!r}:{written(v)}" for k, v in content.items())) + "}"
    if isinstance(content, (list, tuple)):
        return "[" + ",".join(map(written, content)) + "]"
    return repr(content)


@given(plain, plain)
def test_digests_are_equal_if_and_only_if_contents_are(one, other):
    assert (sealed.digest(one) == sealed.digest(other)) == (written(one) == written(other))


@given(plain)
def test_a_digest_survives_json_and_pickle_and_forgets_order_and_tuples(content):
    def turned(part):
        if isinstance(part, dict):
            return {key: turned(part[key]) for key in reversed(part)}
        return tuple(map(turned, part)) if isinstance(part, list) else part

    wanted = sealed.digest(content)
    assert sealed.digest(json.loads(json.dumps(content))) == wanted
    assert sealed.digest(pickle.loads(pickle.dumps(content))) == wanted
    assert sealed.digest(turned(content)) == wanted


DTYPES = ["uint8", "int64", "float16", "float32", "float64", "bool"]


@given(
    st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 99), st.data()
)
def test_a_tensor_has_the_digest_of_its_array_however_it_lies(dtype, shape, seed, data):
    array = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
    tensor = torch.from_numpy(array.copy())
    wanted = sealed.digest(tensor)
    assert sealed.digest(array) == wanted
    assert sealed.digest(np.asfortranarray(array)) == wanted or not array.ndim
    assert sealed.digest(array.astype(array.dtype.newbyteorder(">"))) == wanted
    spread = torch.zeros(*shape, 2, dtype=tensor.dtype)
    spread[..., 1] = tensor
    assert sealed.digest(spread[..., 1]) == wanted
    assert sealed.digest(torch.nn.Parameter(tensor, requires_grad=False)) == wanted
    other = data.draw(st.sampled_from([name for name in DTYPES if name != dtype]))
    assert sealed.digest(array.astype(other)) != wanted
    assert sealed.digest(tensor[None]) != wanted and sealed.digest([array]) != wanted
    assume(array.size)
    changed = array.copy()
    changed.flat[data.draw(st.integers(0, array.size - 1))] += np.ones((), dtype)
    assert (sealed.digest(changed) == wanted) == np.array_equal(changed, array)


def test_every_bit_of_a_large_tensor_counts():
    """It is hashed in pieces: at their borders, too."""
    values = torch.zeros(2 * sealed.PIECE + 5, dtype=torch.uint8)
    seen = {sealed.digest(values), sealed.digest(values[:-1]), sealed.digest(values[None])}
    places = (0, sealed.PIECE - 1, sealed.PIECE, 2 * sealed.PIECE, len(values) - 1)
    for place in places:
        for bit in range(8):
            values[place] ^= 1 << bit
            seen.add(sealed.digest(values))
            values[place] ^= 1 << bit
    assert len(seen) == 3 + 8 * len(places)


def test_text_arrays_count_as_text_and_other_things_are_refused():
    assert sealed.digest(np.array("deepest")) == sealed.digest("deepest")
    assert sealed.digest(torch.tensor([1.0], dtype=torch.bfloat16))
    assert sealed.digest(np.float32(1)) != sealed.digest(np.float64(1)) == sealed.digest(1.0)
    for other in (object(), {1, 2}, b"bytes", lambda: 1, np.array([object()])):
        with pytest.raises(TypeError):
            sealed.digest(other)


@given(st.dictionaries(st.text(max_size=3), plain, min_size=1, max_size=4), st.data())
def test_what_was_sealed_comes_back_and_each_change_is_noticed(content, data):
    assume("digest" not in content)
    whole = sealed.seal(content)
    assert sealed.unseal(whole) == content == sealed.unseal(content)
    name, value = data.draw(st.sampled_from(sorted(whole))), data.draw(plain)
    assume(written(value) != written(whole[name]))
    with pytest.raises(CifarError, match="it has changed since it was written"):
        sealed.unseal(whole | {name: value})
    assume(name != "digest")
    with pytest.raises(CifarError, match="it has changed since it was written"):
        sealed.unseal({key: part for key, part in whole.items() if key != name})


def said(path):
    """The line with which the door refuses a path, or None."""
    try:
        with sealed.reading(path, "checkpoint", "start anew"):
            torch.load(path, weights_only=True)
    except CifarError as error:
        return str(error)
    return None


def test_the_door_says_what_is_wrong_and_what_to_do(tmp_path, monkeypatch):
    whole, path = tmp_path / "whole", tmp_path / "file"
    torch.save({"a": torch.ones(3)}, whole)
    assert said(whole) is None
    assert said(path) == f"{path}: there is no such checkpoint; start anew"
    path.touch()
    assert said(path) == f"{path}: it is empty; start anew"
    path.write_bytes(whole.read_bytes()[:-9])
    assert said(path) == f"{path}: it is damaged, or not a checkpoint; start anew"
    path.unlink()
    path.mkdir()
    assert said(path) == f"{path}: it is a folder, not a checkpoint; start anew"
    assert said("a\0b").startswith("a\\x00b: it cannot be read (")  # Pythons differ in the reason
    assert said("x" * 300).endswith(": it cannot be read (File name too long); start anew")
    with (
        pytest.raises(CifarError, match=r"whole: lr is 0; it must be above 0$"),
        sealed.reading(whole, "checkpoint", "start anew"),
    ):
        raise CifarError("lr is 0; it must be above 0")
    monkeypatch.setattr(sealed, "PACKAGE", tmp_path)
    assert said(tmp_path / "b") == (
        f"{tmp_path / 'b'}: there is no such checkpoint; reinstall cifar_utils"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither")
def test_pipes_devices_and_circles_are_refused_before_they_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path in (tmp_path / "pipe", "/dev/zero"):
        assert said(path) == f"{path}: it is a pipe or a device, not a checkpoint; start anew"
    line = said(tmp_path / "circle")
    assert line.endswith(": it cannot be read (Too many levels of symbolic links); start anew")


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "open", refuse)  # root may read everything
    line = said(tmp_path / "file")
    assert line == f"{tmp_path / 'file'}: it cannot be read (Permission denied); start anew"


def test_a_small_file_that_would_fill_the_memory_is_refused_by_its_header(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, heatmaps=np.zeros(1 << 22))
    with sealed.reading(path, "file", "no"):  # 32 MB are no bomb
        assert len(sealed.load_arrays(path)["heatmaps"]) == 1 << 22
    monkeypatch.setattr(sealed, "LARGE", 1 << 24)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with (
        pytest.raises(CifarError, match=r"bomb.npz: it would unpack to 0 GB, so it is not a file"),
        sealed.reading(path, "file", "no"),
    ):
        sealed.load_arrays(path)


def test_numbers_that_look_like_the_end_of_a_zip_file_are_numbers(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x08" * 100 + b"PK\x05\x06" + b"\x07" * 58)
    with sealed.reading(path, "file", "no"):  # one file of random weights in 65,000 has such bytes
        pass


def test_arrays_and_json_are_written_sealed(tmp_path):
    arrays = {"maps": np.arange(6.0).reshape(2, 3), "about": np.array("é")}
    sealed.save_arrays(tmp_path / "a.npz", **arrays)
    found = sealed.load_arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys() and np.array_equal(found["maps"], arrays["maps"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "a.npz") as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = bytearray(old.read(name))
            content[-1] ^= name == "maps.npy"  # with a right checksum of its own
            new.writestr(name, bytes(content))
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    with pytest.raises(CifarError, match="it has changed"):
        sealed.load_arrays(tmp_path / "a.npz")
    content = {"b": (1, 2.5, None), "a": {"x": "\ud800é"}}
    sealed.write_json(tmp_path / "a.json", content)
    assert sealed.read_json(tmp_path / "a.json") == {"b": [1, 2.5, None], "a": {"x": "\ud800é"}}
    first = (tmp_path / "a.json").read_text().splitlines()[1]
    assert first.startswith(' "digest": "') and first.endswith('",')  # a line that can be deleted
    before = list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="JSON"):
        sealed.write_json(tmp_path / "b.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == before
