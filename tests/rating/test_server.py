"""The server as a process: what it acknowledged survives kill -9, and nothing but 127.0.0.1 is listened on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.processes import environment
from tunesmith.errors import ResourceError
from tunesmith.rating import open_session, serve

pytest.importorskip("fastapi", reason="pip install 'tunesmith[rate]'")
pytest.importorskip("uvicorn", reason="pip install 'tunesmith[rate]'")


class Served:
    """A `tunesmith rate` process and its address."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith", "rate", str(folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=environment(),
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        address = urlsplit(self.first_line.split()[-1])
        self.port = address.port
        self.key = parse_qs(address.query)["key"][0]

    def ask(self, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-Rating-Key": self.key, "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer))


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[Served]:
    running = Served(folder, *arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def test_acknowledged_votes_survive_kill_9(rating) -> None:
    """Killed in the middle of votes from four raters at once, three times over; the order stays as it was."""
    session = rating(400)
    acknowledged: list[tuple[str, str]] = []

    def vote(running: Served, rater: str) -> None:
        try:
            while True:
                task = running.ask(f"/api/next?rater={rater}")["task"]
                running.ask("/api/votes", {"task": task["id"], "rater": rater, "choice": "tie"})
                acknowledged.append((task["id"], rater))
        except (OSError, http.client.HTTPException, ValueError):
            return  # the server is gone

    for round_number in range(1, 4):
        with served(session.folder) as running:
            threads = [threading.Thread(target=vote, args=(running, rater)) for rater in ("A", "B", "C", "D")]
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + 60
            while len(acknowledged) < 25 * round_number and time.monotonic() < deadline:
                time.sleep(0.01)
            running.process.send_signal(signal.SIGKILL)
            for thread in threads:
                thread.join()
        votes, damaged = session.votes.read()
        assert len(acknowledged) >= 25 * round_number
        assert set(acknowledged) <= {(one.task, one.rater) for one in votes}
        assert damaged == []
        assert open_session(session.folder) == session
    assert len(acknowledged) == len(set(acknowledged))  # nobody was asked again what was acknowledged


def test_only_this_machine_is_listened_to(rating) -> None:
    session = rating(2)
    with served(session.folder) as running:
        addresses = listening(running.process.pid)
        assert addresses == {("127.0.0.1", running.port)}


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses on which a process accepts TCP connections, from /proc."""
    descriptors = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    found = set()
    for line in (
        Path("/proc/net/tcp").read_text().splitlines()[1:] + Path("/proc/net/tcp6").read_text().splitlines()[1:]
    ):
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in descriptors:
            host, port = fields[1].split(":")
            found.add((socket.inet_ntoa(bytes.fromhex(host)[::-1]) if len(host) == 8 else host, int(port, 16)))
    return found


@pytest.fixture
def ctrl_c_counts() -> Iterator[None]:
    """A process takes over that it is ignored, as it is where a shell began the tests in its background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_counts")
def test_ctrl_c_ends_it_and_says_what_is_kept(rating) -> None:
    session = rating(3)
    with served(session.folder) as running:
        task = running.ask("/api/next?rater=A")["task"]
        running.ask("/api/votes", {"task": task["id"], "rater": "A", "choice": "left"})
        running.process.send_signal(signal.SIGINT)
        out, err = running.process.communicate(timeout=30)
        assert running.process.returncode == 130
    assert running.first_line.startswith("open  http://127.0.0.1:")
    assert f"1 votes in {session.votes.path}" in err
    assert f"tunesmith rate {session.folder} --results" in err
    assert "Traceback" not in out + err


def test_every_start_has_another_key(rating) -> None:
    session = rating(2)
    with served(session.folder) as first, served(session.folder) as second:
        assert first.key != second.key
        assert len(first.key) >= 32
        second.key = first.key
        with pytest.raises(urllib.error.HTTPError, match="403"):
            second.ask("/api/rating")


def test_a_port_in_use_is_told(rating) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"port {port} is in use") as caught:
            serve(rating(2), announce=print, port=port)
    assert "--port" in str(caught.value.fix)


@pytest.mark.parametrize("port", [70_000, -1])
def test_a_port_that_is_none_is_told(rating, port: int) -> None:
    with pytest.raises(ResourceError, match=f"port {port} cannot be had"):
        serve(rating(2), announce=print, port=port)
