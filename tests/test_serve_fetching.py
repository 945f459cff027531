"""Images at addresses: what is connected to, and what never is. Servers of these tests are on this machine; where one has to be
taken for a public one, the test says so."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from PIL import Image

from visionthink.errors import ImageError, OptionError
from visionthink.serve.conversation import ImageInput
from visionthink.serve.errors import ApiError
from visionthink.serve.fetching import Fetcher, Host, is_public
from visionthink.serve.limits import Limits
from visionthink.serve.sources import Images

NAME = "image 1 of 1"


def asked(*sources: bytes | str) -> list[ImageInput]:
    return [ImageInput(source=each, place=f"image {i} of {len(sources)}") for i, each in enumerate(sources, 1)]


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    return file.getvalue()


class Answers(AbstractResolver):
    """Answers each question for a name with the next list of addresses."""

    def __init__(self, *answers: list[str]):
        self.answers, self.asked = list(answers), list[str]()

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            raise OSError(None, "no such host")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in answer
        ]

    async def close(self) -> None:
        pass


def refusal(url: str, resolver: AbstractResolver | None = None, **options: object) -> str:
    """What is said of an address by a fetcher for allowed.example."""

    async def run() -> str:
        options.setdefault("hosts", ["allowed.example", "xn--bcher-kva.example"])
        fetcher = Fetcher(**options, resolver=resolver or Answers(["192.0.2.1"]))
        try:
            await fetcher.fetch(url, name=NAME, most=1000)
        except ImageError as error:
            return str(error)
        finally:
            await fetcher.close()
        raise AssertionError("fetched")

    return asyncio.run(run())


# ------------------------------------------------------------------------------------------------ addresses

NOT_A_NAME = f"{NAME}: its address is not one of the form https://HOST/PATH with the name of a host"
NOT_LISTED = f"{NAME}: its host is not one that this server fetches images from"
NOT_PUBLIC = f"{NAME}: its host has an address that is not public"


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://10.0.0.1/",
        "https://192.168.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://[64:ff9b::7f00:1]/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://0x7f.0.0.1/",
        "https://0x7f000001/",
        "https://127.1/",
        "https://127.0.0.1./",
        "https://１２７.0.0.1/",
        "https://①②⑦.0.0.1/",
        "https://127。0。0。1/",
        "https://allowed.example@127.0.0.1/",
        "https://user:secret@allowed.example/",
        "https://allowed.example:443@127.0.0.1/",
        "https://127.0.0.1\\@allowed.example/",
        "https://allowed.example\\@127.0.0.1/",
        "https:\\\\127.0.0.1/",
        "https:/allowed.example/",
        "https:allowed.example",
        "https:///allowed.example/",
        "https://",
        "https://allowed.example:/x y",
        "https://allowed.example/a\r\nHost: internal",
        "https://allowed.example/\0",
        "https://allowed.exam\tple/",
        "https://allowed%2eexample/",
        "https://allowed..example/",
        "https://.allowed.example/",
        "https://allowed.example../",
        "https://" + "a" * 300 + "/",
        "httpſ://allowed.example/",
        "file:///etc/passwd",
    ],
)
def test_addresses_in_figures_and_tricks_of_parsers(url):
    assert refusal(url) == NOT_A_NAME


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/?token=secret",
        "https://sub.allowed.example/",
        "https://allowed.example.evil.example/",
        "https://evilallowed.example/",
        "https://localhost/",
        "https://localhost./",
        "https://metadata.google.internal/",
        "https://allowed.example:22/",
        "https://allowed.example:80/",
        "https://allowed.example:8443/",
        "https://аllowed.example/",  # a Cyrillic letter
        "https://xn--llowed-6ve.example/",
        "https://bucher.example/",
    ],
)
def test_hosts_and_ports_that_are_not_listed(url):
    assert refusal(url) == NOT_LISTED


def test_without_tls_only_by_choice():
    assert refusal("http://allowed.example/") == f"{NAME}: images are fetched by https alone"
    assert refusal("http://allowed.example/", http=True) == NOT_PUBLIC


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://allowed.example/", "allowed.example"),
        ("HTTPS://ALLOWED.EXAMPLE./a.png?x=1#y", "allowed.example"),
        ("https://allowed.example:443/", "allowed.example"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://XN--BCHER-KVA.example/", "xn--bcher-kva.example"),
    ],
)
def test_a_listed_name_is_asked_for_once_in_its_one_form(url, asked):
    resolver = Answers(["127.0.0.1"])
    assert refusal(url, resolver) == NOT_PUBLIC and resolver.asked == [asked]


@pytest.mark.parametrize(
    "address",
    """127.0.0.1 127.255.255.254 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200
    192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 168.63.129.16
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 fe80::1 fe80::1%eth0 fec0::1 fc00::1 fd00:ec2::254
    ff02::1 2001:db8::1 3fff::1 100::1 192.0.0.1 192.0.0.100 192.88.99.1 2001::7f00:1 2001:0:7f00:1::1
    2002:7f00:1::1 2002:a00:1::1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2606:4700:4700::1111%eth0""".split(),
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)
    assert refusal("https://allowed.example/", Answers([address])) == NOT_PUBLIC
    assert refusal("https://allowed.example/", Answers(["93.184.215.14", address])) == NOT_PUBLIC  # one among public ones


@pytest.mark.parametrize(
    "address", "93.184.215.14 1.1.1.1 2606:4700:4700::1111 ::ffff:1.1.1.1 64:ff9b::101:101 2002:101:101::1".split()
)
def test_addresses_that_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("text", ["2130706433", "0x7f.1", "127.0.0.1", "127.1", "1.2.3.4", "", "localhost", "a", "a b"])
def test_no_form_of_an_address_in_figures_is_taken_for_public_by_its_text(text):
    assert is_public(text) is (text == "1.2.3.4")


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "127.0.0.1",
        "[::1]",
        "2130706433",
        "0x7f000001",
        "https://a.example",
        "a.example/x",
        "a.example:0",
        "a.example:99999",
        "*.a.example",
        "a@b.example",
        "a b",
    ],
)
def test_hosts_that_cannot_be_listed(entry):
    with pytest.raises(OptionError) as failure:
        Host.parse(entry)
    assert str(failure.value) == f"host of images {entry!r}: must be the name of a host, such as images.example.org, or NAME:PORT"


def test_no_hosts():
    with pytest.raises(OptionError, match=r"^images can be fetched only from hosts that are named$"):
        Fetcher([])


# --------------------------------------------------------------------------- with servers on addresses of this machine


@contextlib.asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]], *hosts: str) -> AsyncIterator[int]:
    """A server at the same port of some addresses; the port."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    port = 0
    for host in hosts or ("127.0.0.2",):
        site = web.TCPSite(runner, host, port)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        await runner.cleanup()


def public(address: str) -> bool:
    """In these tests, 127.0.0.2 is a public address and all others are not."""
    return address == "127.0.0.2"


async def fetched(
    handler: Callable, resolver: AbstractResolver | None = None, *, most: int = 10_000, path: str = "/", **options: object
) -> bytes:
    async with serving(handler) as port:
        fetcher = Fetcher(
            [f"allowed.example:{port}"], http=True, resolver=resolver or Answers(["127.0.0.2"]), public=public, **options
        )
        try:
            return await fetcher.fetch(f"http://allowed.example:{port}{path}", name=NAME, most=most)
        finally:
            await fetcher.close()


def said_of(handler: Callable, **options: object) -> str:
    with pytest.raises(ImageError) as failure:
        asyncio.run(fetched(handler, **options))
    assert "secret" not in str(failure.value) and "allowed.example" not in str(failure.value)
    return str(failure.value)


@pytest.mark.network
def test_a_listed_host_is_fetched_from_without_cookies_proxies_or_compression(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    seen = {}

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.update(request.headers, path=request.path_qs, peer=request.transport.get_extra_info("sockname")[0])
        return web.Response(body=png(), headers={"Set-Cookie": "a=b", "Content-Type": "text/html"})

    assert asyncio.run(fetched(handler, path="/a%2Fb.png?token=secret#x")) == png()
    assert seen.pop("Host").startswith("allowed.example:")
    assert seen == {
        "path": "/a%2Fb.png?token=secret",
        "peer": "127.0.0.2",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "User-Agent": "visionthink",
        "Connection": "close",
    }
    assert "secret" not in caplog.text.replace("GET /a%2Fb.png?token=secret", "")  # but for the log of the server of the test


@pytest.mark.network
def test_a_name_that_is_rebound_between_check_and_connection():
    """The second answer would be the address of something internal: it is never asked for, and where it is, it is checked."""
    reached = []

    async def handler(request: web.BaseRequest) -> web.Response:
        reached.append(request.transport.get_extra_info("sockname")[0])
        return web.Response(body=png())

    async def run() -> None:
        resolver = Answers(["127.0.0.2"], ["127.0.0.1"])
        async with serving(handler, "127.0.0.2", "127.0.0.1") as port:
            fetcher = Fetcher([f"allowed.example:{port}"], http=True, resolver=resolver, public=public)
            url = f"http://allowed.example:{port}/"
            assert await fetcher.fetch(url, name=NAME, most=1000) == png()
            assert resolver.asked == ["allowed.example"] and reached == ["127.0.0.2"]
            with pytest.raises(ImageError) as failure:
                await fetcher.fetch(url, name=NAME, most=1000)
            assert str(failure.value) == NOT_PUBLIC
            assert resolver.asked == ["allowed.example"] * 2 and reached == ["127.0.0.2"]
            await fetcher.close()

    asyncio.run(run())


@pytest.mark.network
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_this_machine_is_not_followed(status):
    requests = []

    async def handler(request: web.BaseRequest) -> web.Response:
        requests.append(request.path)
        return web.Response(status=status, headers={"Location": "http://127.0.0.1/secret"})

    assert said_of(handler) == f"{NAME}: its host redirects elsewhere, which is not followed"
    assert requests == ["/"]


@pytest.mark.network
def test_large_slow_compressed_and_broken_replies():
    async def announced(request: web.BaseRequest) -> web.Response:
        return web.Response(body=bytes(20_000))

    async def unannounced(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(bytes(5_000))
        return response

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                await response.write(b"x")
                await asyncio.sleep(0.05)
        return response

    async def compressed(request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"x", headers={"Content-Encoding": "gzip"})

    async def missing(request: web.BaseRequest) -> web.Response:
        return web.Response(status=404, text="secret")

    async def cut(request: web.BaseRequest) -> web.Response:
        request.transport.abort()
        return web.Response()

    assert said_of(announced) == said_of(unannounced) == f"{NAME}: more than the 0.01 MB that may be fetched"
    assert said_of(slow, seconds=0.3) == f"{NAME}: its host does not send it within 0.3 s"
    assert said_of(compressed) == f"{NAME}: its host sends it compressed once more"
    assert said_of(missing) == f"{NAME}: its host answers with status 404"
    assert said_of(cut) == f"{NAME}: it cannot be fetched from its host (ServerDisconnectedError)"
    assert said_of(cut, resolver=Answers([])) == f"{NAME}: its host is not known"


@pytest.mark.network
def test_a_host_that_is_named_slowly_and_one_without_tls():
    class Slow(Answers):
        async def resolve(self, *args: object) -> list[ResolveResult]:
            await asyncio.sleep(5)
            raise AssertionError

    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(body=png())

    assert said_of(handler, resolver=Slow(), seconds=0.2) == f"{NAME}: its host does not send it within 0.2 s"

    async def run() -> None:
        async with serving(handler) as port:
            fetcher = Fetcher([f"allowed.example:{port}"], resolver=Answers(["127.0.0.2"]), public=public)
            with pytest.raises(ImageError) as failure:
                await fetcher.fetch(f"https://allowed.example:{port}/", name=NAME, most=1000)
            assert str(failure.value) == f"{NAME}: it cannot be fetched from its host (ClientConnectorSSLError)"
            await fetcher.close()

    asyncio.run(run())


@pytest.mark.network
def test_what_is_fetched_is_checked_by_its_bytes_and_all_together_are_limited():
    async def handler(request: web.BaseRequest) -> web.Response:
        if request.path == "/page":
            return web.Response(body=b"<html>secret</html>", content_type="image/png")
        return web.Response(body=png() + bytes(600), content_type="text/html")

    async def run() -> None:
        async with serving(handler) as port:
            fetcher = Fetcher([f"allowed.example:{port}"], http=True, resolver=Answers(["127.0.0.2"]), public=public)
            images = Images(Limits(body_bytes=1_500, image_bytes=1_500), fetcher)
            url = f"http://allowed.example:{port}"
            async with images.opened(asked(f"{url}/a.png", png())) as received:
                assert [image.size for image in received] == [(3, 2), (3, 2)]
            with pytest.raises(
                ApiError, match=r"^image 2 of 2: a file of the format HTML; JPEG, PNG, WEBP and GIF are accepted$"
            ):
                async with images.opened(asked(png(), f"{url}/page")):
                    pass
            with pytest.raises(ApiError, match=r"^image 3 of 3: more than the 0.0001\d+ MB that may be fetched$"):
                async with images.opened(asked(*[f"{url}/a.png"] * 3)):
                    pass
            images.close()
            await fetcher.close()

    asyncio.run(run())


def test_the_resolver_of_the_system_is_used_by_default():
    async def run() -> str:
        fetcher = Fetcher(["localhost"])
        try:
            await fetcher.fetch("https://localhost/", name=NAME, most=1)
        except ImageError as error:
            return str(error)
        finally:
            await fetcher.close()
        return "fetched"

    assert asyncio.run(run()) == NOT_PUBLIC
