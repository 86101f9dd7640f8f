"""Images of one's own: folders, arrays and single files, in every form that turns up."""

import itertools
import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import posix, refused
from PIL import Image

from cifar_utils import data
from cifar_utils.cli.main import main
from cifar_utils.errors import CifarError
from cifar_utils.sources import cifar10, local


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(cifar10, "MIRRORS", ())


# --- folder


@pytest.fixture
def pictures(tmp_path):
    """A folder with 4 train and 2 test pictures of each of two classes, and {path: its pixels}."""
    random, pixels = np.random.default_rng(0), {}
    for part, count in (("train", 4), ("test", 2)):
        for name in ("zebra", "ant"):
            for number in range(count):
                path = tmp_path / "pictures" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels[path] = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels[path]).save(path)
    return tmp_path / "pictures", pixels


def test_folder_gives_every_picture_with_the_name_of_its_folder(pictures):
    root, pixels = pictures
    cifar = data.load(root, source="folder", validation=2)
    assert cifar.source == "folder" and cifar.classes == ("ant", "zebra")
    assert (len(cifar.train), len(cifar.val), len(cifar.test)) == (6, 2, 4)
    assert sorted(cifar.val.names) == ["ant", "zebra"]
    assert list(cifar.test.names) != sorted(cifar.test.names), "not class by class"
    got = {(name, image.permute(1, 2, 0).numpy().tobytes())
           for part in (cifar.train, cifar.val, cifar.test)
           for name, image in zip(part.names, part.images, strict=True)}  # fmt: skip
    assert got == {(path.parent.name, image.tobytes()) for path, image in pixels.items()}


def test_folder_is_read_once_until_a_picture_comes_or_changes(pictures, monkeypatch):
    root, pixels = pictures
    read, read_image = [], data.read_image
    monkeypatch.setattr(local, "read_image", lambda path: read.append(path) or read_image(path))

    def load():
        read.clear()
        cifar = data.load(root, source="folder", validation=0)
        return len(read), len(cifar.train)

    assert (load(), load()) == ((12, 8), (0, 8))
    shutil.copy(next(iter(pixels)), root / "train" / "ant" / "new.JPG")
    (root / "train" / "ant" / "notes.txt").write_text("no picture")
    assert (load(), load()) == ((13, 9), (0, 9))
    os.utime(root / "train" / "ant" / "0.png", ns=(0, 0))
    assert load() == (13, 9)


def test_folder_with_a_broken_picture_names_it(pictures):
    root, pixels = pictures
    broken = list(pixels)[5]
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(CifarError, match=str(broken)):
        data.load(root, source="folder", validation=0)


def test_folder_without_pictures_says_what_is_wanted(pictures):
    root, _ = pictures
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    with pytest.raises(CifarError, match=r"test holds no images.*train/<class>"):
        data.load(root, source="folder")


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (("training_set/a", "test_set/a"), "no folder train and no folder test, but test_set, tra"),
        (("train/a", "train/b"), "no folder test;"),
        (("train/a", "train/b", "val/a"), "no folder test; to test on val, rename it test; source"),
        (("cat", "dog", "cow", "pig"), "but cat, cow, dog and 1 more; source "),
        ((), "there is no folder"),
    ],
)
def test_a_folder_of_another_layout_is_told_by_what_it_holds(tmp_path, there, said):
    for folder in there:
        (tmp_path / "mine" / folder).mkdir(parents=True)
    with pytest.raises(CifarError, match=said):
        data.load(tmp_path / "mine", source="folder")


@pytest.mark.parametrize("name", ["valid", "Validation", "extra"])
def test_a_folder_beside_train_and_test_is_never_passed_over(pictures, name, capsys):
    root, _ = pictures
    shutil.copytree(root / "test", root / name)
    (root / "__MACOSX").mkdir()
    data.load(root, source="folder")
    (line,) = capsys.readouterr().err.splitlines()
    remedy = "" if name == "extra" else f"; to validate on {name}, rename it val"
    assert line == f"{root}: only train, test and val are read, not {name}{remedy}"


def test_what_a_mac_packs_beside_a_folder_is_no_class(pictures, capsys):
    root, _ = pictures
    (root / "train" / "__MACOSX").mkdir()
    assert data.load(root, source="folder").classes == ("ant", "zebra")
    assert "1 in train (__MACOSX)" in capsys.readouterr().err


def test_folder_whose_test_has_a_class_of_its_own_names_it(pictures):
    root, _ = pictures
    (root / "test" / "ant").rename(root / "test" / "newt")
    with pytest.raises(CifarError, match="lacks: newt; train has ant, zebra"):
        data.load(root, source="folder")


def test_hidden_folders_are_no_classes(tmp_path):
    names = ("ant", "bee", ".ipynb_checkpoints")
    for part, name in itertools.product(("train", "test"), names):
        (tmp_path / part / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / part / name / "a.png")
    assert data.load(tmp_path, source="folder", validation=0).classes == ("ant", "bee")


def place(root, *names):
    """Files of these names, each with a one-coloured image, or with text if it is not an image."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in Image.registered_extensions():
            Image.new("RGB", (16, 16), (number, 0, 0)).save(path)  # the smallest .ico
        else:
            path.write_text("no picture")


SMALLEST = ("train/ant/1.png", "train/bee/2.png", "test/ant/3.png", "test/bee/4.png")


@posix
def test_folder_takes_what_image_folder_takes_and_more(tmp_path):
    """The oracle is torchvision's ImageFolder, on formats, sub-folders and links that it reads."""
    from torchvision.datasets import ImageFolder

    ends = ("jpg", "JPEG", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp")
    place(tmp_path, *SMALLEST, *(f"train/ant/deep/er/x.{end}" for end in ends))
    place(tmp_path / "elsewhere", "bee/far.png")
    (tmp_path / "train" / "bee" / "link").symlink_to(tmp_path / "elsewhere" / "bee")
    theirs = ImageFolder(tmp_path / "train")
    found, left_out = local._find(tmp_path / "train")
    assert list(found) == theirs.classes and not left_out
    pairs = {(path, theirs.classes.index(name)) for name in found for path in map(str, found[name])}
    assert pairs == set(theirs.samples) and len(pairs) == 12

    place(tmp_path, "train/bee/a.gif", "train/bee/b.jp2", "train/bee/c.ico", "train/bee/d.tga")
    cifar = data.load(tmp_path, source="folder", validation=0)
    assert len(cifar.train) == 16 and cifar.train.names.count("bee") == 6


@posix
def test_what_is_left_out_is_counted_and_named_once_per_load(tmp_path, capsys):
    place(tmp_path, *SMALLEST, *(f"train/ant/n{number}.txt" for number in range(5)))
    place(tmp_path, "train/README", "test/bee/deep/phone.heic", "test/ant/.hidden/x.txt")
    place(tmp_path, "train/bee/\x1b[2J.doc")
    for _ in range(2):  # the second time from the cache
        data.load(tmp_path, source="folder", validation=0)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{tmp_path}: files left out") and line.isprintable()
        assert "7 in train (README, ant/n0.txt, ant/n1.txt and 4 more)" in line
        assert "1 in test (bee/deep/phone.heic); convert HEIC to JPEG or PNG" in line


@pytest.mark.parametrize("name", ["labels.h5", "clip.mpg", "field.grib", "page.eps"])
def test_what_pillow_knows_by_name_only_is_left_out(tmp_path, name, capsys):
    place(tmp_path, *SMALLEST)
    (tmp_path / "train" / "ant" / name).write_bytes(b"no picture")
    assert len(data.load(tmp_path, source="folder", validation=0).train) == 2
    assert f"1 in train (ant/{name})" in capsys.readouterr().err


@posix
def test_a_link_to_a_folder_above_is_named_and_never_followed(tmp_path, capsys):
    place(tmp_path, *SMALLEST, "train/ant/deep/5.png")
    (tmp_path / "train" / "ant" / "deep" / "up").symlink_to(tmp_path / "train" / "ant")
    (tmp_path / "train" / "bee" / "all").symlink_to(tmp_path / "train")
    cifar = data.load(tmp_path, source="folder", validation=0)
    assert sorted(cifar.train.names) == ["ant", "ant", "bee"]
    assert "2 in train (ant/deep/up, bee/all)" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["train", "test", "val"])
@pytest.mark.parametrize("inside", [[], ["x.heic"], ["deep/x.txt", ".hidden.png"]])
def test_a_class_folder_without_images_is_never_dropped(tmp_path, part, inside):
    place(tmp_path, *SMALLEST, "val/ant/5.png", "val/bee/6.png")
    (tmp_path / part / "cow").mkdir()
    place(tmp_path / part / "cow", *inside)
    with pytest.raises(CifarError, match=rf"{part}/cow holds no images.*remove the folder"):
        data.load(tmp_path, source="folder")


def test_a_class_that_only_train_has_is_named(tmp_path, capsys):
    place(tmp_path, *SMALLEST, "train/cow/5.png", "val/ant/6.png")
    cifar = data.load(tmp_path, source="folder")
    assert cifar.classes == ("ant", "bee", "cow")
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}/test has no images of cow, which train has",
        f"{tmp_path}/val has no images of bee, cow, which train has",
    ]


def test_a_class_that_val_has_alone_or_in_other_letters_is_refused(tmp_path):
    place(tmp_path, *SMALLEST, "val/Ant/5.png")
    with pytest.raises(
        CifarError, match=r"val has classes that train lacks: Ant; did you mean ant"
    ):
        data.load(tmp_path, source="folder")


def test_a_single_class_is_refused(tmp_path):
    place(tmp_path, "train/ant/1.png", "test/ant/2.png")
    with pytest.raises(CifarError, match="train holds one class, ant; two or more are needed"):
        data.load(tmp_path, source="folder")


def test_names_of_a_mac_and_of_linux_are_one_class(tmp_path, capsys):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    place(tmp_path, "train/ant/1.png", f"train/{decomposed}/2.png", f"test/{composed}/3.png")
    place(tmp_path, "test/ant/4.png")
    cifar = data.load(tmp_path, source="folder", validation=0)
    assert cifar.classes == ("ant", composed) and not capsys.readouterr().err
    assert cifar.test.names.count(composed) == cifar.train.names.count(composed) == 1
    place(tmp_path, f"train/{composed}/5.png")
    if len(list((tmp_path / "train").iterdir())) == 2:
        return  # this file system takes the two forms for the same
    with pytest.raises(CifarError, match=f"two folders whose name is {composed}; rename one"):
        data.load(tmp_path, source="folder")


def test_names_that_differ_in_case_are_two_classes_and_said(tmp_path, capsys):
    place(tmp_path, *SMALLEST, "train/Ant/5.png")
    if len(list((tmp_path / "train").iterdir())) == 2:
        pytest.skip("this file system takes capital and small letters for the same")
    assert data.load(tmp_path, source="folder", validation=0).classes == ("Ant", "ant", "bee")
    assert "Ant, ant differ only in case" in capsys.readouterr().err


def test_val_is_the_validation_set(tmp_path, capsys):
    place(tmp_path, *SMALLEST, "train/ant/5.png", "val/ant/6.png", "val/bee/7.png", "val/bee/8.png")
    for _ in range(2):  # the second time from the cache
        for chosen in ({}, {"validation": None}, {"validation": 0}):
            cifar = data.load(tmp_path, source="folder", **chosen)
            assert (len(cifar.train), len(cifar.val), len(cifar.test)) == (3, 3, 2)
            assert sorted(cifar.val.images[:, 0, 0, 0].tolist()) == [5, 6, 7]
            assert sorted(cifar.val.names) == ["ant", "bee", "bee"]
            assert cifar.val.indices.tolist() == [0, 1, 2]
    with pytest.raises(CifarError, match=r"3 validation images already; leave validation out"):
        data.load(tmp_path, source="folder", validation=1)
    main(["data", "--source", "folder", "--data", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "validation  3 images" in printed and "ant 2/1/1, bee 1/2/1" in printed
    (tmp_path / "val" / "bee" / "8.png").unlink()
    assert len(data.load(tmp_path, source="folder").val) == 2
    (tmp_path / "val").rename(tmp_path / "valid")
    assert len(data.load(tmp_path, source="folder").val) == 0


def test_without_val_a_tenth_is_held_out_in_python_as_on_the_command_line(tmp_path):
    names = [f"train/{name}/{number}.bmp" for name in ("ant", "bee") for number in range(20)]
    place(tmp_path, *names, *SMALLEST[2:])
    assert len(data.load(tmp_path, source="folder").val) == 4


def test_two_files_that_are_swapped_are_noticed(tmp_path):
    place(tmp_path, *SMALLEST)
    for name in SMALLEST[:2]:  # of the same size and age
        Image.new("RGB", (8, 8), (len(name), 0, 200 if "ant" in name else 100)).save(
            tmp_path / name.replace("png", "bmp"))  # fmt: skip
        (tmp_path / name).unlink()
        os.utime(tmp_path / name.replace("png", "bmp"), ns=(0, 0))
    ant, bee = tmp_path / "train" / "ant" / "1.bmp", tmp_path / "train" / "bee" / "2.bmp"

    def blues():
        train = data.load(tmp_path, source="folder", validation=0).train
        return dict(zip(train.names, train.images[:, 2, 0, 0].tolist(), strict=True))

    assert blues() == {"ant": 200, "bee": 100}
    ant.rename(tmp_path / "held")
    bee.rename(ant)
    (tmp_path / "held").rename(bee)
    assert blues() == {"ant": 100, "bee": 200}


@posix
def test_names_that_are_not_utf_8_are_read(tmp_path, capsys):
    try:
        place(tmp_path, *SMALLEST, os.fsdecode(b"train/ant/\xff.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    place(tmp_path, os.fsdecode(b"train/\xe9t\xe9/1.png"))
    for _ in range(2):
        cifar = data.load(tmp_path, source="folder", validation=0)
        assert cifar.classes == ("\\udce9t\\udce9", "ant", "bee") and len(cifar.train) == 4
        assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())
    assert len(data.fingerprint(cifar.train)) == 64


def test_reading_shows_its_progress_on_a_terminal_only(pictures, capsys):
    data.load(pictures[0], source="folder", validation=0)
    assert capsys.readouterr() == ("", "")


# --- npy


@pytest.fixture
def save(tmp_path):
    """A function that saves `count` random images and labels under two names, and returns them."""

    def save(images_name, labels_name, count=12, seed=0):
        random = np.random.default_rng(seed)
        images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = random.integers(0, 10, count).astype(np.int32)
        np.save(tmp_path / images_name, images)
        np.save(tmp_path / labels_name, labels)
        return images, labels

    return save


def is_split_of(split, images, labels):
    wanted = torch.from_numpy(np.moveaxis(images, 3, 1).copy())
    return torch.equal(split.images, wanted) and split.labels.tolist() == labels.tolist()


def test_arrays_in_the_manner_of_cifar_10_1(save, tmp_path):
    images, labels = save("cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy")
    for root in (tmp_path, tmp_path / "cifar10.1_v6_data.npy"):
        cifar = data.load(root, source="npy")
        assert is_split_of(cifar.test, images, labels) and cifar.source == "npy"
        assert len(cifar.train) == len(cifar.val) == 0
        assert cifar.test.labels.dtype == torch.int64 and cifar.classes == data.CLASSES


def test_an_array_that_is_given_by_itself_is_the_test_set(save, tmp_path):
    images, labels = save("train_data.npy", "train_labels.npy")
    cifar = data.load(tmp_path / "train_data.npy", source="npy")
    assert is_split_of(cifar.test, images, labels) and not len(cifar.train)


def test_arrays_in_the_manner_of_cifar_10_c(save, tmp_path):
    save("snow.npy", "labels.npy", seed=1)
    images, labels = save("fog.npy", "labels.npy", seed=2)
    assert is_split_of(data.load(tmp_path / "fog.npy", source="npy").test, images, labels)
    with pytest.raises(CifarError, match=r"holds fog.npy, snow.npy; give one array's file"):
        data.load(tmp_path, source="npy")


def test_arrays_to_train_on_are_split_too(save, tmp_path):
    images, labels = save("train_data.npy", "train_labels.npy", count=40, seed=1)
    test = save("test_data.npy", "test_labels.npy", seed=2)
    cifar = data.load(tmp_path, source="npy", validation=10)
    assert (len(cifar.train), len(cifar.val)) == (30, 10) and is_split_of(cifar.test, *test)
    chosen = cifar.val.indices.numpy()
    assert is_split_of(cifar.val, images[chosen], labels[chosen])


def wrong_arrays():
    images, labels = np.zeros((4, 32, 32, 3), np.uint8), np.arange(4)
    yield "float32", images.astype(np.float32), labels, r"float32 \(4, 32, 32, 3\), not uint8"
    yield "channels first", images.transpose(0, 3, 1, 2), labels, r"\(4, 3, 32, 32\), not uint8"
    yield "one image", images[0], labels, r"uint8 \(32, 32, 3\), not uint8"
    yield "too few labels", images, labels[:3], r"int64 \(3,\), not 4 whole numbers"
    yield "one-hot", images, np.eye(4, dtype=int), r"\(4, 4\), not 4 whole numbers"
    yield "real labels", images, labels / 2, r"float64 \(4,\), not 4 whole numbers"
    yield "label 10", images, labels + 7, "labels outside 0 to 9"
    yield "label -1", images, labels - 1, "labels outside 0 to 9"


@pytest.mark.parametrize(
    "images, labels, said", [pytest.param(*case[1:], id=case[0]) for case in wrong_arrays()]
)
def test_wrong_arrays_are_refused_with_what_was_found(tmp_path, images, labels, said):
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(CifarError, match=said):
        data.load(tmp_path, source="npy")


def near_misses():
    """What people save, and the images and labels that they mean."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = 255
    grey = np.repeat(images[..., :1], 3, axis=3)
    labels = np.array([3, 1, 9, 2])
    yield "channels first", images.transpose(0, 3, 1, 2), labels, images
    yield "rows", images.transpose(0, 3, 1, 2).reshape(4, 3072), labels, images
    yield "0 to 1", (images / 255).astype(np.float32), labels, images
    yield "0 to 1, channels first", images.transpose(0, 3, 1, 2) / 255, labels, images
    yield "floats", images.astype(np.float64), labels, images
    yield "int64", images.astype(np.int64), labels, images
    yield "grey", grey[..., 0], labels, grey
    yield "grey with a channel", grey[..., :1], labels, grey
    yield "one image", images[0], labels[:1], images[:1]
    yield "columns", images, labels[:, None], images
    yield "one-hot", images, np.eye(10)[labels], images
    yield "real labels", images, labels.astype(np.float32), images
    yield "real column", images, labels[:, None] / 1, images
    yield "from 1", np.repeat(images, 3, 0)[:10], np.arange(1, 11), np.repeat(images, 3, 0)[:10]


@pytest.mark.parametrize(
    "images, labels, wanted", [pytest.param(*case[1:], id=case[0]) for case in near_misses()]
)
def test_the_remedy_for_a_near_miss_mends_it(tmp_path, images, labels, wanted):
    arrays = {"images": images, "labels": labels}
    for _ in range(3):
        np.save(tmp_path / "x.npy", arrays["images"])
        np.save(tmp_path / "labels.npy", arrays["labels"])
        try:
            cifar = data.load(tmp_path, source="npy")
            break
        except CifarError as error:
            remedy = re.search("; save (.*) in (its|their) place", str(error))[1]
            arrays["labels" if "labels" in remedy else "images"] = eval(remedy, {"np": np} | arrays)
    assert np.array_equal(cifar.test.images.permute(0, 2, 3, 1).numpy(), wanted)
    assert cifar.test.labels.tolist() == (
        [*range(10)] if len(wanted) == 10 else [3, 1, 9, 2][: len(wanted)]
    )


def test_normalised_images_have_no_remedy_but_the_images_before(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(4, 32, 32, 3)))
    np.save(tmp_path / "labels.npy", np.arange(4))
    with pytest.raises(CifarError, match="as they were before they were normalised"):
        data.load(tmp_path, source="npy")


@posix
@pytest.mark.parametrize("name", ["x.npy", "labels.npy"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing"])
def test_what_is_no_file_in_an_arrays_place_is_named(save, tmp_path, name, kind):
    save("x.npy", "labels.npy")
    (tmp_path / name).unlink()
    make = {"folder": Path.mkdir, "pipe": os.mkfifo}
    make.get(kind, lambda path: path.symlink_to("nothing"))(tmp_path / name)
    for root in (tmp_path, tmp_path / "x.npy"):
        with pytest.raises(CifarError) as caught:
            data.load(root, source="npy")
        assert name in str(caught.value)


def test_array_without_labels_says_which_files_would_do(save, tmp_path):
    save("x_data.npy", "y.npy")
    with pytest.raises(CifarError, match=r"neither x_labels.npy nor labels.npy"):
        data.load(tmp_path / "x_data.npy", source="npy")


@pytest.mark.parametrize("name", [".", "absent", "absent.npy"])
def test_absent_array_says_what_is_wanted(tmp_path, name):
    with pytest.raises(CifarError, match=r"no array of images.*NAME_data.npy with NAME_labels"):
        data.load(tmp_path / name, source="npy")


class Harmful:
    """Unpickling one makes the file `marker`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_pickle_inside_an_array_is_never_opened(tmp_path):
    marker = tmp_path / "marker"
    np.save(tmp_path / "x.npy", np.array([Harmful(marker)] * 2, dtype=object), allow_pickle=True)
    np.save(tmp_path / "labels.npy", np.arange(2))
    with pytest.raises(CifarError):
        data.load(tmp_path, source="npy")
    assert not marker.exists()


@pytest.mark.parametrize("source", ["folder", "npy"])
def test_auto_never_puts_the_stand_in_in_the_place_of_ones_own_data(
    source, pictures, save, tmp_path
):
    save("x_data.npy", "x_labels.npy")
    with pytest.raises(CifarError, match=f"choose source '{source}'"):
        data.load(pictures[0] if source == "folder" else tmp_path)


@pytest.mark.parametrize("content", [b"", b"plain text", b"PK\x03\x04", b"\x93NUMPY\x01\x00cut"])
def test_a_file_that_is_no_array_is_named_and_unpickling_is_not_advised(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    (tmp_path / "labels.npy").write_bytes(content)
    with pytest.raises(CifarError, match=r"x\.npy is not a NumPy array") as caught:
        data.load(tmp_path / "x.npy", source="npy")
    assert "pickle" not in str(caught.value)


# --- read_image


def pixels_of(path):
    image = data.read_image(path)
    assert image.dtype == torch.uint8 and image.shape == (3, 32, 32) and image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("as_type", [str, Path])
def test_picture_of_the_right_size_comes_back_exactly(tmp_path, noise, as_type):
    Image.fromarray(noise).save(tmp_path / "x.png")
    assert np.array_equal(pixels_of(as_type(tmp_path / "x.png")), noise)


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (31, 33), (500, 333), (64, 64)])
def test_picture_of_any_size_keeps_its_colour(tmp_path, size):
    Image.new("RGB", size, (10, 200, 90)).save(tmp_path / "x.png")
    assert (pixels_of(tmp_path / "x.png") == (10, 200, 90)).all()


def test_wide_and_tall_pictures_lose_their_borders_and_no_proportion(tmp_path, noise):
    wide = np.pad(noise, ((0, 0), (32, 32), (0, 0)))
    for picture in (wide, wide.swapaxes(0, 1)):
        Image.fromarray(picture).save(tmp_path / "x.png")
        wanted = noise if picture is wide else noise.swapaxes(0, 1)
        assert np.array_equal(pixels_of(tmp_path / "x.png"), wanted)


def test_larger_picture_is_averaged_and_not_sampled(tmp_path):
    board = np.indices((256, 256)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "x.png")
    inner = pixels_of(tmp_path / "x.png")[2:-2, 2:-2].astype(int)
    assert abs(inner - 127).max() <= 3


def test_grey_and_one_bit_pictures_become_rgb(tmp_path, noise):
    grey = noise[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "x.png")
    assert np.array_equal(pixels_of(tmp_path / "x.png"), np.stack([grey] * 3, axis=2))
    Image.fromarray(grey > 99).save(tmp_path / "x.png")
    assert np.array_equal(pixels_of(tmp_path / "x.png"), np.stack([(grey > 99) * 255] * 3, axis=2))


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_pixels_become_white(tmp_path, channels):
    colours = np.zeros((32, 32, channels), np.uint8)
    colours[..., :-1], colours[..., -1] = 100, 255
    colours[:10, :, -1], colours[10:20, :, -1] = 0, 51  # a fifth
    Image.fromarray(colours).save(tmp_path / "x.png")
    got = pixels_of(tmp_path / "x.png").astype(int)
    assert (got[:10] == 255).all() and (got[20:] == 100).all()
    assert abs(got[10:20] - 224).max() <= 1  # 255 × 0.8 + 100 × 0.2


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_is_looked_up_and_its_transparent_colour_becomes_white(tmp_path, suffix):
    image = Image.fromarray((np.arange(1024).reshape(32, 32) // 400).astype(np.uint8))
    image.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250] + [0] * 759)
    colours = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]])
    image.save(tmp_path / f"x.{suffix}")
    assert np.array_equal(pixels_of(tmp_path / f"x.{suffix}"), colours[np.asarray(image)])
    image.save(tmp_path / f"x.{suffix}", transparency=1)
    colours[1] = 255
    assert np.array_equal(pixels_of(tmp_path / f"x.{suffix}"), colours[np.asarray(image)])


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "x.tif")
    assert (pixels_of(tmp_path / "x.tif") == (255, 0, 0)).all()
    Image.new("CMYK", (32, 32), (255, 0, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    assert abs(pixels_of(tmp_path / "x.jpg").astype(int) - (0, 255, 0)).max() <= 5


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [65535, 200])
def test_16_bits_are_scaled_to_8_whatever_the_picture_holds(tmp_path, suffix, top):
    deep = np.linspace(0, top, 1024).round().astype(np.uint16).reshape(32, 32)
    Image.fromarray(deep).save(tmp_path / f"x.{suffix}")
    wanted = np.stack([np.round(deep / 257)] * 3, axis=2)  # 65535 = 255 × 257
    assert np.array_equal(pixels_of(tmp_path / f"x.{suffix}"), wanted)


@pytest.mark.parametrize("top", [1, 255])
def test_float_pictures_in_either_range_are_scaled_to_8_bits(tmp_path, top):
    values = np.linspace(0, top, 1024, dtype=np.float32).reshape(32, 32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    wanted = np.stack([values / top * 255] * 3, axis=2)
    assert abs(pixels_of(tmp_path / "x.tif") - wanted).max() <= 0.51


def test_float_pictures_with_strange_values_are_taken(tmp_path):
    for values in ([np.nan, 1], [-5, 0.5], [0, 0], [-3, -2], [0, 1e9]):
        Image.fromarray(np.resize(np.float32(values), (32, 32))).save(tmp_path / "x.tif")
        got = pixels_of(tmp_path / "x.tif")
        assert got[:, 0].max() == 0, values
        assert got[0, 1, 0] == {0.5: 128, 1: 255, 1e9: 255}.get(values[1], 0)


ORIENTATIONS = {  # EXIF's number: what turns the stored pixels upright
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_are_turned_upright(tmp_path, noise, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(pixels_of(tmp_path / "x.png"), ORIENTATIONS[orientation](noise))


def test_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (pixels_of(tmp_path / "x.gif") == (255, 0, 0)).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_truncated_pictures_are_refused_by_name(tmp_path, noise, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for share in (0, 0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CifarError, match=str(path)):
            data.read_image(path)


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    (tmp_path / "text.png").write_text("these are words")
    for name, said in (
        ("absent.png", "no such file"),
        ("text.png", "not a readable image"),
        (".", "is a folder"),
    ):
        path = tmp_path / name
        with pytest.raises(CifarError, match=f"(?i){said}") as caught:
            data.read_image(path)
        assert str(path) in str(caught.value)


def png_header(width, height):
    """The beginning of a PNG, which tells its size; there is not much after it."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(
            ">I", zlib.crc32(name + content))  # fmt: skip

    about = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + chunk(b"IDAT", zlib.compress(bytes(99)))


@pytest.mark.parametrize("size", [(13_000, 13_000), (100_000, 100_000), (200_000_000, 1)])
def test_too_many_pixels_are_refused_by_the_header(tmp_path, size, recwarn, capsys):
    (tmp_path / "x.png").write_bytes(png_header(*size))
    said = refused(capsys, "predict", tmp_path / "x.png")
    assert said.endswith(f"{tmp_path}/x.png has more than 160,000,000 pixels; make it smaller")
    assert not len(recwarn)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "I;16", "JPEG"])
def test_a_large_picture_is_averaged_and_looks_the_same(tmp_path, monkeypatch, mode, orientation):
    x, y = np.meshgrid(np.linspace(0, 255, 2100), np.linspace(0, 255, 2300))
    image = Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray((x * 200).astype(np.uint16))
    elif mode != "JPEG":
        image = image.convert(mode.removesuffix("A"))
        if mode in ("RGBA", "LA"):
            image.putalpha(Image.fromarray(y.astype(np.uint8)))
    path = tmp_path / ("x.jpg" if mode == "JPEG" else "x.png")
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    wanted = pixels_of(path).astype(int)
    monkeypatch.setattr(local, "LARGE", 1000)
    assert abs(pixels_of(path) - wanted).max() <= (4 if mode in ("JPEG", "1") else 2)


def test_heic_is_to_be_converted(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))  # as a telephone renames it
    with pytest.raises(CifarError, match=r"x.jpg is a HEIC.*convert it to JPEG or PNG"):
        data.read_image(tmp_path / "x.jpg")


@posix
def test_predict_says_what_is_not_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    assert refused(capsys, "predict", ".").endswith("error: .: it is a folder, not a file")
    assert "pipe.png: it is a pipe or a device" in refused(capsys, "predict", "pipe.png")
    name = "é" * 125 + ".png"
    assert f"{name}: there is no such file" in refused(capsys, "predict", name)
    assert "\\udcff.png: there is no such file" in refused(capsys, "predict", "\udcff.png")


def test_postscript_is_never_run(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin, Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.eps")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    for name in ("a.eps", "a.png"):  # by what it holds, whatever it is called
        path = (tmp_path / "a.eps").rename(tmp_path / name)
        with pytest.raises(CifarError, match="is an EPS file; convert it to JPEG or PNG"):
            local.read_image(path)
        path.rename(tmp_path / "a.eps")
