"""The states of the playground, each brought about as a reader would: with a picture, a question and a server that answers so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw
from playground_server import BREAK, Play, PlaygroundServer, bill, decided, ended, looked, said, thought, view
from playwright.sync_api import Page, expect

WHOLE = (0, 0, 112, 112)
LOW, FULL = view(WHOLE, 0.25, 56, 56, 4), view(WHOLE, 1.0, 112, 112, 16)
ASKED = decided("model", "The model asked for the full view.")
NOT_ASKED = decided("model", "The model answered from the low view.")
NEVER = threading.Event()

State = Callable[[Page, PlaygroundServer, Path], None]


def photo(folder: Path, name: str = "street.jpg", size: tuple[int, int] = (1448, 938)) -> Path:
    """A picture with a small sign on it, as a file."""
    image = Image.new("RGB", size, (150, 175, 200))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, size[1] * 2 // 3, *size), fill=(95, 100, 95))
    pen.rectangle((831, 372, 876, 422), fill=(205, 45, 45))
    pen.text((853, 397), "24", fill="white", anchor="mm")
    image.save(folder / name)
    return folder / name


def open_page(page: Page, server: PlaygroundServer, folder: Path) -> None:
    page.goto(server.url)
    expect(page.locator("#examples li")).to_have_count(8)
    page.evaluate("() => Promise.all([...document.images].map((image) => image.decode()))")


def take_example(page: Page, server: PlaygroundServer, folder: Path, number: int = 2) -> None:
    open_page(page, server, folder)
    page.locator("#examples button").nth(number - 1).click()
    expect(page.locator("#ask")).to_be_focused()


def streaming(page: Page, server: PlaygroundServer, folder: Path) -> None:
    take_example(page, server, folder)
    server.play(looked(0, LOW), thought("The bars are smooth in this view. " * 40 + "The hatching can"), NEVER)
    page.click("#ask")
    expect(page.locator(".thought")).to_contain_text("The hatching can")


def asked_for_more(page: Page, server: PlaygroundServer, folder: Path) -> None:
    take_example(page, server, folder)
    hatching = thought("The bars are smooth in this view, the hatching cannot be seen. I need the full view.")
    server.play(looked(0, LOW), hatching, ASKED, looked(1, FULL), NEVER)
    page.click("#ask")
    expect(page.locator(".closer")).to_have_count(1)


def answered_low(page: Page, server: PlaygroundServer, folder: Path) -> None:
    take_example(page, server, folder, 1)
    server.play(looked(0, LOW), NOT_ASKED, said("ora"), said("nge"), ended(bill(4, 16, 0, 0.021)))
    page.click("#ask")
    expect(page.locator("#bill")).to_be_visible()


def answered_after_a_look(page: Page, server: PlaygroundServer, folder: Path) -> None:
    """Of a photo, in two places, measured against always-full."""
    open_page(page, server, folder)
    page.set_input_files("#files", photo(folder))
    page.fill("#question", "What does the red sign say?")
    opening = view((0, 0, 1448, 938), 0.25, 728, 476, 442)
    parts = view((831, 372, 876, 422), 1.0, 56, 56, 4), view((0, 620, 700, 938), 1.0, 700, 308, 275)
    server.play(
        looked(0, opening),
        thought("There is a red sign right of the middle, too small to read. I look at it, and at the bottom left."),
        decided("model", "The model asked for two parts of the image."),
        looked(1, *parts),
        thought("The sign says 24."),
        said("It says 24."),
        ended(bill(721, 1768, 2, 1.42)),
    )
    page.click("#ask")
    expect(page.locator("#bill")).to_be_visible()
    server.play(looked(0, view((0, 0, 1448, 938), 1.0, 1456, 952, 1768)), said("24"), ended(bill(1768, 1768, 0, 2.9, "fixed")))
    page.click("#measure")
    expect(page.locator("#answer-full")).to_have_text("24")


def failed(page: Page, server: PlaygroundServer, folder: Path) -> None:
    """After a part of the answer."""
    take_example(page, server, folder)
    message = "The model's server did not answer within 60 s."
    error = f'data: {{"error": {{"message": "{message}", "type": "server_error"}}}}\n\ndata: [DONE]\n\n'.encode()
    server.play(looked(0, LOW), ASKED, looked(1, FULL), said("hori"), error)
    page.click("#ask")
    expect(page.locator("#error")).to_be_visible()


def refused(page: Page, server: PlaygroundServer, folder: Path) -> None:
    """A picture that is too large for the server, which this browser cannot show."""
    open_page(page, server, folder)
    (folder / "IMG_0042.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(2_400_000))
    page.set_input_files("#files", folder / "IMG_0042.HEIC")
    page.fill("#question", "How many people are there?")
    message = "The image has 2.4 MB; this server takes at most 2 MB per image."
    server.plays.append(Play(status=413, body={"error": {"message": message, "type": "invalid_request_error"}}))
    page.click("#ask")
    expect(page.locator("#error")).to_be_visible()


def key_wanted(page: Page, server: PlaygroundServer, folder: Path) -> None:
    server.key = "vt-secret"
    take_example(page, server, folder)
    expect(page.locator("#key-field")).to_be_visible()


def broken(page: Page, server: PlaygroundServer, folder: Path) -> None:
    take_example(page, server, folder)
    server.play(looked(0, LOW), said("hori"), BREAK)
    page.click("#ask")
    expect(page.locator("#error")).to_be_visible()


def stopped(page: Page, server: PlaygroundServer, folder: Path) -> None:
    asked_for_more(page, server, folder)
    page.click("#stop")
    expect(page.locator("#answer-note")).to_be_visible()


def options_and_code(page: Page, server: PlaygroundServer, folder: Path) -> None:
    take_example(page, server, folder)
    page.click("#options summary")
    page.check("input[name=rule][value=gate]")
    page.fill("#threshold", "0.9")
    page.click("#code summary")


STATES: dict[str, State] = {
    "empty": open_page,
    "chosen": take_example,
    "streaming": streaming,
    "asked-for-more": asked_for_more,
    "answered-low": answered_low,
    "answered-after-a-look": answered_after_a_look,
    "failed": failed,
    "refused": refused,
    "key-wanted": key_wanted,
    "broken": broken,
    "stopped": stopped,
    "options-and-code": options_and_code,
}
