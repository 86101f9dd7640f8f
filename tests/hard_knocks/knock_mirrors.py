"""Mirrors that refuse, stall, drip, lie or never end."""

import os
import random
import resource
import signal
import sys
import threading
import time

import pytest
import test_sources_download as served
from tqdm import tqdm

from cifar_utils.sources import download

running_server, server, closed_port = served.running_server, served.server, served.closed_port
BAD = [
    "missing", "hang", "stall", "cut", "wrong", "shifted", "from-zero", "no-range", "drip",
    "trickle", "drip-headers", "endless", "bomb", "circle", "garbage", "refused",
]  # fmt: skip
PARTS = {
    "nothing": None,
    "a good part": served.CONTENT[:99_999],
    "a wrong part": bytes(99_999),
    "all of it": served.CONTENT,
    "too much": served.CONTENT + b"more",
}


@pytest.fixture(autouse=True)
def impatient(server, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (0.5, 0.3))
    monkeypatch.setattr(download, "PATIENCE", 0.6)


@pytest.fixture
def get(server, closed_port, tmp_path):
    """A function that downloads to tmp_path/file from mirrors of these behaviours."""

    def get(*behaviours):
        urls = [f"{server.url}/{behaviour}" for behaviour in behaviours]
        urls = [
            f"http://127.0.0.1:{closed_port}" if url.endswith("refused") else url for url in urls
        ]
        size = len(served.CONTENT)
        download.download(tmp_path / "file", urls, served.DIGEST, size=size)

    return get


def whole(tmp_path):
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock")
    return names == ["file"] and (tmp_path / "file").read_bytes() == served.CONTENT


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_mirror_before_a_good_one(get, tmp_path, behaviour, part):
    if PARTS[part] is not None:
        (tmp_path / "file.part").write_bytes(PARTS[part])
    get(behaviour, "whole")
    assert whole(tmp_path)


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_mirror_alone_ends_in_one_line_and_leaves_nothing_wrong(get, tmp_path, behaviour):
    if behaviour in ("from-zero", "no-range", "shifted"):  # good, if nothing is there before
        (tmp_path / "file").write_bytes(b"old")
        get(behaviour)
        assert whole(tmp_path)
        return
    with pytest.raises(ConnectionError) as caught:
        get(behaviour, behaviour)
    said = str(caught.value)
    assert said.startswith("no mirror delivered file (127.0.0.1:") and said.isprintable()
    kept = tmp_path / "file.part"
    assert not kept.exists() or served.CONTENT.startswith(kept.read_bytes())
    assert not (tmp_path / "file").exists()


def in_a_child(call):
    child = os.fork()
    if not child:
        tqdm.set_lock(threading.RLock())  # else a child that is killed takes the parent's along
        try:
            call()
            os._exit(0)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(2)
        finally:
            os._exit(99)
    return child


def status_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("moment", range(20))
def test_a_download_that_is_killed_goes_on(get, server, tmp_path, moment):
    child = in_a_child(lambda: get("slow", "whole"))
    time.sleep(random.Random(moment).uniform(0, 0.3))
    os.kill(child, signal.SIGKILL)
    status_of(child)
    get("whole")
    assert whole(tmp_path)


@pytest.mark.parametrize("behaviour", ["whole", "cut", "missing", "wrong"])
def test_several_processes_at_once(get, server, tmp_path, behaviour):
    children = [in_a_child(lambda: get(behaviour, "whole")) for _ in range(4)]
    assert [status_of(child) for child in children] == [0] * 4
    assert whole(tmp_path)
    assert len(server.asked) <= 3, "one downloads, and the others wait"


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on a file's size")
@pytest.mark.parametrize("room", [0, 1, 4096, 65_536, 100_000, 299_999])
def test_a_full_disk_is_one_line_and_the_download_goes_on_later(get, tmp_path, room):
    out, said = os.pipe()  # because the limit is for all files, those that pytest captures too

    def limited():
        os.dup2(said, 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        get("whole")

    assert status_of(in_a_child(limited)) == 2
    os.close(said)
    with open(out) as lines:  # noqa: PTH123
        assert lines.read().splitlines()[-1].endswith(f"'{tmp_path / 'file.part'}'")
    assert not (tmp_path / "file").exists()
    get("whole")
    assert whole(tmp_path)
