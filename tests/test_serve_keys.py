"""Keys: the file, the comparison, and what no key means."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging

import pytest

from visionthink.errors import OptionError
from visionthink.serve.keys import Keys, RequireKey, new_key

ANNA, BEN, EVE = "vt-anna", "vt-ben", "vt-eve"
DIGESTS = {name: hashlib.sha256(f"vt-{name}".encode()).hexdigest() for name in ("anna", "ben", "eve")}
FILE = f"""# keys of the gateway

anna sha256:{DIGESTS["anna"]}
  ben   sha256:{DIGESTS["ben"].upper()}
eve sha256:{DIGESTS["eve"]}
"""


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text(FILE)
    file.chmod(0o600)
    return Keys.read(file)


@pytest.mark.parametrize(
    ("header", "holder"),
    [
        ("Bearer vt-anna", "anna"),
        ("bearer  vt-ben ", "ben"),
        ("Bearer vt-eve", "eve"),
        ("Bearer vt-ann", None),
        ("Bearer vt-anna2", None),
        ("Bearer VT-ANNA", None),
        (f"Bearer {DIGESTS['anna']}", None),
        (f"Bearer sha256:{DIGESTS['anna']}", None),
        ("Bearer anna", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic vt-anna", None),
        ("vt-anna", None),
        ("Bearer vt-anna, Bearer vt-ben", None),
        ("Bearer vt-änna", None),
        ("Bearer " + "x" * 100_000, None),
        ("", None),
        (None, None),
    ],
)
def test_holders_of_keys(keys, header, holder):
    assert keys.holder(header) == holder


@pytest.mark.parametrize("key", [ANNA, BEN, EVE, "vt-nobody", "x"])
def test_every_key_is_compared_whichever_is_the_right_one(keys, key, monkeypatch):
    compared = []
    really = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or really(a, b))
    keys.holder(f"Bearer {key}")
    sent = hashlib.sha256(key.encode()).digest()
    assert compared == [(sent, bytes.fromhex(DIGESTS[name])) for name in ("anna", "ben", "eve")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            f"anna sha256:{DIGESTS['anna']}\nvt-secret\n",
            "line 2: not NAME sha256:HEX, with 64 digits (visionthink serve --new-key NAME)",
        ),
        ("anna sha256:secret", "line 1: not NAME sha256:HEX, with 64 digits (visionthink serve --new-key NAME)"),
        (f"an na sha256:{DIGESTS['anna']}", "line 1: not NAME sha256:HEX, with 64 digits (visionthink serve --new-key NAME)"),
        (f"anna md5:{DIGESTS['anna']}", "line 1: not NAME sha256:HEX, with 64 digits (visionthink serve --new-key NAME)"),
        (f"a sha256:{DIGESTS['anna']}\n#\na sha256:{DIGESTS['ben']}", "line 3: the name or the key is in the file twice"),
        (f"a sha256:{DIGESTS['anna']}\nb sha256:{DIGESTS['anna']}", "line 2: the name or the key is in the file twice"),
    ],
)
def test_bad_lines_are_named_but_not_shown(tmp_path, content, said):
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(OptionError) as failure:
        Keys.read(file)
    assert str(failure.value) == f"{file}, {said}"


def test_files_that_hold_no_keys(tmp_path):
    file = tmp_path / "keys"
    for content, said in (
        (b"# nobody\n", "holds no key (visionthink serve --new-key NAME makes one)"),
        (b"\xff", "the file of keys cannot be read (not UTF-8)"),
    ):
        file.write_bytes(content)
        with pytest.raises(OptionError) as failure:
            Keys.read(file)
        assert str(failure.value) == f"{file}: {said}"
    with pytest.raises(OptionError, match=r"none: the file of keys cannot be read \(No such file or directory\)$"):
        Keys.read(tmp_path / "none")


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_file_that_everybody_can_read_or_change_is_warned_of(tmp_path, caplog, mode, warned):
    file = tmp_path / "keys"
    file.write_text(FILE)
    file.chmod(mode)
    with caplog.at_level(logging.WARNING):
        Keys.read(file)
    said = f"{file}: the file of keys can be read or changed by every user of this machine; chmod 600 it"
    assert caplog.messages == ([said] if warned else [])


def test_a_new_key(tmp_path):
    (key, line), (other, _) = new_key("anna.b-1_c"), new_key("anna.b-1_c")
    assert key != other and key.startswith("vt-") and len(key) == 46 and key not in line
    file = tmp_path / "keys"
    file.write_text(line)
    assert Keys.read(file).holder(f"Bearer {key}") == "anna.b-1_c" and key not in repr(Keys.read(file))
    for name in ("", "a b", "a\nb", "ä", "a" * 65):
        with pytest.raises(OptionError) as failure:
            new_key(name)
        assert str(failure.value) == f"name of a key {name!r}: must be up to 64 letters, digits, dots, dashes or underscores"


# ------------------------------------------------------------------------------------------------- the middleware


def asked(keys: Keys | None, path: str, *headers: tuple[bytes, bytes], method: str = "GET") -> tuple[int, dict[str, str], dict]:
    """Status, headers and body of the answer to a request; an application that is reached says who asks."""
    sent: list[dict] = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"key": scope["state"]["key"]}).encode()})

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": list(headers), "method": method}
    asyncio.run(RequireKey(app, keys=keys)(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, json.loads(body)


REFUSED = {
    "error": {
        "message": "no valid API key; send it as Authorization: Bearer KEY",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/metrics", "/", "/health/", "//health", "/Health", "/v1/../health"])
@pytest.mark.parametrize("headers", [[], [(b"authorization", b"Bearer x")], [(b"authorization", b"Bearer vt-anna")] * 2])
def test_nothing_is_reached_without_a_key(keys, path, headers):
    status, answered, body = asked(keys, path, *headers)
    assert status == 401 and body == REFUSED
    assert answered["www-authenticate"] == "Bearer" and answered["connection"] == "close"


def test_a_key_has_a_name_and_open_paths_need_none(keys):
    assert asked(keys, "/v1/models", (b"authorization", b"Bearer vt-ben"))[::2] == (200, {"key": "ben"})
    assert asked(keys, "/health")[::2] == (200, {"key": None})
    assert asked(keys, "/ready", (b"authorization", b"Bearer x"))[::2] == (200, {"key": None})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_open_paths_are_open_to_be_read_alone(keys, method):
    assert asked(keys, "/health", method=method)[::2] == (401, REFUSED)
    assert asked(keys, "/health", method="HEAD")[0] == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.2:8000", "[::1]:8000"])
def test_without_keys_this_machine_is_answered(host):
    assert asked(None, "/v1/models", (b"host", host.encode()))[::2] == (200, {"key": None})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.0.2",
        "127.1",
        "[127.0.0.1]x",
        "[192.168.0.2]",
        "",
        "localhost, evil.example",
    ],
)
def test_without_keys_a_page_that_points_its_own_name_here_is_not(host):
    status, _, body = asked(None, "/v1/models", (b"host", host.encode()))
    assert status == 403 and body["error"]["code"] == "host_not_allowed"
