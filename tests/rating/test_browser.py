"""The page in headless Chromium: keys, comments, several raters, both schemes, a phone; texts stay texts.

Needs the package playwright and a Chromium (apt install chromium, or the path in CHROMIUM); without them it is skipped.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterator

import pytest

from tunesmith.rating import Item, Session, results, server

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytest.importorskip("fastapi", reason="pip install 'tunesmith[rate]'")
uvicorn = pytest.importorskip("uvicorn", reason="pip install 'tunesmith[rate]'")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="apt install chromium"),
]
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
LONG = "A long answer. " * 400


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., object]


@pytest.fixture
def open_page(chromium, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """open_page(session, rater) -> the page of a served rating; what the browser complains of fails the test."""
    ends: list[Callable[[], None]] = []
    complaints: list[str] = []

    def start(session: Session, rater: str | None = "Ann", **context: object):
        address = serve_in_thread(session, monkeypatch, ends)
        page = chromium.new_context(**context).new_page()
        ends.append(page.close)
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on(
            "request",
            lambda request: None if request.url.startswith(address.split("?")[0]) else complaints.append(request.url),
        )
        page.goto(address)
        if rater is not None:
            page.fill("#name", rater)
            page.keyboard.press("Enter")
            page.wait_for_selector("#work:not([hidden])")
        return page

    yield start
    for end in reversed(ends):
        end()
    assert [text for text in complaints if "status of 507" not in text] == []


def serve_in_thread(session: Session, monkeypatch: pytest.MonkeyPatch, ends: list[Callable[[], None]]) -> str:
    """The address of a server in this process, ended by the function added to `ends`."""
    servers = []

    class Server(uvicorn.Server):
        def __init__(self, config) -> None:
            super().__init__(config)
            servers.append(self)

        def run(self, sockets=None) -> None:
            asyncio.run(self._serve(sockets))  # without its signal handlers: this is no main thread

    monkeypatch.setattr(uvicorn, "Server", Server)
    addresses: list[str] = []
    ready = threading.Event()

    def announce(address: str) -> None:
        addresses.append(address)
        ready.set()

    thread = threading.Thread(target=server.serve, args=(session,), kwargs={"announce": announce})
    thread.start()

    def end() -> None:
        servers[0].should_exit = True
        thread.join(20)

    assert ready.wait(20)
    ends.append(end)
    return addresses[0]


def press(page, *keys: str) -> None:
    """Keys, each after the page has taken in the last."""
    for key in keys:
        before = page.inner_text("#count")
        page.keyboard.press(key)
        page.wait_for_function("text => document.getElementById('count').textContent !== text", arg=before)


def test_keys_vote_and_the_votes_are_those_of_the_models(rating, open_page) -> None:
    session = rating(6)
    page = open_page(session)
    press(page, "ArrowLeft", "ArrowRight", "a", "b", "t", "x")
    page.wait_for_selector("#done:not([hidden])")
    votes = [(vote.task, vote.choice) for vote in session.votes.read()[0]]
    choices = ["left", "right", "left", "right", "tie", "both_bad"]
    assert votes == list(zip([task.id for task in session.tasks], choices, strict=True))
    assert results(session).raters == {"Ann": 6}


def test_what_is_on_the_left_is_the_left_answer(rating, open_page) -> None:
    session = rating(4)
    page = open_page(session)
    for task in session.tasks:
        shown = [element.inner_text() for element in page.query_selector_all(".answer .text")]
        assert shown == session.shown(task)["answers"]
        press(page, "t")


def test_letters_in_a_comment_are_no_votes(rating, open_page) -> None:
    session = rating(2)
    page = open_page(session)
    page.keyboard.press("c")
    page.keyboard.type("a b t x <b>")
    assert session.votes.read() == ([], [])
    page.keyboard.press("Escape")
    press(page, "b")
    (vote,) = session.votes.read()[0]
    assert (vote.choice, vote.comment) == ("right", "a b t x <b>")
    assert vote.seconds is not None
    assert page.input_value("#comment") == ""


def test_a_vote_is_changed_by_going_back(rating, open_page) -> None:
    session = rating(3)
    page = open_page(session)
    press(page, "a", "a")
    page.keyboard.press("p")
    page.wait_for_selector("[data-choice=left][aria-pressed=true]")
    page.click("[data-choice=tie]")
    page.wait_for_function("id => state.task.id === id", arg=session.tasks[2].id)
    found = results(session)
    assert found.votes == 2
    assert sorted(vote.choice for vote in session.votes.read()[0]) == ["left", "left", "tie"]


def test_a_reload_goes_on_and_another_rater_starts_over(rating, open_page) -> None:
    session = rating(3)
    page = open_page(session)
    press(page, "a")
    page.reload()
    page.wait_for_selector("#work:not([hidden])")
    assert page.inner_text("#count") == "1 of 3 rated"
    page.click("#other")
    page.fill("#name", "Bob")
    page.click("#enter button")
    page.wait_for_selector("#work:not([hidden])")
    assert page.inner_text("#count") == "0 of 3 rated"
    assert page.inner_text("#name-shown") == "Bob"


def test_what_was_said_before_the_question_of_a_chat_is_shown_as_text(rating, open_page) -> None:
    turns = [
        {"role": "user", "content": HOSTILE},
        {"role": "assistant", "content": "A."},
        {"role": "user", "content": "Q?"},
    ]
    session = rating(
        0, items=[Item("Q?", None, {"a": "1", "b": "2"}, tuple(turns)), Item("R?", None, {"a": "1", "b": "2"})]
    )
    page = open_page(session)
    for task in session.tasks:
        shown = [element.inner_text() for element in page.query_selector_all("#earlier p")]
        assert len(shown) == (2 if session.items[task.item].conversation else 0)
        assert shown[1:] in ([], ["assistant A."])
        assert page.evaluate("window.hacked") is None
        press(page, "t")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 860), (360, 740)], ids=["wide", "phone"])
def test_hostile_and_long_texts_stay_texts_inside_their_cards(rating, open_page, scheme: str, size) -> None:
    asked = [Item(HOSTILE, HOSTILE, {"a": HOSTILE, "b": LONG}), Item("Q", "x" * 5000, {"a": "y" * 5000, "b": ""})]
    session = rating(0, items=asked, show_reference=True)
    page = open_page(session, color_scheme=scheme, viewport={"width": size[0], "height": size[1]})
    for task in session.tasks:
        texts = [element.inner_text() for element in page.query_selector_all(".answer .text")]
        assert sorted(text.strip() for text in texts) == sorted(
            t.strip() or "(no answer)" for t in asked[task.item].answers.values()
        )
        assert page.inner_text("#asked") == asked[task.item].question
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert page.evaluate("[...document.querySelectorAll('.answer .text')].every(e => e.clientHeight < innerHeight)")
        assert page.evaluate("window.hacked") is None
        assert page.query_selector_all("main img") == []
        press(page, "t")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(rating, open_page, scheme: str) -> None:
    """WCAG 2.2: at least 4.5 to 1 against the nearest background, disabled controls aside."""
    page = open_page(rating(3, show_reference=True), color_scheme=scheme)
    press(page, "a")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 12
    assert {text: ratio for text, ratio in found if ratio < 4.5} == {}


CONTRASTS = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const part = channels(color).slice(0, 3).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (channels(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const isText = (e) => e.offsetParent && !e.disabled && !["SCRIPT", "STYLE"].includes(e.tagName);
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  return [...document.querySelectorAll("body *")].filter((e) => isText(e) && own(e)).map((e) => {
      const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
      return [e.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)];
  });
}"""


NAMELESS = """() => [...document.querySelectorAll("button, textarea, input, [tabindex='0'], progress")]
  .filter((e) => e.offsetParent && !(e.textContent.trim() && e.tagName === "BUTTON"))
  .filter((e) => !e.getAttribute("aria-label") && !(e.labels && e.labels.length)).map((e) => e.outerHTML)"""


def test_everything_can_be_reached_and_has_a_name(rating, open_page) -> None:
    page = open_page(rating(3, show_reference=True))
    press(page, "a")
    nameless = page.evaluate(NAMELESS)
    assert nameless == []
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.dataset.choice || document.activeElement.id || document.activeElement.className"
            )
        )
    assert {"left", "tie", "both_bad", "right", "comment", "back", "other", "text", "reference"} <= set(reached)


def test_scores_by_keys_and_by_mouse(rating, open_page) -> None:
    session = rating(1, criteria=("correct", "<b>clear</b>"))
    page = open_page(session)
    assert page.is_disabled("#send")
    page.keyboard.press("4")
    page.keyboard.press("2")
    press(page, "Enter")
    page.click("fieldset:nth-child(1) label:nth-child(5)")
    page.click("fieldset:nth-child(2) label:nth-child(1)")
    page.click("#send")
    page.wait_for_selector("#done:not([hidden])")
    scores = [vote.scores for vote in session.votes.read()[0]]
    assert scores == [{"correct": 4, "<b>clear</b>": 2}, {"correct": 5, "<b>clear</b>": 1}]


KEPT = """() => document.documentElement.outerHTML + JSON.stringify(state) + document.cookie
  + JSON.stringify({...sessionStorage, ...localStorage})"""


def test_nothing_in_the_page_names_a_model(rating, open_page) -> None:
    session = rating(5, models=3)
    page = open_page(session)
    while page.is_hidden("#done"):
        assert not any(name in page.evaluate(KEPT) for name in session.contestants)
        press(page, "t")


def test_a_server_that_is_gone_is_told_and_the_vote_not_lost_silently(rating, open_page) -> None:
    page = open_page(rating(2))
    page.route("**/api/votes", lambda route: route.fulfill(status=507, body='{"error": "the disk is full"}'))
    page.keyboard.press("a")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem") == "the disk is full"
    assert page.inner_text("#count") == "0 of 2 rated"
    page.unroute("**/api/votes")
    press(page, "a")
    assert page.is_hidden("#problem")
