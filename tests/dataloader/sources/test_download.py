"""Downloads against a small server: they resume, refuse wrong files, try mirrors, and say where to
put a file by hand.
"""

import hashlib
import http.server
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from farfield.dataloader.sources import download
from farfield.dataloader.sources.download import RemoteFile, fetch

CONTENT = b"PK" + np.random.default_rng(0).bytes(1_499_998)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves /file with ranges; ``server.break_after``: bytes of an answer after which the
    connection is cut (a list, one per request).
    """

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        if not self.path.startswith("/file"):
            return self.send_error(404)
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            return self.end_headers()
        first = 0
        expected = self.headers.get("Range")
        if expected and server.knows_ranges and self.headers.get("If-Range") == server.tag:
            first = int(expected.removeprefix("bytes=").rstrip("-"))
            if first >= len(server.content):
                return self.send_error(416)
        self.send_response(206 if first else 200)
        if first:
            self.send_header(
                "Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}"
            )
        if server.tag:
            self.send_header("ETag", server.tag)
        if server.announces:
            self.send_header("Content-Length", str(len(server.content) - first))
        self.end_headers()
        limit = server.break_after.pop(0) if server.break_after else None
        self.wfile.write(server.content[first:][:limit])
        server.sent += len(server.content[first:][:limit])

    def log_message(self, *arguments):
        pass


@pytest.fixture(autouse=True)
def plain_http(monkeypatch):
    """The servers of these tests have no certificates."""
    monkeypatch.setattr(download, "PLAIN_HTTP_HOSTS", frozenset({"127.0.0.1"}))


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    (
        server.content,
        server.tag,
        server.knows_ranges,
        server.break_after,
        server.ranges,
        server.sent,
    ) = CONTENT, '"one"', True, [], [], 0
    server.redirect, server.announces = None, True
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


class Bar:
    """Counts what it is told."""

    def __init__(self, total, done):
        self.total, self.done = total, done

    def update(self, count):
        self.done += count

    def close(self):
        assert self.total == len(CONTENT)


def remote(server, *paths, sha256=SHA) -> RemoteFile:
    return RemoteFile(
        "data.npz", tuple(server.url + path for path in (paths or ("/file",))), sha256
    )


def test_a_page_in_the_place_of_a_file_is_not_taken(server, tmp_path):
    server.content = b"<html>moved</html>"
    with pytest.raises(
        OSError, match=r"is not a \.npz file \(it begins with b'<h'\)\); put the file here"
    ):
        fetch(remote(server, sha256=None), tmp_path)
    assert listing(tmp_path) == []


def listing(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_arrives_whole_and_once(server, tmp_path):
    bars = []
    path = fetch(
        remote(server), tmp_path / "new", lambda name, *sizes: bars.append(Bar(*sizes)) or bars[-1]
    )
    assert path.read_bytes() == CONTENT
    assert bars[0].done == len(CONTENT)
    assert listing(path.parent) == ["data.npz", "data.npz.sha256"]
    fetch(remote(server), tmp_path / "new")
    assert len(server.ranges) == 1


def test_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.break_after = [600_000, 500_000]
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=600000-", "bytes=1100000-"]
    assert server.sent == len(CONTENT)


def test_next_session_goes_on_too(server, tmp_path):
    server.break_after = [600_000, 0, 0]
    with pytest.raises(
        OSError,
        match=r"the connection ended after 600000 of 1500000 bytes.*; put the file here: "
        r".*data\.npz \(from http",
    ):
        fetch(remote(server), tmp_path)
    assert not (tmp_path / "data.npz").exists()
    server.break_after, server.ranges[:] = [], []
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=600000-"]
    assert listing(tmp_path) == ["data.npz", "data.npz.sha256"]


def test_kill_between_the_last_byte_and_the_renaming(server, tmp_path):
    server.break_after = [600_000, 0, 0]
    with pytest.raises(OSError, match="ended after"):
        fetch(remote(server), tmp_path)
    server.break_after, server.ranges[:] = [], []
    (tmp_path / ".data.npz.part").write_bytes(CONTENT)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1500000-", None]


@pytest.mark.parametrize("change", ["other file", "no ranges"])
def test_server_that_cannot_go_on_sends_all_again(server, tmp_path, change):
    server.break_after = [600_000, 0, 0]
    with pytest.raises(OSError, match="ended after"):
        fetch(remote(server), tmp_path)
    server.break_after = []
    if change == "other file":
        server.content, server.tag = b"PK" + bytes(reversed(CONTENT)), '"two"'
    else:
        server.knows_ranges = False
    assert fetch(remote(server, sha256=None), tmp_path).read_bytes() == server.content


def test_part_without_a_mark_is_not_trusted(server, tmp_path):
    server.tag, server.break_after = None, [600_000, 0]
    with pytest.raises(OSError, match="ended after"):
        fetch(remote(server), tmp_path)
    server.break_after, server.ranges[:] = [], []
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_wrong_checksum_is_refused_and_removed(server, tmp_path):
    with pytest.raises(
        OSError, match=rf"wrong checksum \(SHA-256 {SHA[:12]}\.\.\., expected 000000000000"
    ):
        fetch(remote(server, sha256="0" * 64), tmp_path)
    assert listing(tmp_path) == []


def test_mirror_is_used(server, tmp_path):
    assert fetch(remote(server, "/absent", "/file"), tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_recorded_checksum_finds_later_damage(server, tmp_path):
    unknown = remote(server, sha256=None)
    path = fetch(unknown, tmp_path)
    assert (tmp_path / "data.npz.sha256").read_text().split() == [SHA, "data.npz"]
    broken = bytearray(CONTENT)
    broken[1000] ^= 1
    path.write_bytes(broken)
    with pytest.raises(
        ValueError,
        match=r"data\.npz is damaged or another file \(SHA-256 .*; remove it to have it "
        r"downloaded again",
    ):
        fetch(unknown, tmp_path)


def test_file_put_by_hand_is_taken(server, tmp_path):
    (tmp_path / "data.npz").write_bytes(b"by hand")
    assert fetch(remote(server, sha256=None), tmp_path).read_bytes() == b"by hand"
    assert server.ranges == []


def test_without_a_network_the_message_says_what_to_do(tmp_path):
    offline = RemoteFile("data.npz", ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"))
    with pytest.raises(OSError) as error:
        fetch(offline, tmp_path, timeout=1)
    message = str(error.value)
    assert message.endswith(
        f"put the file here: {tmp_path / 'data.npz'} (from http://127.0.0.1:9/a)"
    )
    assert "127.0.0.1:9/b" in message
    assert "\n" not in message


def test_plain_http_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PLAIN_HTTP_HOSTS", frozenset())
    with pytest.raises(OSError, match=r"only https is safe, not http\); put the file here"):
        fetch(remote(server), tmp_path)
    for url in ("ftp://127.0.0.1/file", "file:///etc/hostname", "/etc/hostname"):
        with pytest.raises(OSError, match="only https is safe"):
            fetch(RemoteFile("data.npz", (url,)), tmp_path)
    assert server.sent == 0 and listing(tmp_path) == []


@pytest.mark.parametrize("place", ["http://localhost:1/file", "ftp://127.0.0.1/file"])
def test_a_server_cannot_lead_away_from_https(server, tmp_path, place):
    server.redirect = place
    with pytest.raises(OSError, match="the server leads to .*: only https is safe"):
        fetch(remote(server), tmp_path)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("announced", [True, False])
def test_an_endless_answer_ends_at_the_largest_size(server, tmp_path, announced):
    server.announces = announced
    one = RemoteFile("data.npz", (server.url + "/file",), largest=len(CONTENT) // 2)
    with pytest.raises(OSError, match=f"bytes or more, the file may have {len(CONTENT) // 2}"):
        fetch(one, tmp_path)
    assert listing(tmp_path) == []


def test_a_download_leaves_room_on_the_disk(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=download.KEPT_FREE + len(CONTENT) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=f"the disk has room for {len(CONTENT) - 1}"):
        fetch(remote(server), tmp_path)
    assert listing(tmp_path) == []


def test_a_second_download_must_be_the_first_one(server, tmp_path):
    one = remote(server, sha256=None)
    path = fetch(one, tmp_path)
    path.unlink()
    server.content, server.tag = CONTENT[:-1] + b"?", '"two"'
    with pytest.raises(OSError, match="another file than at the first download"):
        fetch(one, tmp_path)
    assert listing(tmp_path) == ["data.npz.sha256"]
    (tmp_path / "data.npz.sha256").unlink()
    assert fetch(one, tmp_path).read_bytes() == server.content


def test_no_source_names_an_address_that_is_refused():
    import farfield.dataloader.sources as sources

    folder = Path(sources.__path__[0])
    for file in folder.glob("*.py"):
        assert '"http://' not in file.read_text(encoding="utf-8"), file
