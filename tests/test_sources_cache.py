"""The cache of decoded images: made once, made again if it is stale or damaged."""

import itertools
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from cifar_utils.sources import cache


@pytest.fixture
def make():
    """A function that makes other tensors at every call, and counts its calls."""
    numbers = itertools.count(1)

    def make():
        make.calls = next(numbers)
        return {"images": torch.full((4, 3), make.calls, dtype=torch.uint8)}

    make.calls = 0
    return make


def test_cache_makes_once_for_each_stamp(tmp_path, make):
    path = tmp_path / "new" / "cache"
    values = [cache.cached(path, stamp, make)["images"] for stamp in ("a", "a", "b", "b", "a")]
    assert [value.unique().tolist() for value in values] == [[1], [1], [2], [2], [3]]
    assert all(value.dtype == torch.uint8 and value.shape == (4, 3) for value in values)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kept", [0, 4, 20, -1])
def test_cache_that_was_cut_short_is_made_again(tmp_path, make, kept):
    path = tmp_path / "cache"
    cache.cached(path, "a", make)
    path.write_bytes(path.read_bytes()[:kept])
    assert cache.cached(path, "a", make)["images"].unique().tolist() == [2]
    assert cache.cached(path, "a", make)["images"].unique().tolist() == [2]
    assert load_file(path)["images"].unique().tolist() == [2]


@pytest.mark.parametrize("place", [9, 90, -1, -12])
def test_cache_with_a_flipped_bit_or_from_before_digests_is_made_again(tmp_path, make, place):
    path = tmp_path / "cache"
    cache.cached(path, "a", make)
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    assert cache.cached(path, "a", make)["images"].unique().tolist() == [2]
    save_file({"images": torch.zeros(4, 3)}, path, {"stamp": "a"})
    assert cache.cached(path, "a", make)["images"].unique().tolist() == [3]
    assert cache.cached(path, "a", make)["images"].unique().tolist() == [3]


def test_cache_that_cannot_be_written_warns_and_gives_the_tensors(tmp_path, make):
    (tmp_path / "file").write_bytes(b"")
    for calls in (1, 2):
        with pytest.warns(UserWarning, match="could not be cached"):
            tensors = cache.cached(tmp_path / "file" / "cache", "a", make)
        assert tensors["images"].unique().tolist() == [calls]


def test_stamp_changes_when_a_file_is_written_resized_moved_or_left_out(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    first = cache.stamp_of([one, two])
    assert cache.stamp_of([one, two]) == first
    stamps = [first, cache.stamp_of([one]), cache.stamp_of([two])]
    about = two.stat()
    os.utime(two, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    stamps.append(cache.stamp_of([one, two]))
    two.write_bytes(b"22")
    os.utime(two, ns=(about.st_atime_ns, about.st_mtime_ns))
    stamps.append(cache.stamp_of([one, two]))
    stamps.append(cache.stamp_of([one, two.rename(tmp_path / "three")]))
    assert len(set(stamps)) == len(stamps)


def test_two_roots_and_two_sources_have_files_of_their_own(tmp_path, random_split):
    def decode(seed):
        one, other = random_split(10, seed), random_split(20, seed)
        return (one.images, one.labels), (other.images, other.labels)

    cases = [("a", "npy"), ("b", "npy"), ("a", "folder")]
    for _ in range(2):  # the second time from the files
        for seed, (folder, source) in enumerate(cases):
            found = cache.decoded(
                tmp_path / folder, source, ("x", "y"), "stamp", lambda seed=seed: decode(seed)
            )
            assert (found.source, found.classes) == (source, ("x", "y"))
            for got, wanted in zip((found.train, found.test), decode(seed), strict=True):
                assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
