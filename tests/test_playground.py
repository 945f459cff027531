"""The playground without a browser: its examples are the generator's and the built-in model's, its files hold to their policy."""

from __future__ import annotations

import io
import json
import re
import urllib.error
import urllib.request
from html.parser import HTMLParser

import numpy as np
import playground_examples
import pytest
from PIL import Image
from playground_examples import FOLDER
from playground_server import playground_server

import visionthink


def test_examples_are_the_generators():
    examples = playground_examples.drawn()
    listed = json.loads((FOLDER / "examples.json").read_text("utf-8"))
    assert listed == playground_examples.listed(examples)
    assert [(e["question"], e["answer"], e["needs"]) for e in listed[:2]] == [
        ("Which bar is tallest?", "orange", "low"),
        ("How is the right bar hatched?", "horizontal", "full"),
    ]
    for number, example in enumerate(examples, start=1):
        kept = np.asarray(Image.open(FOLDER / "examples" / f"{number}.png"))
        assert np.array_equal(kept, np.asarray(example.image)), number
    files = sorted(path.name for path in (FOLDER / "examples").iterdir())
    assert files == [f"{number}.png" for number in range(1, 9)]
    assert sum(path.stat().st_size for path in (FOLDER / "examples").iterdir()) < 150_000


def test_the_built_in_model_knows_them():
    """It is right about each, and asks for more exactly where the page says so."""
    model = visionthink.load("tiny")
    found = []
    for example in json.loads((FOLDER / "examples.json").read_text("utf-8")):
        result = model.ask(Image.open(FOLDER.parent / example["image"]), example["question"])
        found.append((result.answer, "full" if result.transcript.requested else "low"))
    expected = ["orange", "horizontal", "8", "6", "blue", "4", "8", "vertical"]
    assert found == list(zip(expected, ["low", "full"] * 4, strict=True))


class Elements(HTMLParser):
    """What a page holds: its elements with their attributes, and the text inside scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] in ("script", "style"):
            self.inline += data.strip()


def test_nothing_comes_from_elsewhere_and_nothing_is_inline():
    page = Elements((FOLDER / "index.html").read_text("utf-8"))
    assert page.inline == "" and "style" not in {tag for tag, _ in page.found}
    attributes = [(name, value or "") for _, own in page.found for name, value in own.items()]
    assert not [name for name, _ in attributes if name == "style" or name.startswith("on")]
    loaded = [value for name, value in attributes if name in ("src", "href")]
    assert loaded == ["playground/icon.svg", "playground/playground.css", "playground/playground.js"]
    for path in FOLDER.glob("*.*"):
        addresses = re.findall(r"https?://[^\s\"'`]+", path.read_text("utf-8"))
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, path.name


def test_every_label_names_a_control():
    page = Elements((FOLDER / "index.html").read_text("utf-8"))
    ids = [own["id"] for _, own in page.found if "id" in own]
    assert len(ids) == len(set(ids))
    named = ("for", "aria-labelledby", "aria-describedby", "data-copies")
    wanted = {value for _, own in page.found for name, value in own.items() if name in named}
    assert wanted <= set(ids)


POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
)


@pytest.mark.network
def test_files_as_served():
    with playground_server() as server:
        types = {}
        names = ["", *(f"playground/{path.name}" for path in FOLDER.glob("*.*")), "playground/examples/3.png"]
        for name in names:
            with urllib.request.urlopen(server.url + name) as reply:
                types[name] = reply.headers["Content-Type"].split(";")[0]
                assert reply.headers["Content-Security-Policy"] == POLICY, name
                assert reply.headers["X-Content-Type-Options"] == "nosniff", name
                assert reply.headers["Cache-Control"] == "no-cache", name
                reply.read()
        assert types[""] == types["playground/index.html"] == "text/html"
        assert types["playground/playground.js"] in ("text/javascript", "application/javascript")
        assert (types["playground/playground.css"], types["playground/icon.svg"]) == ("text/css", "image/svg+xml")
        assert (types["playground/examples.json"], types["playground/examples/3.png"]) == ("application/json", "image/png")
        with urllib.request.urlopen(server.url + "playground/examples/3.png") as reply:
            tag = reply.headers["ETag"]
            assert Image.open(io.BytesIO(reply.read())).size == (112, 112)
        again = urllib.request.Request(server.url + "playground/examples/3.png", headers={"If-None-Match": tag})
        refused = [again, *(server.url + path for path in ("playground/", "playground/../page.py", "playground/%2e%2e/page.py"))]
        found = []
        for request in refused:
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(request)
            found.append(error.value.code)
            error.value.close()
        assert found == [304, 404, 404, 404]
