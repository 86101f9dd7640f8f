"""Verified files, against a real server on loopback that serves well or badly."""

import hashlib
import socket
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cifar_utils.sources import files

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.md5(CONTENT).hexdigest()


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
        if behaviour == "hang":
            return self.server.released.wait(10)
        if start >= len(content):
            return self.send_error(416)
        if behaviour in ("shifted", "from-zero"):
            start = start // 2 if behaviour == "shifted" else 0
        if behaviour == "wrong":
            content = b"<html>please log in</html>"

        partial = start or behaviour == "from-zero"
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        body = content[start:]
        if behaviour != "no-length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if behaviour in ("cut", "stall") else body)
        if behaviour == "stall":
            self.wfile.flush()
            self.server.released.wait(10)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def running_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
    monkeypatch.setattr(files, "TIMEOUT", (5, 5))
    running_server.asked.clear()
    return running_server


@pytest.fixture
def impatient(server, monkeypatch):
    """Shorter time-outs, for the tests in which the server falls silent."""
    monkeypatch.setattr(files, "TIMEOUT", (0.5, 0.4))


@pytest.fixture
def closed_port():
    with socket.socket() as held:  # bound and not listening: every connection is refused
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def fetch(server, folder, *behaviours):
    """Download through mirrors of these behaviours; what `folder` holds then."""
    files.download(folder / "file", [f"{server.url}/{b}" for b in behaviours], DIGEST)
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
    files.download(tmp_path / "a" / "b" / "file", [f"{server.url}/whole"], DIGEST)
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


def test_time_outs_are_neither_absent_nor_endless():
    connect, read = files.TIMEOUT
    assert 1 <= connect <= 30 and 5 <= read <= 60


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
        files.download(tmp_path / "file", urls, DIGEST)
    said = str(caught.value).replace(server.url.removeprefix("http://"), "server")
    assert said.startswith(f"no mirror delivered file (127.0.0.1:{closed_port}: no answer; ")
    parts = ["server: 404", "server: no answer", "server: wrong MD5", "server: broken off"]
    assert sorted(parts, key=said.index) == parts


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


# --- MD5 and whole files


def test_drives_without_locks_or_permissions_are_written_to(server, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert fetch(server, tmp_path, "whole") == {"file": CONTENT}
    monkeypatch.setattr(Path, "chmod", refuse)
    files.write_whole(tmp_path / "other", lambda path: path.write_bytes(b"x"))
    assert (tmp_path / "other").read_bytes() == b"x"


def test_md5_of_known_strings(tmp_path):
    known = {b"": "d41d8cd98f00b204e9800998ecf8427e", b"abc": "900150983cd24fb0d6963f7d28e17f72"}
    for content, digest in known.items():  # RFC 1321, A.5
        (tmp_path / "file").write_bytes(content)
        assert files.md5(tmp_path / "file") == digest


def test_write_whole_shows_the_old_file_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    files.write_whole(path, lambda temporary: temporary.write_bytes(b"old"))
    seen = []

    def write(temporary):
        temporary.write_bytes(b"half of ")
        seen.append(path.read_bytes())
        temporary.write_bytes(b"the new")

    files.write_whole(path, write)
    assert seen == [b"old"] and path.read_bytes() == b"the new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_write_whole_that_fails_leaves_everything_as_it_was(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(temporary):
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(error):
        files.write_whole(path, write)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"


def test_of_several_processes_one_downloads_and_all_have_the_file(server, tmp_path):
    failures = []

    def go():
        try:
            files.download(tmp_path / "file", [f"{server.url}/whole"], DIGEST)
        except Exception as error:
            failures.append(error)

    for _ in range(5):
        threads = [threading.Thread(target=go) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures and files.md5(tmp_path / "file") == DIGEST
        (tmp_path / "file").unlink()


@pytest.mark.parametrize(
    ("text", "name"),
    [("cat", "cat"), ("a/../b", "a_.._b"), ("..", "__"), ("", "_"), ("a\nb\x1b", "a_b_"),
     ("\udce9", "_"), ("猫 é", "猫 é"), ('<b>:"', "_b___"), ("é" * 200, "é" * 75)],
)  # fmt: skip
def test_any_text_becomes_a_safe_part_of_a_name(text, name):
    assert files.safe_name(text) == name
