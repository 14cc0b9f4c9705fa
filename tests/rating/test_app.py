"""The web application: who is let in, what is answered, and that nothing answered names a model."""

from __future__ import annotations

import errno
import os
import re

import pytest

from tunesmith.rating import Item, results
from tunesmith.rating.app import create_app

pytest.importorskip("fastapi", reason="pip install 'tunesmith[rate]'")
pytest.importorskip("httpx", reason="pip install httpx")
from starlette.testclient import TestClient

KEY = "the-key"
HOME = "http://127.0.0.1:8765"


def client_of(session, **headers: str) -> TestClient:
    app = create_app(session, key=KEY, port=8765)
    return TestClient(app, base_url=HOME, headers={"X-Rating-Key": KEY, **headers})


def test_a_rating_from_the_first_to_the_last_vote(rating) -> None:
    session = rating(3)
    client = client_of(session)
    for done in range(3):
        answer = client.get("/api/next", params={"rater": "Ann"}).json()
        assert answer["progress"]["done"] == done
        vote = {"task": answer["task"]["id"], "rater": " Ann ", "choice": "left", "comment": "c", "seconds": 2.5}
        saved = client.post("/api/votes", json=vote)
        assert saved.status_code == 200
        assert saved.json()["progress"]["done"] == done + 1
        assert len(session.votes.read()[0]) == done + 1
    assert client.get("/api/next", params={"rater": "Ann"}).json()["task"] is None
    assert results(session).raters == {"Ann": 3}


def test_half_a_surrogate_pair_is_shown(rating) -> None:
    """An answer that a program cut in the middle of an emoji: JSON can say it, UTF-8 cannot."""
    session = rating(0, items=[Item("Q?", None, {"a": "fine \ud83d", "b": "bad"})])
    answer = client_of(session).get("/api/next", params={"rater": "Ann"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert sorted(answer.json()["task"]["answers"]) == ["bad", "fine \ud83d"]


def test_a_vote_can_be_looked_at_and_changed(rating) -> None:
    session = rating(2)
    client = client_of(session)
    task = session.tasks[0].id
    for choice in ("left", "both_bad"):
        client.post("/api/votes", json={"task": task, "rater": "Ann", "choice": choice, "comment": choice})
    again = client.get(f"/api/tasks/{task}", params={"rater": "Ann"}).json()
    assert again["vote"] == {"choice": "both_bad", "scores": {}, "comment": "both_bad"}
    assert client.get(f"/api/tasks/{task}", params={"rater": "Bob"}).json()["vote"] is None
    assert results(session).votes == 1


def test_nothing_answered_names_a_model(rating) -> None:
    session = rating(4, models=3, show_reference=True)
    client = client_of(session)
    everything = [client.get("/", params={"key": KEY}), client.get("/api/rating")]
    for rater in ("Ann", "Bob"):
        for task in session.tasks:
            everything += [client.get("/api/next", params={"rater": rater})]
            everything += [client.get(f"/api/tasks/{task.id}", params={"rater": rater})]
            everything += [client.post("/api/votes", json={"task": task.id, "rater": rater, "choice": "right"})]
    everything += [client.post("/api/votes", json={"task": "x", "rater": "Ann", "choice": "left"})]
    for answer in everything:
        told = f"{answer.headers} {answer.text}"
        assert not any(name in told for name in session.contestants)
        assert str(session.folder) not in told
        assert session.source not in told
    assert session.contestants[0] not in session.votes.path.read_text()


def test_what_is_shown_first_follows_no_model(rating) -> None:
    """Over 10,000 tasks as they are answered: the model on the left, by the chi-square test."""
    session = rating(10_000)
    first = session.contestants[0]
    texts = {item.answers[first] for item in session.items}
    left = sum(session.shown(task)["answers"][0] in texts for task in session.tasks)
    assert (left - 5000) ** 2 / 5000 * 2 < 6.635


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/api/rating"), ("GET", "/api/next?rater=A"), ("POST", "/api/votes"), ("GET", "/nothing")],
)
def test_without_the_key_nothing_is_answered(rating, method: str, path: str) -> None:
    session = rating(2)
    client = TestClient(create_app(session, key=KEY, port=8765), base_url=HOME)
    vote = {"task": session.tasks[0].id, "rater": "A", "choice": "left"}
    body = {"json": vote} if method == "POST" else {}
    for headers in ({}, {"X-Rating-Key": "wrong"}, {"X-Rating-Key": ""}, {"Cookie": f"key={KEY}"}):
        answer = client.request(method, path, headers=headers, **body)
        assert answer.status_code == 403
        assert "the key is missing or wrong" in answer.text
    assert session.votes.read() == ([], [])


def test_the_key_in_an_address_opens_the_page_alone(rating) -> None:
    client = TestClient(create_app(rating(2), key=KEY, port=8765), base_url=HOME)
    assert client.get("/", params={"key": KEY}).status_code == 200
    assert client.get("/", params={"key": "wrong"}).status_code == 403
    assert client.get("/api/next", params={"rater": "A", "key": KEY}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example:8765", "127.0.0.1:1", "127.0.0.1", "0.0.0.0:8765", ""])
def test_other_host_names_are_refused(rating, host: str) -> None:
    answer = client_of(rating(2)).get("/api/rating", headers={"Host": host})
    assert answer.status_code == 421


def test_requests_from_other_sites_are_refused(rating) -> None:
    session = rating(2)
    vote = {"task": session.tasks[0].id, "rater": "A", "choice": "left"}
    client = client_of(session)
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://localhost:8765"):
        assert client.post("/api/votes", json=vote, headers={"Origin": origin}).status_code == 403
    assert session.votes.read() == ([], [])
    asked = client.options("/api/votes", headers={"Access-Control-Request-Method": "POST"})
    allowed = client.post("/api/votes", json=vote, headers={"Origin": HOME})
    assert allowed.status_code == 200
    for answer in (asked, allowed):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_localhost_is_the_same_machine(rating) -> None:
    assert client_of(rating(2)).get("/api/rating", headers={"Host": "localhost:8765"}).status_code == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "0000000000000000"}, "there is no task '0000000000000000'"),
        ({"choice": "middle"}, "one of left, right, tie, both_bad, found 'middle'"),
        ({"choice": None}, "one of left, right, tie, both_bad"),
        ({"scores": {"correct": 3}}, "one of left, right, tie, both_bad"),
        ({"rater": "  "}, "rater: String should have at least 1 character"),
        ({"rater": "x" * 101}, "rater: String should have at most 100 characters"),
        ({"comment": "x" * 5001}, "comment: String should have at most 5000 characters"),
        ({"seconds": -1}, "seconds: Input should be greater than or equal to 0"),
        ({"model": "base"}, "model: Extra inputs are not permitted"),
    ],
)
def test_a_vote_that_is_none_is_told(rating, change: dict, message: str) -> None:
    session = rating(2)
    vote = {"task": session.tasks[0].id, "rater": "A", "choice": "left", **change}
    answer = client_of(session).post("/api/votes", json=vote)
    assert answer.status_code == 422
    assert message in answer.json()["error"]
    assert session.votes.read() == ([], [])


@pytest.mark.parametrize("scores", [{}, {"correct": 3}, {"correct": 6, "clear": 1}, {"correct": 3, "clear": 3, "x": 1}])
def test_scores_are_those_that_were_asked_for(rating, scores: dict) -> None:
    session = rating(2, criteria=("correct", "clear"))
    client = client_of(session)
    assert client.get("/api/rating").json()["criteria"] == ["correct", "clear"]
    vote = {"task": session.tasks[0].id, "rater": "A", "scores": scores}
    answer = client.post("/api/votes", json=vote)
    assert answer.status_code == 422
    assert "a score from 1 to 5 for each of correct, clear" in answer.json()["error"]
    assert client.post("/api/votes", json={**vote, "scores": {"correct": 1, "clear": 5}}).status_code == 200


def test_a_vote_that_cannot_be_kept_is_not_acknowledged(rating, monkeypatch: pytest.MonkeyPatch) -> None:
    session = rating(2)
    client = client_of(session)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    answer = client.post("/api/votes", json={"task": session.tasks[0].id, "rater": "A", "choice": "left"})
    assert answer.status_code == 507
    assert "the disk is full" in answer.json()["error"]


def test_the_page_is_one_file_that_asks_nobody_else(rating) -> None:
    client = client_of(rating(2))
    first, second = (client.get("/", params={"key": KEY}) for _ in range(2))
    policy = first.headers["content-security-policy"]
    nonce = re.search("script-src 'nonce-([^']+)'", policy)
    assert nonce
    assert "default-src 'none'" in policy
    assert f'<script nonce="{nonce[1]}">' in first.text
    assert nonce[1] not in second.text
    assert KEY not in first.text
    assert not re.findall(r"""(?:src|href|url|import)\s*[=(]\s*["']?(?!data:)(?:https?:)?//""", first.text)
    assert first.headers["referrer-policy"] == "no-referrer"
    assert first.headers["cache-control"] == "no-store"


def test_the_page_writes_no_html_from_texts(rating) -> None:
    page = client_of(rating(2)).get("/", params={"key": KEY}).text
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", page)
    assert page.count("textContent") > 5


def test_tags_in_answers_are_sent_as_json_only(rating) -> None:
    from tunesmith.rating import Item

    text = "</script><script>alert(1)</script>"
    session = rating(0, items=[Item(text, text, {"a": text, "b": "<img src=x onerror=alert(1)>"})])
    answer = client_of(session).get("/api/next", params={"rater": "A"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert text in answer.json()["task"]["answers"]
