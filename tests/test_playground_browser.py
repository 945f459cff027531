"""The playground in Debian's Chromium: every state, the whole flow by keyboard, what is asked of the server, faults."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import threading

import pytest
from PIL import Image

pytest.importorskip("playwright", reason="the playground is tested with playwright, which is not installed")
pytest.importorskip("axe_playwright_python", reason="the playground is tested with axe-playwright-python, which is not installed")

from axe_playwright_python.sync_playwright import Axe
from playground_examples import FOLDER
from playground_server import BREAK, Play, bill, decided, ended, looked, playground_server, said, view
from playground_states import FULL, LOW, STATES, answered_low, asked_for_more, open_page, photo, take_example
from playwright.sync_api import expect, sync_playwright
from servers import serving

expect.set_options(timeout=15_000)  # both cores may be busy with other tests
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(
        CHROMIUM is None, reason="the playground is tested in chromium, which is not installed: apt-get install chromium"
    ),
]

BROWSERS_OWN = {
    "refused": ["Failed to load resource: the server responded with a status of 413 (Request Entity Too Large)"],
    "key-wanted": ["Failed to load resource: the server responded with a status of 401 (Unauthorized)"],
    "broken": ["Failed to load resource: net::ERR_INCOMPLETE_CHUNKED_ENCODING"],
}
"""What the browser itself writes to its console, in the states where the server refuses or breaks off."""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM)
        yield launched
        launched.close()


@pytest.fixture
def server():
    with playground_server() as served:
        yield served


@pytest.fixture
def new_page(browser):
    """Opens pages that write down what their console is told."""
    contexts = []

    def opened(width=1300, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.told = []
        page.on("console", lambda message: page.told.append(message.text))
        page.on("pageerror", lambda error: page.told.append(str(error)))
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_page):
    return new_page()


@pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (390, "light"), (1300, "dark")])
@pytest.mark.parametrize("state", STATES)
def test_states(new_page, server, tmp_path, state, width, scheme):
    """Nothing on the console, nothing that axe finds, nothing wider than the screen."""
    page = new_page(width, scheme)
    STATES[state](page, server, tmp_path)
    found = Axe().run(page).response["violations"]
    assert [(v["impact"], v["id"], v["nodes"][0]["html"]) for v in found] == []
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    assert page.told == BROWSERS_OWN.get(state, [])


# ------------------------------------------------------------------------------------------------ what is asked and shown


def test_what_the_server_is_asked(page, server, tmp_path):
    """The file goes as it is, byte for byte, before the question."""
    open_page(page, server, tmp_path)
    file = photo(tmp_path)
    page.set_input_files("#files", file)
    page.fill("#question", "What does the sign say?")
    server.play(said("24"), ended(bill(4, 16, 0, 0.02)))
    page.click("#ask")
    expect(page.locator("#answer")).to_have_text("24")
    url = "data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What does the sign say?"}]
    assert server.sent == [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": content}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "visionthink": {"events": True, "mode": "auto"},
        }
    ]


def test_options_are_asked_for(page, server, tmp_path):
    server.models = ["large", "small"]
    take_example(page, server, tmp_path)
    asked = []

    def ask():
        server.play(said("x"), ended(bill(4, 16, 0, 0.02)))
        page.click("#ask")
        expect(page.locator("#bill")).to_be_visible()
        expect(page.locator("#ask")).to_be_visible()
        asked.append((server.sent[-1]["model"], server.sent[-1]["visionthink"]))

    page.click("#options summary")
    assert page.locator("#threshold").is_disabled()
    page.check("input[name=rule][value=model]")
    ask()
    page.check("input[name=rule][value=gate]")
    ask()
    page.fill("#threshold", "0.85")
    ask()
    page.select_option("#model", "small")
    page.check("input[name=mode][value=low]")
    assert page.locator("input[name=rule][value=gate]").is_disabled() and page.locator("#threshold").is_disabled()
    ask()
    page.check("input[name=mode][value=high]")
    ask()
    expect(page.locator("#measure")).to_be_hidden()
    expect(page.locator("#bill-sentence")).to_contain_text("The full view was shown at once")
    assert asked == [
        ("large", {"events": True, "mode": "auto", "rule": "model"}),
        ("large", {"events": True, "mode": "auto", "rule": "gate"}),
        ("large", {"events": True, "mode": "auto", "rule": "gate", "threshold": 0.85}),
        ("small", {"events": True, "mode": "low"}),
        ("small", {"events": True, "mode": "high"}),
    ]
    page.check("input[name=mode][value=auto]")
    page.fill("#threshold", "1.5")
    page.click("#options summary")
    page.click("#ask")
    expect(page.locator("#error")).to_have_text("The threshold has to be a number from 0 to 1.")
    expect(page.locator("#threshold")).to_be_focused()
    assert len(server.sent) == 5


def test_the_bill_and_always_full_measured(page, server, tmp_path):
    answered_low(page, server, tmp_path)
    row = [page.locator(f"#{name}").inner_text() for name in ("tokens", "tokens-full", "seconds", "seconds-full", "answer-full")]
    assert row == ["4", "16", "0.021", "not measured", "not asked"]
    expect(page.locator("#bill-sentence")).to_have_text(
        "12 visual tokens fewer than the full view (75 % saved), without a closer look."
    )
    server.play(looked(0, FULL), said("orange!"), ended(bill(18, 18, 0, 0.052, "fixed")))
    page.click("#measure")
    expect(page.locator("#answer-full")).to_have_text("orange!")
    assert [request["visionthink"] for request in server.sent] == [
        {"events": True, "mode": "auto"},
        {"events": True, "mode": "high"},
    ]
    assert server.sent[0]["messages"] == server.sent[1]["messages"]
    row = [page.locator(f"#{name}").inner_text() for name in ("tokens", "tokens-full", "seconds", "seconds-full", "answer-here")]
    assert row == ["4", "18", "0.021", "0.052", "orange"]
    expect(page.locator("#bill-sentence")).to_have_text(
        "14 visual tokens fewer than the full view (78 % saved), without a closer look; 0.031 s faster."
    )
    expect(page.locator("#answer")).to_have_text("orange")
    assert page.locator("#steps li").count() == 2, "the measured run is not drawn over the first"


def test_more_than_always_full_is_said(page, server, tmp_path):
    take_example(page, server, tmp_path)
    server.play(
        looked(0, LOW),
        decided("gate", "Confidence 0.41 is below 0.90."),
        looked(1, FULL),
        said("x"),
        ended(bill(20, 16, 1, 0.03)),
    )
    page.click("#ask")
    expect(page.locator("#bill-sentence")).to_have_text(
        "4 visual tokens more than the full view (25 % more), with 1 closer look: the low view was read as well."
    )
    expect(page.locator(".decision")).to_contain_text("Confidence 0.41 is below 0.90.")
    expect(page.locator(".decision")).to_contain_text("The threshold on the confidence of the answer decided this.")


def test_boxes_stand_where_was_looked(page, server, tmp_path):
    """In px of the upright original: the second picture is stored lying on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 200), (90, 120, 150)).save(tmp_path / "turned.jpg", exif=exif)  # upright, it is 200 x 400
    open_page(page, server, tmp_path)
    page.set_input_files("#files", [photo(tmp_path), tmp_path / "turned.jpg"])
    expect(page.locator("#pictures li")).to_have_count(2)
    expect(page.locator("#pictures li").nth(1)).to_contain_text("200 × 400 px")
    page.fill("#question", "What is on the second one?")
    box = (50, 100, 150, 300)
    server.play(looked(1, view(box, 1.0, 112, 224, 32, image=1)), said("sky"), ended(bill(40, 80, 1, 0.1)))
    page.click("#ask")
    expect(page.locator("#bill")).to_be_visible()
    assert len(server.sent[0]["messages"][0]["content"]) == 3
    image, drawn = page.locator(".boxed img").bounding_box(), page.locator(".box").bounding_box()
    scale = image["width"] / 200
    assert image["height"] == pytest.approx(400 * scale, abs=1)
    expected = [image["x"] + 50 * scale, image["y"] + 100 * scale, 100 * scale, 200 * scale]
    assert [drawn[key] for key in ("x", "y", "width", "height")] == pytest.approx(expected, abs=1)
    expect(page.locator(".boxed img")).to_have_attribute("alt", "turned.jpg, looked at: 100\u00a0×\u00a0200\u00a0px at 50, 100")
    assert page.locator("#steps canvas").evaluate("(canvas) => [canvas.width, canvas.height]") == [112, 224]


def test_the_low_view_is_drawn_as_it_was_given(page, server, tmp_path):
    """The hatching, which alternates pixel by pixel, is gone in a quarter of the pixels and there at full."""
    asked_for_more(page, server, tmp_path)
    spread = """(canvas) => {
        const bar = canvas.getContext("2d").getImageData(0.78 * canvas.width, 0.6 * canvas.height, 1, 0.3 * canvas.height).data;
        const reds = [...bar].filter((_, index) => index % 4 === 0);
        return Math.max(...reds) - Math.min(...reds);
    }"""
    low, full = (page.locator("#steps canvas").nth(number).evaluate(spread) for number in (0, 1))
    assert low < 30 < 80 < full


def test_thoughts_and_looks_in_their_order(page, server, tmp_path):
    asked_for_more(page, server, tmp_path)
    assert page.locator("#steps h3").all_inner_texts() == ["First, the low view", "Thought", "Decision", "A closer look"]
    expect(page.locator("#status")).to_have_text("The model is shown more.")
    expect(page.locator("#answer")).to_have_attribute("aria-live", "polite")


# ------------------------------------------------------------------------------------------------ pictures


def dropped(page, kind, files):
    """Files (name, type, base64) that arrive by a drop or a paste."""
    page.evaluate(
        """([kind, files]) => {
            const transfer = new DataTransfer();
            for (const [name, type, data] of files) {
                transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
            }
            const how = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: transfer, bubbles: true, cancelable: true })
                : new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
            document.getElementById("question").dispatchEvent(how);
        }""",
        [kind, files],
    )


def test_drop_and_paste(page, server, tmp_path):
    open_page(page, server, tmp_path)
    data = base64.b64encode(photo(tmp_path, "a.png", (60, 40)).read_bytes()).decode()
    dropped(page, "drop", [("a.png", "image/png", data), ("b.png", "image/png", data)])
    expect(page.locator("#pictures .name")).to_have_text(["a.png", "b.png"])
    dropped(page, "paste", [("image.png", "image/png", data)])
    expect(page.locator("#pictures .name")).to_have_text(["a.png", "b.png", "image.png"])
    expect(page.locator("#pictures li").first).to_contain_text("60 × 40 px")
    dropped(page, "drop", [("notes.txt", "text/plain", "aGVsbG8=")])
    expect(page.locator("#error")).to_have_text("notes.txt is not an image. Choose a PNG, JPEG or WebP file.")
    page.get_by_role("button", name="Remove b.png").click()
    expect(page.locator("#pictures .name")).to_have_text(["a.png", "image.png"])
    expect(page.get_by_role("button", name="Remove image.png")).to_be_focused()
    dropped(page, "paste", [("c.png", "image/png", data)])
    expect(page.locator("#error")).to_be_hidden()


def test_a_format_that_the_browser_cannot_show_is_sent_as_it_is(page, server, tmp_path):
    open_page(page, server, tmp_path)
    (tmp_path / "scan.tiff").write_bytes(b"II*\0and so on")
    page.set_input_files("#files", tmp_path / "scan.tiff")
    expect(page.locator("#pictures li")).to_contain_text("no preview")
    page.fill("#question", "What is it?")
    server.play(looked(0, LOW), said("a page"), ended(bill(4, 16, 0, 0.02)))
    page.click("#ask")
    expect(page.locator("#bill")).to_be_visible()
    sent = server.sent[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert sent == "data:image/tiff;base64," + base64.b64encode(b"II*\0and so on").decode()
    expect(page.locator("#steps figure")).to_contain_text("This browser cannot show this format")
    assert page.told == []


def test_two_examples_in_a_hurry_leave_the_second(page, server, tmp_path):
    """And a question that is asked at once waits until its picture is there."""
    open_page(page, server, tmp_path)
    server.play(said("6"), ended(bill(4, 16, 0, 0.02)))
    hurry = """() => {
        const buttons = document.querySelectorAll("#examples button");
        buttons[0].click();
        buttons[3].click();
        document.getElementById("ask").click();
    }"""
    page.evaluate(hurry)
    expect(page.locator("#bill")).to_be_visible()
    expect(page.locator("#pictures .name")).to_have_text(["4.png"])
    [image, text] = server.sent[0]["messages"][0]["content"]
    kept = base64.b64encode((FOLDER / "examples" / "4.png").read_bytes()).decode()
    assert (image["image_url"]["url"], text["text"]) == (f"data:image/png;base64,{kept}", "What is the faint number?")


def test_a_question_is_needed_and_a_picture(page, server, tmp_path):
    open_page(page, server, tmp_path)
    page.click("#ask")
    expect(page.locator("#error")).to_contain_text("Choose an image first")
    expect(page.locator("#files")).to_be_focused()
    page.set_input_files("#files", photo(tmp_path))
    expect(page.locator("#error")).to_be_hidden()
    page.click("#ask")
    expect(page.locator("#error")).to_have_text("Write a question first.")
    expect(page.locator("#question")).to_be_focused()
    assert server.sent == []


# ------------------------------------------------------------------------------------------------ faults


def refusal(status, message, **headers):
    return Play(status=status, body={"error": {"message": message, "type": "x", "code": None}}, headers=headers)


REFUSALS = {
    "bad request": (refusal(400, "The image is not a picture"), "The image is not a picture."),
    "no such model": (
        refusal(404, "There is no model 'tiny'."),
        "There is no model 'tiny'. Choose another model at the top of the page.",
    ),
    "too many": (refusal(429, "Too many requests.", **{"Retry-After": "7"}), "Too many requests. Ask again in 7 s."),
    "server": (
        refusal(502, "The model's server refused the connection."),
        "The model's server refused the connection. Ask again. If that does not help, read the server's log.",
    ),
    "a proxy's page": (
        Play(status=503, body="<h1>down</h1>"),
        "The server answered with status 503. Ask again. If that does not help, read the server's log.",
    ),
    "no stream": (
        Play(body={"choices": []}),
        "The server did not answer with a stream. A proxy between the server and this page may have changed the answer.",
    ),
}
BROKEN = "The connection broke before the answer was complete. Ask again."
STREAM_FAULTS = {
    "cut": ([said("so"), BREAK], BROKEN),
    "half an event": ([said("so"), b'data: {"choices": [{"del'], BROKEN),
    "an end without DONE": ([said("so"), ended(bill(4, 16, 0, 0.02)).removesuffix(b"data: [DONE]\n\n")], BROKEN),
    "not JSON": ([said("so"), b"data: <p>\n\n"], "The server sent something that this page does not understand. Ask again."),
    "DONE before the end": ([said("so"), b"data: [DONE]\n\n"], "The stream ended before the answer was complete. Ask again."),
    "an error": (
        [said("so"), b'data: {"error": {"message": "The model failed"}}\n\ndata: [DONE]\n\n'],
        "The model failed. There is no complete answer: ask again.",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_say_what_to_do(page, server, tmp_path, case):
    play, line = REFUSALS[case]
    take_example(page, server, tmp_path)
    server.plays.append(play)
    page.click("#ask")
    expect(page.locator("#error")).to_have_text(line)
    expect(page.locator("#answer-box")).to_be_hidden()
    expect(page.locator("#empty")).to_be_visible()
    assert_asks_again(page, server)


@pytest.mark.parametrize("case", STREAM_FAULTS)
def test_streams_that_fail(page, server, tmp_path, case):
    """What came is shown and marked as incomplete, there is no bill, and one can ask again."""
    script, line = STREAM_FAULTS[case]
    take_example(page, server, tmp_path)
    server.play(*script)
    page.click("#ask")
    expect(page.locator("#error")).to_have_text(line)
    expect(page.locator("#answer")).to_have_text("so")
    expect(page.locator("#answer-note")).to_have_text("This answer is not complete.")
    expect(page.locator("#bill")).to_be_hidden()
    assert_asks_again(page, server)


def assert_asks_again(page, server):
    server.play(b": keep-alive\n\n", said("fine"), ended(bill(4, 16, 0, 0.02)))
    page.click("#ask")
    expect(page.locator("#answer")).to_have_text("fine")
    expect(page.locator("#bill")).to_be_visible()
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("#answer-note")).to_be_hidden()


def test_an_answer_that_was_cut_off_says_so(page, server, tmp_path):
    take_example(page, server, tmp_path)
    server.play(said("It is a very long"), ended(bill(4, 16, 0, 0.02), "length"))
    page.click("#ask")
    expect(page.locator("#answer-note")).to_contain_text("The answer was cut off")


def test_a_server_that_is_gone(page, server, tmp_path):
    take_example(page, server, tmp_path)
    page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    page.click("#ask")
    expect(page.locator("#error")).to_have_text(
        "The server cannot be reached. Check that it still runs (visionthink serve), then ask again."
    )
    page.unroute("**/v1/chat/completions")
    assert_asks_again(page, server)


def test_the_key_is_kept_in_memory_only(page, server, tmp_path):
    server.key = "vt-secret"
    open_page(page, server, tmp_path)
    expect(page.locator("#error")).to_have_text(
        "This server needs an API key. Enter your API key below the question and ask again."
    )
    expect(page.locator("#key")).to_be_focused()
    page.locator("#examples button").first.click()
    page.fill("#key", "wrong")
    page.click("#ask")
    expect(page.locator("#key")).to_be_focused()
    assert server.sent == [], "the models were refused already"
    page.fill("#key", "vt-secret")
    server.play(said("orange"), ended(bill(4, 16, 0, 0.02)))
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_text("orange")
    expect(page.locator("#model")).to_have_value("tiny")
    kept = "() => [localStorage.length, sessionStorage.length, document.cookie, location.href.includes('secret')]"
    assert page.evaluate(kept) == [0, 0, "", False]
    assert "vt-secret" not in page.locator("#code").text_content()
    assert "YOUR API KEY" in page.locator("#python").text_content()
    page.reload()
    expect(page.locator("#key")).to_have_value("")


def test_stop_closes_the_connection(page, server, tmp_path):
    take_example(page, server, tmp_path)
    server.play(looked(0, LOW), said("hori"), threading.Event())
    page.click("#ask")
    expect(page.locator("#answer")).to_have_text("hori")
    page.click("#stop")
    expect(page.locator("#answer-note")).to_have_text("Stopped. What arrived before that is shown.")
    assert server.gone.wait(2)
    expect(page.locator("#error")).to_be_hidden()
    assert page.told == []
    assert_asks_again(page, server)


def test_a_stream_that_is_not_understood_is_left(page, server, tmp_path):
    take_example(page, server, tmp_path)
    server.play(said("so"), b"data: <p>\n\n", threading.Event())
    page.click("#ask")
    expect(page.locator("#error")).to_contain_text("does not understand")
    assert server.gone.wait(2)


def test_a_stream_cut_anywhere_reads_the_same(page, server, tmp_path):
    """Every pair of pieces, every kind of line end, a character of several bytes, comments and fields that are passed over."""
    open_page(page, server, tmp_path)
    text = 'data: {"a": "Ü€𝄞"}\r\n\r\n: keep-alive\n\nid: 7\rdata: one\rdata:two\r\revent: x\n\ndata\n\ndata: half'
    read = """async (text) => {
        const { eventData } = await import("/playground/stream.js");
        const bytes = new TextEncoder().encode(text);
        const read = async (pieces) => {
            const found = [];
            const body = new ReadableStream({ start(c) { pieces.forEach((piece) => c.enqueue(piece)); c.close(); } });
            for await (const data of eventData(body)) found.push(data);
            return JSON.stringify(found);
        };
        const readings = new Set([await read([...bytes].map((byte) => Uint8Array.of(byte)))]);
        for (let cut = 0; cut <= bytes.length; cut++) readings.add(await read([bytes.slice(0, cut), bytes.slice(cut)]));
        return [...readings].map((reading) => JSON.parse(reading));
    }"""
    assert page.evaluate(read, text) == [['{"a": "Ü€𝄞"}', "one\ntwo", ""]]


# ------------------------------------------------------------------------------------------------ code


def test_the_shown_code_runs(page, server, tmp_path):
    """Both programs, as they stand there, ask what the page would: two pictures, a question full of quotes."""
    pytest.importorskip("openai")
    open_page(page, server, tmp_path)
    files = [photo(tmp_path, "it's.png", (60, 40)), photo(tmp_path, "b.jpg", (600, 400))]
    page.set_input_files("#files", files)
    question = 'What\'s "it", $HOME or `a` \\ 100 %s?\nUmlaut: ü'
    page.fill("#question", question)
    page.click("#options summary")
    page.check("input[name=rule][value=gate]")
    page.fill("#threshold", "0.5")
    page.click("#code summary")
    message = {"role": "assistant", "content": "It is a sign."}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "visionthink": bill(4, 16, 0, 0.02)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": choices, "usage": usage}
    commands = {"python": [sys.executable, "-c"], "curl": ["bash", "-euc"]}
    for name, command in commands.items():
        server.plays.append(Play(body=body))
        code = page.locator(f"#{name}").text_content()
        done = subprocess.run([*command, code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "It is a sign." in done.stdout and "image_tokens_full" in done.stdout
    kinds = ("image/png", "image/jpeg")
    encoded = [base64.b64encode(file.read_bytes()).decode() for file in files]
    urls = [{"url": f"data:{kind};base64,{data}"} for kind, data in zip(kinds, encoded, strict=True)]
    content = [*({"type": "image_url", "image_url": url} for url in urls), {"type": "text", "text": question}]
    wanted = {"mode": "auto", "rule": "gate", "threshold": 0.5}
    expected = {"model": "tiny", "messages": [{"role": "user", "content": content}], "visionthink": wanted}
    assert server.sent == [expected, expected]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("[data-copies=curl]")
    expect(page.locator("#status")).to_have_text("Copied.")
    assert page.evaluate("() => navigator.clipboard.readText()") == page.locator("#curl").text_content()


# ------------------------------------------------------------------------------------------------ keyboard


def focus(page):
    """What has the focus, and whether one sees it."""
    return page.evaluate(
        """() => {
            const on = document.activeElement;
            const seen = getComputedStyle(on.id === "files" ? document.querySelector("label[for=files]") : on);
            const name = on.id || on.getAttribute("aria-label") || on.name || on.closest("ul, details")?.id || on.tagName;
            return [name, seen.outlineStyle !== "none" && parseFloat(seen.outlineWidth) >= 1];
        }"""
    )


def tab_to(page, name):
    for _ in range(30):
        page.keyboard.press("Tab")
        reached, seen = focus(page)
        assert seen or reached == "BODY", f"the focus on {reached} is not seen"
        if reached == name:
            return
    raise AssertionError(f"no Tab leads to {name}")


def test_the_whole_flow_by_keyboard(page, server, tmp_path):
    page.on("filechooser", lambda _: None)  # from the start: a key can be faster than the browser begins to hand choosers over
    open_page(page, server, tmp_path)
    tab_to(page, "model")
    tab_to(page, "files")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(photo(tmp_path, "a.png", (60, 40)))
    expect(page.locator("#pictures li")).to_have_count(1)
    tab_to(page, "Remove a.png")
    tab_to(page, "question")
    page.keyboard.type("What is it?")
    page.keyboard.press("Shift+Enter")
    server.play(looked(0, LOW), said("a"), threading.Event())
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_text("a")
    assert focus(page)[0] == "question"
    tab_to(page, "stop")
    page.keyboard.press("Enter")
    expect(page.locator("#ask")).to_be_focused()
    assert server.gone.wait(2)
    tab_to(page, "options")
    page.keyboard.press("Enter")
    tab_to(page, "mode")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    tab_to(page, "rule")
    page.keyboard.press("ArrowUp")
    tab_to(page, "threshold")
    page.keyboard.type("0.5")
    server.play(looked(0, LOW), said("a sign"), ended(bill(4, 16, 0, 0.02)))
    page.keyboard.press("Enter")
    expect(page.locator("#bill")).to_be_visible()
    assert server.sent[-1]["visionthink"] == {"events": True, "mode": "auto", "rule": "gate", "threshold": 0.5}
    assert server.sent[-1]["messages"][0]["content"][1]["text"] == "What is it?"
    tab_to(page, "measure")
    server.play(said("a sign"), ended(bill(16, 16, 0, 0.05)))
    page.keyboard.press("Enter")
    expect(page.locator("#seconds-full")).to_have_text("0.050")
    tab_to(page, "examples")
    page.keyboard.press("Enter")
    expect(page.locator("#question")).to_have_value("Which bar is tallest?")
    expect(page.locator("#ask")).to_be_focused()
    tab_to(page, "code")
    page.keyboard.press("Enter")
    expect(page.locator("#python")).to_be_visible()
    tab_to(page, "BODY")
    assert page.told == []


# ------------------------------------------------------------------------------------------------ the gateway itself


def test_the_examples_on_the_gateway(page):
    """With the built-in model and nothing else: answers, looks and bills of every example, the time of always-full, the gate."""
    command = [sys.executable, "-m", "visionthink", "serve"]
    found = []
    with serving(command, os.environ | {"OMP_NUM_THREADS": "1"}, seconds=60) as url:
        page.goto(url)
        examples = page.locator("#examples button")
        expect(examples).to_have_count(8)
        for number in range(8):
            examples.nth(number).click()
            expect(page.locator("#ask")).to_be_focused()
            page.keyboard.press("Enter")
            expect(page.locator("#bill")).to_be_visible()
            read = [page.locator(f"#{name}").inner_text() for name in ("answer", "tokens", "tokens-full")]
            found.append((*read, page.locator("#steps .closer").count()))
        page.click("#measure")
        expect(page.locator("#answer-full")).not_to_have_text("not asked")
        assert float(page.locator("#seconds-full").inner_text()) > 0
        page.click("#options summary")
        page.check("input[name=rule][value=gate]")
        page.fill("#threshold", "1")
        page.click("#ask")
        expect(page.locator(".decision")).to_contain_text("The threshold on the confidence of the answer decided this.")
        expect(page.locator("#bill")).to_be_visible()
    low, full = ("4", "16", 0), ("20", "16", 1)
    answers = ["orange", "horizontal", "8", "6", "blue", "4", "8", "vertical"]
    assert found == [(answer, *cost) for answer, cost in zip(answers, [low, full] * 4, strict=True)]
    assert page.told == []
