"""Images out of requests: what is read of a data URL, what is refused and in which words, and what is passed on."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import pybase64
import pytest
from PIL import Image, PngImagePlugin

from visionthink.errors import ImageError, OptionError
from visionthink.images import open_image
from visionthink.picture import Picture
from visionthink.serve import sources
from visionthink.serve.conversation import ImageInput
from visionthink.serve.errors import ApiError, of_exception
from visionthink.serve.limits import Limits
from visionthink.serve.memory import Memory
from visionthink.serve.sources import Images, read_source
from visionthink.serve.structure import readable, without_metadata

NAME = "image 1 of 1"
LIMITS = Limits()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def small(kind: str, mode: str = "RGB") -> bytes:
    return saved(Image.new(mode, (3, 2), "red"), kind)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey_png(width: int, height: int, between: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    lines = zlib.compressobj(9)
    line, data = bytes(1 + (width + 7) // 8), b""
    for _ in range(height):
        data += lines.compress(line)
    return b"\x89PNG\r\n\x1a\n" + header + between + chunk(b"IDAT", data + lines.flush()) + chunk(b"IEND", b"")


def url_of(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def asked(*sources: bytes | str) -> list[ImageInput]:
    return [ImageInput(source=each, place=f"image {i} of {len(sources)}") for i, each in enumerate(sources, 1)]


def opened(*contents: bytes | str, limits: Limits = LIMITS) -> tuple[Picture, ...]:
    async def run() -> tuple[Picture, ...]:
        images = Images(limits)
        try:
            async with images.opened(asked(*contents)) as received:
                return received
        finally:
            images.close()

    return asyncio.run(run())


# ---------------------------------------------------------------------------------------------------- data URLs

PNG = small("PNG")
TEXT = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{TEXT}",
        f"DATA:IMAGE/PNG;BASE64,{TEXT}",
        f"data:image/jpeg;base64,{TEXT}",  # clients name the wrong one
        f"data:;base64,{TEXT}",
        f"data:image/png;charset=utf-8;base64,{TEXT}",
        "data:image/png;base64,\n" + "\r\n".join(TEXT[i : i + 20] for i in range(0, len(TEXT), 20)) + " \n",
        "data:image/png;base64," + TEXT.replace("+", "-").replace("/", "_"),
        "data:image/png;base64," + TEXT.rstrip("="),
        "data:image/png;base64," + quote(TEXT, safe=""),
        "data:image/png," + quote(PNG, safe=""),
    ],
    ids="plain capitals other-type no-type charset lines url-safe unpadded percent-base64 percent".split(),
)
def test_data_urls_that_are_read(url):
    assert read_source(url, name=NAME, limits=LIMITS) == PNG


NOT_A_DATA_URL = f"{NAME}: not a data URL in base64"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc/passwd", f"{NAME}: files of the server are never read; send a data URL in base64"),
        ("FILE:/etc/passwd", f"{NAME}: files of the server are never read; send a data URL in base64"),
        ("/etc/passwd", NOT_A_DATA_URL),
        ("../../secret.png", NOT_A_DATA_URL),
        ("C:\\secret.png", NOT_A_DATA_URL),
        ("\\\\host\\share\\secret.png", NOT_A_DATA_URL),
        ("ftp://secret.example/a.png", NOT_A_DATA_URL),
        ("gopher://secret.example/", NOT_A_DATA_URL),
        ("//secret.example/a.png", NOT_A_DATA_URL),
        (" https://secret.example/a.png", NOT_A_DATA_URL),
        ("", NOT_A_DATA_URL),
        (TEXT, NOT_A_DATA_URL),
        (
            "https://secret.example/a.png?token=secret",
            f"{NAME}: this server does not fetch images from addresses; send a data URL in base64",
        ),
        ("data:image/png;base64", f"{NAME}: a data URL without a comma after its media type"),
        (f"data:{'a' * 1000},x", f"{NAME}: a data URL without a comma after its media type"),
        ("data:image/png;base64,", f"{NAME}: a data URL without data"),
        ("data:image/png;base64,secret!", f"{NAME}: a data URL that is not valid base64"),
        ("data:image/png;base64,QUJD=secret", f"{NAME}: a data URL that is not valid base64"),
        ("data:image/png;base64,QUJDé", f"{NAME}: a data URL holds other than ASCII characters"),
        (
            f"data:image/svg+xml;base64,{TEXT}",
            f"{NAME}: the data URL says that it is image/svg+xml; JPEG, PNG, WEBP and GIF are accepted",
        ),
        (
            f"data:text/html;base64,{TEXT}",
            f"{NAME}: the data URL says that it is text/html; JPEG, PNG, WEBP and GIF are accepted",
        ),
        (
            "data:secret secret,x",
            f"{NAME}: the data URL says that it is something else; JPEG, PNG, WEBP and GIF are accepted",
        ),
    ],
)
def test_everything_else_is_refused_in_words_that_do_not_show_it(url, said):
    with pytest.raises(ImageError) as failure:
        read_source(url, name=NAME, limits=LIMITS)
    assert str(failure.value) == said


def test_an_address_is_passed_on_only_where_addresses_are_fetched():
    url = "HTTPS://images.example.org/a.png"
    assert read_source(url, name=NAME, limits=LIMITS, fetched=True) == url
    with pytest.raises(ImageError, match="files of the server are never read"):
        read_source("file:///etc/passwd", name=NAME, limits=LIMITS, fetched=True)


def test_a_large_data_url_is_refused_before_it_is_decoded(monkeypatch):
    limits = Limits(image_bytes=1_000_000)
    exact = b"\xff\xd8\xff" + bytes(999_997)
    assert read_source(url_of(exact), name=NAME, limits=limits) == exact
    monkeypatch.delattr(pybase64, "b64decode")
    for url in (url_of(exact + bytes(3)), "data:image/png;base64," + "A" * 20_000_000, "data:," + "%41" * 1_400_000):
        tracemalloc.start()
        with pytest.raises(ImageError, match=f"^{NAME}: more than the limit of 1 MB$"):
            read_source(url, name=NAME, limits=limits)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20_000_000  # for 20 MB of text not even a copy is made


def test_what_a_client_is_told_of_an_image():
    with pytest.raises(ImageError) as failure:
        read_source("/etc/passwd", limits=LIMITS)
    place = "messages[0].content[1].image_url"
    assert of_exception(failure.value, place).message == f"{place}: the image: not a data URL in base64"


# ------------------------------------------------------------------------------------------------------- formats

ACCEPTED = "; JPEG, PNG, WEBP and GIF are accepted"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_formats_that_are_read(kind):
    (received,) = opened(small(kind))
    assert received.size == (3, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (small("BMP"), "a file of the format BMP"),
        (small("TIFF"), "a file of the format TIFF"),
        (small("AVIF"), "a file of the format AVIF"),
        (small("JPEG2000"), "a file of the format JPEG 2000"),
        (small("ICO"), "a file of the format ICO"),
        (small("PDF"), "a file of the format PDF"),
        (small("PPM"), "not an image"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "a file of the format SVG"),
        (b"<svg onload=alert(1)>", "a file of the format SVG"),
        (b"<!DOCTYPE html><script>alert(1)</script>", "a file of the format HTML"),
        (b"secret", "not an image"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not an image"),
        (b"GIF89", "not an image"),
    ],
)
def test_other_formats_are_refused_by_their_name_whatever_they_claim_to_be(content, said):
    with pytest.raises(ImageError) as failure:
        read_source(url_of(content), name=NAME, limits=LIMITS)
    assert str(failure.value) == f"{NAME}: {said}{ACCEPTED}"
    with pytest.raises(ApiError, match=said):
        opened(content)


def test_only_the_decoder_of_the_format_is_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(sources, "measure", lambda content, **options: asked.append(options["formats"]) or (3, 2))
    opened(PNG)
    assert asked == [("PNG",)]


def test_html_behind_a_png_is_not_passed_on():
    page = b"<script>alert('secret')</script>"
    (received,) = opened(PNG + page)
    assert received.image.getpixel((0, 0)) == (255, 0, 0)
    assert received.encoded == ("image/png", PNG)


# --------------------------------------------------------------------------------------------------------- bombs


def webp_canvas(width: int, height: int) -> bytes:
    """An animation of one frame of 2x2 px on a canvas."""
    frame = bytes(6) + (1).to_bytes(3, "little") * 2 + bytes(4) + saved(Image.new("RGB", (2, 2)), "WEBP", lossless=True)[12:]
    canvas = bytes([2, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = ((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame))
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(data)) + data for kind, data in parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_screen(width: int, height: int) -> bytes:
    gif = small("GIF", "P")
    return gif[:6] + struct.pack("<HH", width, height) + gif[10:]


BOMBS = {
    "PNG": grey_png(13_000, 13_000),
    "GIF": gif_screen(65_535, 65_535),
    "WEBP": webp_canvas(60_000, 60_000),
    "JPEG": saved(Image.new("L", (9_000, 9_000)), "JPEG"),
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_a_bomb_is_refused_from_its_header(kind):
    assert len(BOMBS[kind]) < 1_000_000 and len(BOMBS["PNG"]) < 30_000
    began = time.process_time()
    with pytest.raises(ApiError) as failure:
        opened(BOMBS[kind])
    assert str(failure.value).startswith(f"{NAME}: ") and str(failure.value).endswith("more than the limit of 40 MP")
    assert time.process_time() - began < 0.5


def test_a_frame_of_a_gif_that_is_larger_than_its_screen_counts():
    gif = small("GIF", "P")
    at = gif.index(b",", 13)
    bomb = gif[: at + 5] + struct.pack("<HH", 60_000, 60_000) + gif[at + 9 :]
    with pytest.raises(ApiError, match=f"^{NAME}: .* more than the limit of 40 MP$"):
        opened(bomb)


@pytest.mark.parametrize(("width", "height"), [(1, 20_000), (20_000, 1), (10, 2_001)])
def test_sides_that_differ_too_much(width, height):
    with pytest.raises(ApiError, match=rf"^{NAME}: an image of {width}x{height} px has an aspect ratio above 200$"):
        opened(grey_png(width, height))
    assert opened(grey_png(10, 2_000))[0].size == (10, 2_000)


JPEG = small("JPEG")
FRAME = small("GIF", "P")[(_at := small("GIF", "P").index(b",", 13)) : -1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (grey_png(8, 8, chunk(b"abCd", b"") * 800_000), "a PNG of more than 10000 parts"),
        (JPEG[:2] + b"\xff\xe1\0\2" * 2_400_000 + JPEG[2:], "a JPEG of more than 10000 parts"),
        (JPEG[:2] + b"\xff\xd8" * 4_000_000 + JPEG[2:], "a JPEG of more than 10000 parts"),
        (JPEG[:2] + b"\xff" * 9_900_000 + JPEG[2:], "damaged or truncated image (a JPEG without an end)"),
        (small("GIF", "P")[:_at] + b"!\xfe\1a\0" * 1_900_000, "damaged or truncated image (a GIF without an image)"),
        (small("GIF", "P")[:_at] + b"!\xfe" + b"\1a" * 4_900_000, "a GIF of too many small blocks"),
    ],
    ids="png-chunks jpeg-segments jpeg-beginnings jpeg-padding gif-extensions gif-blocks".split(),
)
def test_millions_of_empty_parts_are_refused_at_once(content, said):
    assert len(content) <= 10_000_000
    began = time.process_time()
    with pytest.raises(ApiError) as failure:
        opened(content)
    assert str(failure.value) == f"{NAME}: {said}"
    assert time.process_time() - began < 0.6  # Pillow alone takes 4 to 7 s


def test_of_a_gif_with_half_a_million_frames_only_the_first_is_read():
    gif = small("GIF", "P")
    began = time.process_time()
    (received,) = opened(gif[:_at] + FRAME * 400_000 + b";")
    assert received.notes == ()
    assert time.process_time() - began < 0.3


def test_a_jpeg_of_thousands_of_scans():
    """Each of 59 bytes goes through all pixels again: 10 MB of them would take an hour."""
    jpeg = saved(Image.new("L", (3_000, 3_000), 128), "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    with pytest.raises(ApiError, match=f"^{NAME}: a JPEG of more than 100 scans$"):
        opened(jpeg[:-2] + last * 10_000 + jpeg[-2:])
    assert opened(jpeg)[0].encoded == ("image/jpeg", jpeg[: jpeg.index(b"\xff\xdb")] + jpeg[jpeg.index(b"\xff\xdb") :])


# ------------------------------------------------------------------------------------------- of all images together


def test_999_images():
    with pytest.raises(ApiError, match=r"^999 images are more than the limit of 8 in a request$") as failure:
        opened(*[PNG] * 999)
    assert failure.value.param == "image 9 of 999"
    assert len(opened(*[PNG] * 8)) == 8


def test_all_images_together_are_limited_and_the_third_is_named():
    with pytest.raises(ApiError, match=r"^3 images of 90.0 MP are more than the limit of 80 MP in a request$") as failure:
        opened(*[grey_png(6_000, 5_000)] * 3)
    assert failure.value.param == "image 3 of 3"
    with pytest.raises(ApiError, match=r"^image 3 of 3: damaged or truncated image") as failure:
        opened(PNG, PNG, saved(Image.effect_noise((300, 300), 50), "PNG")[:9_000])
    assert (failure.value.status, failure.value.param, failure.value.code) == (400, "image 3 of 3", "invalid_image")
    with pytest.raises(ApiError, match=r"^image 2 of 2: more than the limit of 0.0001 MB$"):
        opened(PNG, saved(Image.effect_noise((30, 30), 50), "PNG"), limits=Limits(image_bytes=100))


def test_an_address_without_a_fetcher():
    with pytest.raises(ApiError, match=r"^image 2 of 2: this server does not fetch images from addresses$"):
        opened(PNG, "https://secret.example/")


# ------------------------------------------------------------------------------------------------ memory and threads


def test_an_image_that_would_fit_does_not_pass_one_that_waits_for_memory():
    async def run() -> None:
        limits = Limits(image_pixels=10_000, request_pixels=10_000, memory_bytes=280_000)
        images = Images(limits)
        large, tiny, order = grey_png(90, 100), grey_png(10, 10), []

        async def ask(name: str, content: bytes) -> None:
            async with images.opened(asked(content)):
                order.append(name)
                await asyncio.sleep(0)

        async with images.opened(asked(large)):
            assert images.memory.free == 244_000
            first = asyncio.create_task(ask("large", large))
            await asyncio.sleep(0.05)
            second = asyncio.create_task(ask("tiny", tiny))
            await asyncio.sleep(0.05)
            assert order == [] and images.memory.free == 244_000
        await asyncio.gather(first, second)
        await asyncio.sleep(0.01)
        assert sorted(order) == ["large", "tiny"] and images.memory.free == 280_000
        images.close()

    asyncio.run(run())


def test_memory_is_given_back_by_who_gives_up_or_fails():
    async def run() -> None:
        memory = Memory(10)
        await memory.take(8)
        large, small = asyncio.create_task(memory.take(9)), asyncio.create_task(memory.take(2))
        await asyncio.sleep(0)
        large.cancel()
        await asyncio.wait({large, small})
        assert large.cancelled() and small.done() and memory.free == 0
        memory.give_back(8)
        given = asyncio.create_task(memory.take(9))
        await asyncio.sleep(0)
        memory.give_back(2)
        given.cancel()  # in the moment in which it is given
        await asyncio.wait({given})
        assert given.cancelled() and memory.free == 10
        await memory.take(10)
        waits = [asyncio.create_task(memory.take(amount)) for amount in (7, 3)]
        await asyncio.sleep(0)
        waits[0].cancel()  # in the same moment, before it can know
        memory.give_back(10)
        await asyncio.wait(waits)
        assert waits[0].cancelled() and waits[1].done() and memory.free == 7
        memory.give_back(3)

        images = Images(LIMITS)
        with pytest.raises(ApiError, match="damaged"):
            async with images.opened(asked(PNG, PNG[:-30])):
                raise AssertionError
        await asyncio.sleep(0.05)
        assert images.memory.free == LIMITS.memory_bytes
        images.close()

    asyncio.run(run())


def held_up(images: Images, job: Callable[[Images, Callable], Awaitable[object]]) -> None:
    """Cancel what works in a thread: memory is taken until the thread ends."""
    working, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        working.set()
        assert may_end.wait(5)

    async def run() -> None:
        asking = asyncio.ensure_future(job(images, slow))
        while not working.is_set():
            await asyncio.sleep(0.001)  # the loop is free while a thread works
        taken = images.memory.free
        asking.cancel()
        await asyncio.wait({asking}, timeout=0.05)
        assert not asking.done() and images.memory.free == taken < LIMITS.memory_bytes
        may_end.set()
        await asyncio.wait({asking}, timeout=1)
        assert asking.cancelled() and images.memory.free == LIMITS.memory_bytes

    asyncio.run(run())
    images.close()


def test_memory_of_an_image_that_is_being_decoded_is_not_given_back_before_the_thread_ends(monkeypatch):
    really = sources.Picture.open

    async def job(images: Images, slow: Callable[[], None]) -> None:
        monkeypatch.setattr(sources.Picture, "open", lambda *args, **options: (slow(), really(*args, **options))[1])
        async with images.opened(asked(PNG, grey_png(10, 10))):
            raise AssertionError

    held_up(Images(LIMITS), job)


def test_memory_of_images_that_a_thread_works_on_is_not_given_back_before_it_ends():
    async def job(images: Images, slow: Callable[[], None]) -> None:
        async with images.opened(asked(PNG)):
            await images.work(slow)

    held_up(Images(LIMITS), job)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"images": 0}, "images 0: must be a whole number of at least 1"),
        ({"image_bytes": 1.5}, "image_bytes 1.5: must be a whole number of at least 1"),
        ({"body_seconds": 0}, "body_seconds 0: must be at least 0.001"),
        ({"body_seconds": float("nan")}, "body_seconds nan: must be at least 0.001"),
        ({"waiting": -1}, "waiting -1: must be a whole number of at least 0"),
        ({"image_bytes": 30_000_000}, "image_bytes 30000000: more than body_bytes 25000000"),
        (
            {"memory_bytes": 1000},
            "memory_bytes 1000: one request may need 1280000000: 4 for each of request_pixels, 24 for each of image_pixels",
        ),
    ],
)
def test_limits_that_cannot_be(options, said):
    with pytest.raises(OptionError) as failure:
        Limits(**options)
    assert str(failure.value) == said


# ------------------------------------------------------------------------------------------------ without metadata


def photo() -> Image.Image:
    return Image.effect_noise((64, 48), 60).convert("RGB")


def with_everything(kind: str, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "secret place", orientation
    options: dict[str, object] = {"exif": exif, "icc_profile": b"a profile"}
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", "secret words")
        info.add_itxt("XML:com.adobe.xmp", "secret xmp")
        return saved(photo(), kind, pnginfo=info, **options) + b"secret behind"
    jpeg = saved(photo(), kind, comment=b"secret words", xmp=b"secret xmp", progressive=True, **options) + b"secret behind"
    return jpeg[:20] + b"\xff\xe0\0\x15JFXX\0secret thumb" + b"\0\0" + jpeg[20:]  # behind JFIF


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_metadata_is_dropped_without_encoding_again(kind):
    content = with_everything(kind)
    assert content.count(b"secret") == (5 if kind == "JPEG" else 4)
    (received,) = opened(content)
    media_type, stripped = received.encoded
    assert b"secret" not in stripped and media_type == f"image/{kind.lower()}"
    again = Image.open(io.BytesIO(stripped))
    assert again.tobytes() == open_image(content).image.tobytes() and again.info["icc_profile"] == b"a profile"
    assert not again.getexif() and not {"exif", "xmp", "comment", "Comment"} & set(again.info)
    assert without_metadata(stripped, kind) == stripped
    assert kind == "PNG" or stripped[6:11] == b"JFIF\0"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_would_look_different_elsewhere_is_not_passed_on(kind):
    (turned,) = opened(with_everything(kind, orientation=6))
    assert turned.size == (48, 64) and turned.encoded is None


def test_what_others_would_show_otherwise_is_not_passed_on():
    seen = Image.new("RGBA", (4, 4), (255, 0, 0, 0))  # red, which nobody sees who looks at it
    assert opened(saved(seen, "PNG"))[0].encoded is None
    assert opened(saved(Image.new("CMYK", (4, 4)), "JPEG"))[0].encoded is None
    assert opened(saved(Image.new("I;16", (4, 4)), "PNG"))[0].encoded is None
    assert opened(small("WEBP"))[0].encoded is None and opened(small("GIF"))[0].encoded is None


def test_colours_of_a_palette_and_adobe_colours_are_kept():
    palette = saved(photo().quantize(16), "PNG")
    assert opened(palette)[0].encoded == ("image/png", palette)
    adobe = saved(photo(), "JPEG", keep_rgb=True)
    assert opened(adobe)[0].encoded == ("image/jpeg", adobe)


def test_a_jpeg_with_restarts_and_one_without_an_end_are_read_as_pillow_does():
    restarts = saved(photo(), "JPEG", restart_marker_blocks=2)
    assert restarts.count(b"\xff\xd0") >= 1
    assert readable(restarts, "JPEG") == restarts == without_metadata(restarts, "JPEG")
    assert without_metadata(restarts[:-2], "JPEG") == restarts[:-2]
