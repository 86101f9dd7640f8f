"""The data chapter: splits, validation, batches and normalising, with loops as oracles.

The readers are tested in test_sources_*.py. With $CIFAR10_ROOT set, the real files are checked too.
"""

import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cifar_utils import data
from cifar_utils.errors import CifarError
from cifar_utils.sources import cache, cifar10

REAL = os.environ.get("CIFAR10_ROOT")


# --- load


@pytest.fixture
def roots(random_split, monkeypatch):
    """Source "npy" with 100 training and 20 test images, and a list of the roots it has read."""
    train, test = random_split(100), random_split(20, seed=1)
    roots = []

    def read(root):
        roots.append(root)
        pairs = ((split.images, split.labels) for split in (train, test))
        return cache.Decoded("npy", data.CLASSES, *pairs)

    monkeypatch.setitem(data.READERS, "npy", read)
    return roots


def test_validation_is_stratified_and_cut_out_of_train(roots, random_split):
    cifar = data.load(source="npy", validation=30)
    assert (len(cifar.train), len(cifar.val), len(cifar.test)) == (70, 30, 20)
    assert Counter(cifar.val.labels.tolist()) == dict.fromkeys(range(10), 3)
    both = cifar.train.indices.tolist() + cifar.val.indices.tolist()
    assert sorted(both) == list(range(100)) and cifar.test.indices.tolist() == list(range(20))
    whole = random_split(100)
    for part in (cifar.train, cifar.val):
        assert torch.equal(part.images, whole.images[part.indices])
        assert torch.equal(part.labels, whole.labels[part.indices])
        assert part.source == cifar.source == "npy" and part.classes == cifar.classes


def test_validation_depends_on_the_seed_alone(roots):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = data.load(source="npy", validation=30).val.indices
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    torch.manual_seed(2)
    for seed, alike in (({}, True), ({"seed": 0}, True), ({"seed": 1}, False)):
        again = data.load(source="npy", validation=30, **seed).val.indices
        assert torch.equal(again, first) == alike


def test_root_is_the_argument_else_the_environment_else_the_home_folder(
    roots, tmp_path, monkeypatch
):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("CIFAR10_ROOT", "~/elsewhere")
    for root in (None, "~/here", tmp_path / "there"):
        data.load(root, source="npy", validation=10)
    monkeypatch.setenv("CIFAR10_ROOT", "")
    data.load(source="npy", validation=10)
    wanted = ("elsewhere", "here", "there", ".cache/cifar_utils")
    assert roots == [tmp_path / place for place in wanted]


def test_unknown_source_names_the_valid_ones():
    with pytest.raises(CifarError, match=r"'cifar100'.*auto, cifar10, folder, npy, synthetic"):
        data.load(source="cifar100")


@pytest.mark.parametrize("validation", [-1, 100, 5000])
def test_impossible_validation_names_the_valid_range(roots, validation):
    with pytest.raises(CifarError, match=f"{validation}.* at least 0, and less than the 100 "):
        data.load(source="npy", validation=validation)


def test_a_file_as_root_needs_source_npy(tmp_path):
    np.save(tmp_path / "x_data.npy", np.zeros((4, 32, 32, 3), np.uint8))
    np.save(tmp_path / "x_labels.npy", np.arange(4))
    for source in ("auto", "cifar10", "folder", "synthetic"):
        with pytest.raises(CifarError, match="choose source 'npy'"):
            data.load(tmp_path / "x_data.npy", source=source)
    assert len(data.load(tmp_path / "x_data.npy", source="npy").test) == 4


# --- fingerprint


@pytest.mark.parametrize(("place", "by"), [(0, 1), (57, 3), (99, 9)])
def test_a_fingerprint_tells_any_other_label_class_order_or_source_apart(random_split, place, by):
    split = random_split(100)
    own = data.fingerprint(split)
    assert own == data.fingerprint(random_split(100)) and len(own) == 64
    labels, classes = split.labels.clone(), list(split.classes)
    labels[place] = (labels[place] + by) % 10
    classes[by] += "s"
    others = (
        replace(split, labels=labels),
        replace(split, classes=tuple(classes)),
        replace(split, indices=split.indices.roll(by)),
        split[:place],
        random_split(100, seed=by),
    )
    assert own not in [data.fingerprint(other) for other in others]


# --- stratified


def some_labels(least=0):
    return st.lists(st.integers(0, 6), min_size=least, max_size=60).map(torch.tensor)


@given(labels=some_labels(1), share=st.fractions(0, 1), seed=st.integers(0, 2**32 - 1))
@example(labels=torch.tensor([0] * 7 + [1] * 2 + [2] * 1), share=Fraction(1, 2), seed=0)
@settings(max_examples=80, deadline=None)
def test_stratified_gives_each_class_its_share_by_largest_remainder(labels, share, seed):
    count = int(share * len(labels))
    chosen = data.stratified(labels, count, seed=seed).tolist()
    assert len(chosen) == count and chosen == sorted(set(chosen))
    assert all(0 <= position < len(labels) for position in chosen)

    got = Counter(labels[chosen].tolist())
    ups, downs = [], []  # the remainders of the classes whose quota was rounded up and down
    for name, size in Counter(labels.tolist()).items():
        whole, rest = divmod(size * count, len(labels))
        assert got[name] in (whole, whole + 1)
        (ups if got[name] > whole else downs).append(rest)
    assert min(ups, default=len(labels)) >= max(downs, default=0)  # ties may go either way
    assert 0 not in ups


@given(labels=some_labels(10), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_stratified_depends_on_its_seed_only(labels, seed):
    torch.manual_seed(seed)
    first = data.stratified(labels, 5, seed=seed)
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002
    assert torch.equal(data.stratified(labels.clone(), 5, seed=seed), first)


def test_stratified_draws_otherwise_from_another_seed_and_not_the_first_ones():
    labels = torch.arange(1000) % 10
    draws = {tuple(data.stratified(labels, 100, seed=seed).tolist()) for seed in range(5)}
    assert len(draws) == 5 and all(max(draw) > 900 for draw in draws)


def test_stratified_stays_the_same_for_good():
    """A frozen draw: checkpoints and published numbers count on these very positions."""
    labels = torch.arange(50_000) % 10
    positions = data.stratified(labels, 5000)
    order = np.random.RandomState(0).permutation(50_000)
    wanted = []
    for name in range(10):
        wanted += [position for position in order.tolist() if position % 10 == name][:500]
    assert positions.tolist() == sorted(wanted)
    assert positions[:5].tolist() == [14, 18, 22, 24, 28]


@given(labels=some_labels())
@settings(max_examples=20, deadline=None)
def test_stratified_of_none_or_all(labels):
    assert data.stratified(labels, 0).tolist() == []
    assert data.stratified(labels, len(labels)).tolist() == list(range(len(labels)))


# --- splits


@pytest.fixture
def split():
    """40 images, image i filled with the number i, in classes 0..9 in turn."""
    images = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32).clone()
    return data.Split(images, torch.arange(40) % 10, data.CLASSES, torch.arange(40))


def test_split_can_be_indexed_like_a_tensor(split):
    mask = split.labels == 3
    pairs = [(5, [5]), (-1, [39]), (slice(2, 9, 3), [2, 5, 8]), (slice(40, 50), []), ([], [])]
    pairs += [([7, 7, 1], [7, 7, 1]), (mask, [3, 13, 23, 33]), (mask.numpy(), [3, 13, 23, 33])]
    pairs += [(torch.tensor([4, 2]), [4, 2]), (np.array([4, 2]), [4, 2])]
    for index, wanted in pairs:
        part = split[index]
        assert part.images.shape == (len(wanted), 3, 32, 32) and len(part) == len(wanted)
        assert part.images[:, 0, 0, 0].tolist() == part.indices.tolist() == wanted
        assert part.labels.tolist() == [position % 10 for position in wanted]


def test_one_number_selects_a_split_of_one(random_split):
    split = random_split(5)
    for number in (3, np.int64(3), torch.tensor(3)):
        assert split[number].images.shape == (1, 3, 32, 32) and split[number].names == ["cat"]
    assert len(split[[]]) == 0 and len(split[torch.zeros(5, dtype=torch.bool)]) == 0


def test_indices_survive_every_selection(split):
    assert split[10:][[3, 5]][1].indices.tolist() == [15]


def test_index_beyond_the_end_is_an_index_error_and_a_loop_ends(split):
    with pytest.raises(IndexError):
        split[40]
    assert [image.indices.item() for image in split] == list(range(40))


def test_names_are_the_classes_of_the_labels(split):
    assert split[[0, 3, 19]].names == ["airplane", "cat", "truck"]
    assert split[:0].names == []


def test_first_of_each_is_the_earliest_image_of_each_class_that_occurs(split):
    odd = split[split.labels % 2 == 1]
    firsts = odd.first_of_each(3)
    assert firsts.labels.tolist() == [1, 3, 5]
    for label, index in zip(firsts.labels.tolist(), firsts.indices.tolist(), strict=True):
        assert index == min(i for i, other in enumerate(split.labels.tolist()) if other == label)


def test_first_of_each_takes_names_in_their_order(split):
    firsts = split.first_of_each(["ship", "bird"])
    labels = split.labels.tolist()
    assert firsts.names == ["ship", "bird"]
    assert firsts.indices.tolist() == [labels.index(8), labels.index(2)]
    with pytest.raises(CifarError, match="unknown class 'cow'; choose one of airplane"):
        split.first_of_each(["cow"])
    with pytest.raises(
        CifarError, match="no ship among these 20 images; choose from automobile, cat, d"
    ):
        split[split.labels % 2 == 1].first_of_each(["ship"])


def test_to_moves_every_tensor(split):
    moved = split.to("meta")
    assert {moved.images.device.type, moved.labels.device.type, moved.indices.device.type} == {
        "meta"
    }
    assert moved.classes == split.classes and split.images.device.type == "cpu"


def test_hold_out_moves_a_balanced_share(split):
    cifar = data.Cifar(split, split[:0], split[:20]).hold_out(10)
    assert sorted(cifar.val.labels.tolist()) == list(range(10))
    assert sorted(cifar.train.indices.tolist() + cifar.val.indices.tolist()) == list(range(40))
    assert len(cifar.train) == 30 and len(cifar.test) == 20 and cifar.source == "memory"
    assert cifar.val.indices.tolist() == data.stratified(split.labels, 10).tolist()
    assert len(split) == 40, "the split that was given should stay as it was"


def test_limit_keeps_at_most_so_many_of_each_split_and_balances_them(split):
    cifar = data.Cifar(split, split[:5], split[:0]).limit(20)
    assert (len(cifar.train), len(cifar.val), len(cifar.test)) == (20, 5, 0)
    assert Counter(cifar.train.labels.tolist()) == dict.fromkeys(range(10), 2)
    assert torch.equal(cifar.train.images[:, 0, 0, 0].long(), cifar.train.indices)
    assert cifar.source == "memory"


@pytest.mark.parametrize("count", [0, -5])
def test_limit_below_one_names_the_valid_range(split, count):
    with pytest.raises(
        CifarError, match=f"limit is {count}; it must be a whole number of at least 1"
    ):
        data.Cifar(split, split, split).limit(count)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.int8, np.uint8, np.array, torch.tensor])
def test_numbers_of_numpy_count_as_numbers(random_split, kind):
    split = random_split(20)
    cifar = data.Cifar(split, split[:0], split)
    assert len(cifar.hold_out(kind(10)).val) == 10 and len(cifar.limit(kind(10)).test) == 10
    assert [len(part) for part in data.batches(split, kind(15))] == [15, 5]
    assert (
        data.stratified(split.labels, kind(5), seed=kind(1)).tolist()
        == data.stratified(split.labels, 5, seed=1).tolist()
    )
    assert split[kind(3)].indices.tolist() == [3]
    if kind not in (np.array, torch.tensor):
        assert len(split.first_of_each(kind(2))) == 2


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_positions_of_any_whole_type_are_positions(random_split, kind):
    """torch takes uint8 for a mask: with as many positions as images it is silently another one."""
    split = random_split(4)
    assert split[np.array([3, 1, 0, 0], kind)].indices.tolist() == [3, 1, 0, 0]
    assert split[np.array([True, False, True, False])].indices.tolist() == [0, 2]


@pytest.mark.parametrize("odd", [True, 3.0, "3", None, float("nan"), -1, np.float32(2), 2**70])
def test_what_is_not_a_number_of_images_is_refused_in_a_line(random_split, odd):
    split = random_split(20)
    cifar = data.Cifar(split, split[:0], split)
    calls = {
        "validation": cifar.hold_out,
        "limit": cifar.limit,
        "count": lambda count: data.stratified(split.labels, count),
        "seed": lambda seed: cifar.hold_out(5, seed=seed),  # None would be another one each time
        "batch_size": lambda size: list(data.batches(split, size)),
    }
    for name, call in calls.items():
        if odd == 2**70 and name in ("limit", "batch_size"):
            call(odd)  # more than there are
            continue
        with pytest.raises(
            CifarError, match=f"^{name} is .*; it must be a whole number"
        ) as refused:
            call(odd)
        assert str(refused.value).isprintable()


def test_numbers_that_cannot_be_are_refused_with_their_range(random_split):
    split = random_split(20)
    cifar = data.Cifar(split, split[:0], split)
    with pytest.raises(CifarError, match="count is 21; it must be a whole number in 0 to 20"):
        data.stratified(split.labels, 21)
    for call in (cifar.hold_out, cifar.limit):
        with pytest.raises(CifarError, match="a whole number"):
            call(0.5)
    with pytest.raises(CifarError, match="5 validation images already"):
        cifar.hold_out(5).hold_out(5)
    with pytest.raises(CifarError, match="batch_size is 0; it must be a whole number"):
        list(data.batches(split, 0))
    assert list(data.batches(split[:0], 4)) == []
    with pytest.raises(CifarError, match="normalize takes uint8 images"):
        data.normalize(split.images / 255)


# --- batches and normalize


@given(count=st.integers(1, 40), size=st.integers(1, 50), seed=st.none() | st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_batches_are_a_partition(count, size, seed):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    split = data.Split(images, torch.arange(count) % 10, data.CLASSES, torch.arange(count) + 100)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    parts = list(data.batches(split, size, generator=generator))

    wanted = [size] * (count // size) + ([count % size] if count % size else [])
    assert [len(part) for part in parts] == wanted
    order = torch.cat([part.indices for part in parts]) - 100
    assert sorted(order.tolist()) == list(range(count))
    if generator is None:
        assert order.tolist() == list(range(count))
    for part in parts:
        position = part.indices - 100
        assert torch.equal(part.images, images[position]) and part.classes == data.CLASSES
        assert torch.equal(part.labels, position % 10)


def test_batches_come_in_a_fresh_order_each_time_and_repeat_from_a_seed(split):
    def order(generator):
        return torch.cat([part.indices for part in data.batches(split, 7, generator=generator)])

    generator, twin = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    first, second = order(generator), order(generator)
    assert first.tolist() != list(range(40)) and not torch.equal(first, second)
    assert torch.equal(order(twin), first) and torch.equal(order(twin), second)


def test_mean_and_std_are_the_published_ones():
    """Those of most CIFAR-10 code; the real files, where there are any, are measured below."""
    assert pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4) == data.MEAN
    assert pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4) == data.STD


def test_normalize_equals_a_loop_and_torchvision():
    from torchvision.transforms import v2

    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8, generator=random)
    before, got = images.clone(), data.normalize(images)
    assert got.dtype == torch.float32 and got.shape == images.shape
    for n, channel, y, x in np.ndindex(*images.shape):
        value = images[n, channel, y, x].item() / 255
        wanted = (value - data.MEAN[channel]) / data.STD[channel]
        assert got[n, channel, y, x].item() == pytest.approx(wanted, abs=1e-5)
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.MEAN, data.STD)])
    torch.testing.assert_close(got, theirs(images), atol=1e-5, rtol=0)
    assert torch.equal(images, before)


# --- the real files


@pytest.fixture(scope="module")
def real():
    """The real files, decoded afresh; skips without them."""
    folder = cifar10.official_folder(Path(REAL)) if REAL else None
    if folder is None or folder.name != cifar10.BATCHES:
        pytest.skip("$CIFAR10_ROOT holds no official files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "cached", lambda path, stamp, make: make())
        return data.load(folder.parent, source="cifar10", validation=0), folder.parent


@pytest.mark.slow
def test_real_files_equal_what_torchvision_reads(real):
    from torchvision.datasets import CIFAR10

    cifar, root = real
    for part, train in ((cifar.train, True), (cifar.test, False)):
        theirs = CIFAR10(root, train=train, download=False)
        assert np.array_equal(part.images.permute(0, 2, 3, 1).numpy(), theirs.data)
        assert part.labels.tolist() == theirs.targets and list(part.classes) == theirs.classes


def test_mean_and_std_are_those_of_the_real_training_images(real):
    pixels = real[0].train.images.numpy()
    for channel in range(3):
        counts = np.bincount(pixels[:, channel].ravel(), minlength=256)
        values = np.arange(256) / 255
        mean = (counts * values).sum() / counts.sum()
        std = np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum())
        assert data.MEAN[channel] == pytest.approx(mean, abs=1e-8)
        assert data.STD[channel] == pytest.approx(std, abs=1e-8)


def test_real_classes_are_balanced(real):
    labels = real[0].train.labels
    assert Counter(labels.tolist()) == dict.fromkeys(range(10), 5000)
    held_out = labels[data.stratified(labels, 5000)]
    assert Counter(held_out.tolist()) == dict.fromkeys(range(10), 500)
