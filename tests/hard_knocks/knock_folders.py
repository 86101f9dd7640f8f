"""Image files, folders and arrays of other people."""

import contextlib
import itertools
import json
import os
import resource
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from cifar_utils import data
from cifar_utils.cli.main import main
from cifar_utils.errors import CifarError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Pillow's, of old formats
NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
ENDS = {form: end for end, form in Image.registered_extensions().items() if form in Image.SAVE}


def survives(call, name):
    """What call() returns, or the one line that it refuses with, which names `name`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of some damage
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return call()
        except CifarError as error:
            assert str(error).isprintable() and name in str(error), error
            return str(error)


# --- single files


@pytest.mark.parametrize("form", ENDS)
def test_a_format_that_pillow_writes_whole_and_damaged(form, tmp_path):
    """Cut anywhere, with any byte wrong, or a stretch of zeros: an image or one line."""
    path = tmp_path / f"x{ENDS[form]}"
    for mode in ("RGB", "L", "RGBA", "1", "P"):
        with contextlib.suppress(Exception):  # this form does not hold this mode
            Image.fromarray(NOISE[..., :3]).convert(mode).save(path)
            break
    else:
        pytest.skip(f"this Pillow lacks what it needs to write {form}")
    if form in Image.OPEN and form != "EPS":  # which needs Ghostscript
        assert data.read_image(path).shape == (3, 32, 32)
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    for number in range(60):
        content = bytearray(whole)
        place = int(random.integers(len(whole) if number % 2 else min(len(whole), 200)))
        if number % 3 == 0:
            del content[place:]
        elif number % 3 == 1:
            content[place] ^= 1 << int(random.integers(8))
        else:
            content[place : place + 20] = bytes(20)
        path.write_bytes(content)
        survives(lambda: data.read_image(path), path.name)


def header(form, width, height):
    """The beginning of a file that claims this size."""
    if form == "png":
        about = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
        body = b"IDAT" + zlib.compress(bytes(9))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
            for chunk in (about, body)
        )
    if form == "bmp":
        return b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, width, height, 1, 24, *[0] * 6)
    if form == "gif":
        size = struct.pack("<HH", min(width, 65535), min(height, 65535))
        return b"GIF89a" + size + b"\0\0\0," + bytes(4) + size + b"\0\2\1\0"
    return f"P6 {width} {height} 255\n".encode()


SIZES = [(13_000, 13_000), (65_535, 65_535), (2_000_000_000, 1), (1, 2_000_000_000)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("form", ["png", "bmp", "gif", "ppm"])
def test_a_header_that_claims_a_huge_picture(form, size, tmp_path):
    path = tmp_path / f"x.{form}"
    path.write_bytes(header(form, *size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(survives(lambda: data.read_image(path), path.name), str)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "KiB"


def in_a_child(call):
    """The status of call() in a process of its own, which has what is imported here."""
    child = os.fork()
    if not child:
        try:
            os._exit(int(call() or 0))
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_the_largest_picture_that_is_taken_fits_into_a_gigabyte(mode, tmp_path):
    path = tmp_path / "x.png"

    def write():
        Image.new(mode, (12_600, 12_600)).save(path, compress_level=1)

    def read():
        data.read_image(path)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > before + 1_000_000

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert in_a_child(write) == 0 and in_a_child(read) == 0


KINDS = {
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path),
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("words"),
    "pickle": lambda path: path.write_bytes(b"\x80\x04c__builtin__\nexit\n."),
    "PDF": lambda path: path.write_bytes(b"%PDF-1.4\n%\xe2\xe3\n"),
    "SVG": lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "film": lambda path: path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(99)),
    "HEIC": lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)),
}


def small_folder(root, classes=("ant", "bee")):
    for part, name in itertools.product(("train", "test"), classes):
        (root / part / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / part / name / "1.png")


@pytest.mark.parametrize("kind", KINDS)
def test_anything_under_the_name_of_a_picture(kind, tmp_path, capsys):
    small_folder(tmp_path)
    path = tmp_path / "train" / "ant" / "x.png"
    KINDS[kind](path)
    assert isinstance(survives(lambda: data.read_image(path), path.name), str)
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(path)])
    assert len(capsys.readouterr().err.splitlines()) == 1
    found = survives(lambda: data.load(tmp_path, source="folder", validation=0), path.name)
    if kind == "folder":  # then it is a folder of the class, without images
        assert len(found.train) == 2
    else:
        assert isinstance(found, str) and not list(tmp_path.glob("decoded-*"))


# --- names

NAMES = [
    "plain", "with space", "$x_1^2$", "a\nb", "\x1b[31mred", "<b>bold<b>", "&amp;", "%s%d{}", "'",
    '"', "--help", "日本語", "العربية", "🐈", "\u202eabc", "cafe\u0301", "a" * 251, "é" * 125,
    os.fsdecode(b"\xff\xfe"), "CON", "x.png", "…", "\t", "\u2028", "z\x7f",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_of_a_class_and_of_a_file(name, tmp_path, capsys):
    small_folder(tmp_path, ("ant", name))
    Image.new("RGB", (4, 4)).save(os.fsencode(tmp_path / "train" / "ant" / f"{name}.bmp"), "BMP")
    for _ in range(2):  # the second time from the cache
        cifar = data.load(tmp_path, source="folder", validation=0)
        assert len(cifar.classes) == 2 and len(cifar.train) == 3
        assert all(known.isprintable() for known in cifar.classes)
    main(["data", "--source", "folder", "--data", str(tmp_path)])
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    main(["predict", "--json", str(tmp_path / "train" / "ant" / f"{name}.bmp")])
    assert json.loads(capsys.readouterr().out)[0]["file"].endswith(f"{name}.bmp")


# --- folders

ENTRIES = {
    "a text": lambda part: (part / "x.txt").touch(),
    "a pipe": lambda part: os.mkfifo(part / "x"),
    "a hidden folder": lambda part: (part / ".git").mkdir(),
    "an empty class": lambda part: (part / "cow").mkdir(),
    "a class of another": lambda part: (part / "cow").symlink_to("ant"),
    "a circle": lambda part: (part / "ant" / "up").symlink_to(".."),
    "a link to nothing": lambda part: (part / "cow").symlink_to("nothing"),
    "a name twice": lambda part: [
        ((part / f).mkdir(), Image.new("L", (4, 4)).save(part / f / "1.png"))
        for f in ("caf\u00e9", "cafe\u0301")
    ],
    "a deep folder": lambda part: (part / "ant" / "/".join("d" * 60)).mkdir(parents=True),
    "a circle of two": lambda part: [
        ((part / "ant" / f).mkdir(), (part / "ant" / f / "to").symlink_to(f"../{other}"))
        for f, other in ("pq", "qp")
    ],
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("part", ["train", "test", "val"])
def test_what_turns_up_in_a_folder(part, entry, tmp_path, capsys):
    """Every image is read once, or one line says why not; nothing is passed over in silence."""
    small_folder(tmp_path)
    for name in ("ant", "bee") if part == "val" else ():
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "val" / name / "1.png")
    ENTRIES[entry](tmp_path / part)
    found = survives(lambda: data.load(tmp_path, source="folder", validation=0), str(tmp_path))
    silent = ("a hidden folder", "a deep folder")
    said = capsys.readouterr().err
    assert isinstance(found, str) or said or entry in silent
    if not isinstance(found, str):
        assert len(found.train) == 2 + (entry == "a class of another" and part == "train")


WRONG_ROOTS = {
    "empty": lambda root: root.mkdir(),
    "absent": lambda root: None,
    "a file": lambda root: root.touch(),
    "a pipe": os.mkfifo,
    "a link to itself": lambda root: root.symlink_to(root),
    "classes without train": lambda root: (root / "ant").mkdir(parents=True),
    "train is a file": lambda root: (root.mkdir(), (root / "train").touch()),
    "train is empty": lambda root: (root / "train").mkdir(parents=True),
    "pictures without classes": lambda root: (
        (root / "train").mkdir(parents=True),
        Image.new("L", (4, 4)).save(root / "train" / "x.png"),
    ),
    "no test": lambda root: (small_folder(root), (root / "test").rename(root / "validation")),
    "val is empty": lambda root: (small_folder(root), (root / "val").mkdir()),
    "val is a file": lambda root: (small_folder(root), (root / "val").touch()),
}


@pytest.mark.parametrize("kind", WRONG_ROOTS)
def test_a_root_that_holds_no_folders_of_images(kind, tmp_path, capsys):
    WRONG_ROOTS[kind](tmp_path / "root")
    with pytest.raises(SystemExit, match="2"):
        main(["data", "--source", "folder", "--data", str(tmp_path / "root")])
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "root") in line


# --- arrays

ARRAYS = {
    name: np.zeros(shape, kind)
    for kind in ("u1", "i1", ">u2", "i8", "f2", "f4", "?", "c8", "U3", "S3", "M8[s]", "i4,f4", "V3")
    for shape in ((4, 32, 32, 3), (4, 3, 32, 32), (4, 1), (4,), (4, 10), (), (0,), (0, 32, 32, 3))
    for name in [f"{kind} {shape}"]
}


@pytest.mark.parametrize("name", ARRAYS)
def test_any_array_as_images_and_as_labels(name, tmp_path):
    right = {"x": np.zeros((4, 32, 32, 3), np.uint8), "labels": np.arange(4)}
    for part in right:
        for file, array in (right | {part: ARRAYS[name]}).items():
            np.save(tmp_path / f"{file}.npy", array)
        found = survives(lambda: data.load(tmp_path, source="npy"), ".npy")
        assert isinstance(found, str) or len(found.test) in (0, 4)


@pytest.mark.parametrize("part", ["x", "labels"])
def test_a_damaged_array(part, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 32, 32, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(4))
    whole = (tmp_path / f"{part}.npy").read_bytes()
    for place in range(0, 140):
        for content in (whole[:place], whole[:place] + b"9" + whole[place + 1 :]):
            (tmp_path / f"{part}.npy").write_bytes(content)
            survives(lambda: data.load(tmp_path, source="npy"), f"{part}.npy")
