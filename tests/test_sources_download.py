"""Downloads, against a real server on loopback that serves well or badly."""

import gzip
import hashlib
import os
import socket
import tempfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import posix
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cifar_utils.errors import CifarError
from cifar_utils.sources import download
from cifar_utils.sources.files import digest_of

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.md5(CONTENT).hexdigest()
BOMB = gzip.compress(bytes(20_000_000))


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT; the path says with which behaviour."""

    def do_GET(self):
        behaviour = self.path.strip("/")
        self.server.asked.append((behaviour, self.headers["Range"]))
        content, start = CONTENT, 0
        if self.headers["Range"] and behaviour not in ("no-range", "wrong"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if behaviour == "missing":
            return self.send_error(404)
        if behaviour == "no-such-range":  # though none was asked for
            return self.send_error(416)
        if behaviour == "hang":
            return self.server.released.wait(10)
        if behaviour == "circle":
            self.send_response(302)
            self.send_header("Location", "/circle")
            return self.end_headers()
        if behaviour == "garbage":
            return self.wfile.write(b"\0" * 1000)
        if behaviour == "drip-headers":
            return self.drip(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000)
        if start >= len(content):
            return self.send_error(416)
        if behaviour in ("shifted", "from-zero"):
            start = start // 2 if behaviour == "shifted" else 0
        if behaviour == "wrong":
            content = b"<html>please log in</html>"
        if behaviour == "bomb":
            content = BOMB
        if behaviour == "endless":
            content = CONTENT * 20

        partial = start or behaviour == "from-zero"
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        body = content[start:]
        if behaviour in ("bomb", "labelled"):
            self.send_header("Content-Encoding", "gzip")
        if behaviour not in ("no-length", "endless"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behaviour == "slow":  # though fast enough
            for place in range(0, len(body), 10_000):
                self.wfile.write(body[place : place + 10_000])
                time.sleep(0.01)
            return None
        if behaviour in ("drip", "trickle"):
            return self.drip(body, 1 if behaviour == "drip" else 20)
        self.wfile.write(body[: len(body) // 2] if behaviour in ("cut", "stall") else body)
        if behaviour == "stall":
            self.wfile.flush()
            self.server.released.wait(10)

    def drip(self, content, count=1):
        """Some bytes now and then: each comes in time, and all together never."""
        with suppress(OSError):  # the other side has gone
            for place in range(0, 100 * count, count):
                self.wfile.write(content[place : place + count])
                self.wfile.flush()
                if self.server.released.wait(0.1):
                    return

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def running_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that leaves is what is tested
    server.asked, server.released = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(running_server, monkeypatch):
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(download, "TIMEOUT", (5, 5))
    running_server.asked.clear()
    return running_server


@pytest.fixture
def impatient(server, monkeypatch):
    """Shorter time-outs, for the tests in which the server falls silent."""
    monkeypatch.setattr(download, "TIMEOUT", (0.5, 0.4))
    monkeypatch.setattr(download, "PATIENCE", 1)


@pytest.fixture
def closed_port():
    with socket.socket() as held:  # bound and not listening: every connection is refused
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def fetch(server, folder, *behaviours):
    """Download through mirrors of these behaviours; what `folder` holds then."""
    download.download(
        folder / "file", [f"{server.url}/{b}" for b in behaviours], DIGEST, size=len(CONTENT)
    )
    found = [path for path in folder.iterdir() if path.suffix != ".lock"]
    return {path.name: path.read_bytes() for path in found}


def ranges(server):
    return [asked for _, asked in server.asked]


# --- download


def test_whole_file_arrives_with_one_request_and_a_progress_bar(server, tmp_path, capsys):
    assert fetch(server, tmp_path, "whole") == {"file": CONTENT}
    assert server.asked == [("whole", None)]
    shown = capsys.readouterr().err
    assert "file" in shown and "100%" in shown and "300k" in shown


def test_parent_folders_are_made(server, tmp_path):
    download.download(
        tmp_path / "a" / "b" / "file", [f"{server.url}/whole"], DIGEST, size=len(CONTENT)
    )
    assert (tmp_path / "a" / "b" / "file").read_bytes() == CONTENT


def test_reply_without_a_length_is_taken(server, tmp_path):
    assert fetch(server, tmp_path, "no-length") == {"file": CONTENT}


def test_cut_transfer_goes_on_where_it_stopped_even_on_another_mirror(server, tmp_path, capsys):
    assert fetch(server, tmp_path, "cut", "whole") == {"file": CONTENT}
    starts = [int(asked[6:-1]) for asked in ranges(server)[1:]]
    assert ranges(server)[0] is None and 100_000 < starts[0] < starts[1] and len(starts) == 2
    assert "100%" in capsys.readouterr().err.splitlines()[-1]


def test_cut_transfer_is_resumed_by_a_later_call(server, tmp_path):
    with pytest.raises(ConnectionError, match="broken off"):
        fetch(server, tmp_path, "cut")
    kept = (tmp_path / "file.part").stat().st_size
    assert 100_000 < kept < len(CONTENT) and not (tmp_path / "file").exists()
    server.asked.clear()
    assert fetch(server, tmp_path, "whole") == {"file": CONTENT}
    assert ranges(server) == [f"bytes={kept}-"]


def test_stalled_transfer_times_out_and_is_resumed(server, impatient, tmp_path):
    start = time.perf_counter()
    assert fetch(server, tmp_path, "stall", "whole") == {"file": CONTENT}
    assert time.perf_counter() - start < 5
    assert server.asked[-1][0] == "whole" and server.asked[-1][1] is not None


def test_server_that_hangs_is_left_after_the_read_time_out(server, impatient, tmp_path):
    start = time.perf_counter()
    assert fetch(server, tmp_path, "hang", "whole") == {"file": CONTENT}
    assert 0.4 <= time.perf_counter() - start < 5


def test_server_that_ignores_ranges_makes_the_transfer_start_over(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert fetch(server, tmp_path, "no-range") == {"file": CONTENT}
    assert server.asked == [("no-range", "bytes=1000-")]


def test_range_from_the_very_start_replaces_what_was_there(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert fetch(server, tmp_path, "from-zero") == {"file": CONTENT}
    assert ranges(server) == ["bytes=1000-"]


def test_range_from_the_wrong_offset_is_thrown_away_and_fetched_afresh(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert fetch(server, tmp_path, "shifted") == {"file": CONTENT}
    assert ranges(server) == ["bytes=1000-", None]


def test_part_with_wrong_bytes_is_thrown_away_and_fetched_afresh(server, tmp_path):
    (tmp_path / "file.part").write_bytes(bytes(1000))
    assert fetch(server, tmp_path, "whole") == {"file": CONTENT}
    assert ranges(server) == ["bytes=1000-", None]


def test_part_that_was_complete_is_taken_without_a_transfer(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path, "whole") == {"file": CONTENT}
    assert ranges(server) == [f"bytes={len(CONTENT)}-"]  # answered with 416


def test_part_that_is_too_long_is_fetched_afresh(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    assert fetch(server, tmp_path, "whole") == {"file": CONTENT}


def test_wrong_bytes_are_tried_twice_a_mirror_and_never_kept(server, tmp_path):
    (tmp_path / "file").write_bytes(b"what was there")
    with pytest.raises(ConnectionError, match="wrong MD5"):
        fetch(server, tmp_path, "wrong")
    assert len(server.asked) == 2
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"what was there"


def test_missing_file_is_asked_for_once(server, tmp_path):
    assert fetch(server, tmp_path, "missing", "whole") == {"file": CONTENT}
    assert [behaviour for behaviour, _ in server.asked] == ["missing", "whole"]


def test_mirrors_after_the_first_good_one_are_left_alone(server, tmp_path):
    fetch(server, tmp_path, "whole", "whole", "missing")
    assert len(server.asked) == 1


def test_error_says_what_every_mirror_did(server, impatient, tmp_path, closed_port):
    urls = [f"http://127.0.0.1:{closed_port}/file"]
    urls += [f"{server.url}/{behaviour}" for behaviour in ("missing", "hang", "wrong", "cut")]
    with pytest.raises(ConnectionError) as caught:
        download.download(tmp_path / "file", urls, DIGEST, size=len(CONTENT))
    said = str(caught.value).replace(server.url.removeprefix("http://"), "server")
    assert said.startswith(f"no mirror delivered file (127.0.0.1:{closed_port}: no answer; ")
    parts = ["server: 404", "server: no answer", "server: wrong MD5", "server: broken off"]
    assert sorted(parts, key=said.index) == parts


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("drip", "too slow"),
        ("drip-headers", "no answer"),
        ("endless", "more bytes than the file has"),
        ("bomb", "wrong MD5"),
        ("circle", "no answer"),
        ("garbage", "no answer"),
        ("no-such-range", "416"),
    ],
)
def test_a_mirror_that_cheats_is_moved_past(server, impatient, tmp_path, behaviour, said):
    with pytest.raises(ConnectionError, match=said):
        fetch(server, tmp_path, behaviour)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= len(CONTENT)
    (tmp_path / "file.part").unlink(missing_ok=True)
    assert fetch(server, tmp_path, behaviour, "whole") == {"file": CONTENT}


def test_a_mirror_that_trickles_is_left_and_what_it_sent_is_kept(server, tmp_path, monkeypatch):
    """It delivers whole pieces, though fewer than SLOWEST asks for."""
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    monkeypatch.setattr(download, "CHUNK", 10)
    with pytest.raises(ConnectionError, match=r"too slow; .*too slow"):  # it may try twice
        fetch(server, tmp_path, "trickle")
    kept = (tmp_path / "file.part").stat().st_size
    assert 0 < kept < 10_000 and (tmp_path / "file.part").read_bytes() == CONTENT[:kept]
    server.asked.clear()
    monkeypatch.setattr(download, "PATIENCE", 5)
    assert fetch(server, tmp_path, "whole") == {"file": CONTENT}
    assert ranges(server) == [f"bytes={kept}-"]


def test_bytes_are_taken_as_they_are_sent(server, tmp_path):
    """Some servers say of a .tar.gz that its encoding is gzip."""
    assert fetch(server, tmp_path, "labelled") == {"file": CONTENT}


@posix
def test_what_is_no_file_in_a_download_s_place_is_named(server, tmp_path):
    for name, make in (("file", os.mkfifo), ("file", Path.mkdir), ("file.part", os.mkfifo)):
        make(tmp_path / name)
        with pytest.raises(CifarError, match=f"{name}: it is a "):
            fetch(server, tmp_path, "whole")
        (tmp_path / name).rmdir() if (tmp_path / name).is_dir() else (tmp_path / name).unlink()


def test_a_full_disk_is_one_line_and_the_download_goes_on_later(server, tmp_path, monkeypatch):
    open_file = Path.open

    class Full:
        """A file on a disk with room for two pieces."""

        def __init__(self, *arguments):
            self.file, self.room = open_file(*arguments), 2

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, chunk):
            self.room -= 1
            if self.room < 0:
                raise OSError(28, "No space left on device")
            self.file.write(chunk)

    monkeypatch.setattr(
        Path, "open", lambda path, mode: (Full if mode == "wb" else open_file)(path, mode)
    )
    with pytest.raises(OSError, match=r"No space left on device: '.*file.part'"):
        fetch(server, tmp_path, "whole")
    kept = (tmp_path / "file.part").stat().st_size
    assert fetch(server, tmp_path, "whole") == {"file": CONTENT}
    assert ranges(server) == [None, f"bytes={kept}-"] and kept == 2 * download.CHUNK


def test_time_outs_are_what_the_docstring_says():
    said = download.download.__doc__
    assert download.TIMEOUT == (5, 20) and "within 5 seconds, sends nothing for 20" in said
    assert download.PATIENCE == 60 and "reply after 60" in said
    assert f"{download.SLOWEST:,} bytes per second over 60" in said


bad = st.sampled_from(["missing", "wrong", "cut", "no-range", "shifted", "from-zero"])


@given(behaviours=st.lists(bad, max_size=4), part=st.sampled_from(["", "good", "bad", "long"]))
@example(behaviours=["cut", "cut", "shifted", "cut"], part="bad")
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_chain_that_ends_well_delivers_the_exact_bytes(server, behaviours, part):
    parts = {"good": CONTENT[:9999], "bad": bytes(9999), "long": CONTENT * 2}
    with tempfile.TemporaryDirectory() as folder:
        if part:
            (Path(folder) / "file.part").write_bytes(parts[part])
        assert fetch(server, Path(folder), *behaviours, "whole") == {"file": CONTENT}


def test_drives_without_locks_are_written_to(server, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert fetch(server, tmp_path, "whole") == {"file": CONTENT}


def test_of_several_processes_one_downloads_and_all_have_the_file(server, tmp_path):
    failures = []

    def go():
        try:
            download.download(tmp_path / "file", [f"{server.url}/whole"], DIGEST, size=len(CONTENT))
        except Exception as error:
            failures.append(error)

    for _ in range(5):
        threads = [threading.Thread(target=go) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures and digest_of(tmp_path / "file") == DIGEST
        (tmp_path / "file").unlink()
