"""From the `image_url` of a request to an opened picture: data URLs, and addresses where a server fetches them.

What a client sends is not trusted. Errors name an image by its place in the request, and hold neither its data nor its address.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import functools
import itertools
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from visionthink.errors import ImageError, OptionError
from visionthink.images import measure
from visionthink.picture import Picture
from visionthink.serve.conversation import ImageInput
from visionthink.serve.errors import of_exception
from visionthink.serve.fetching import Fetcher
from visionthink.serve.limits import DECODING, Limits
from visionthink.serve.memory import Memory
from visionthink.serve.stages import stage
from visionthink.serve.structure import readable, without_metadata

try:
    import pybase64  # in the standard library, an image of 10 MB would hold up all requests for 70 ms; here it takes 1 ms
except ModuleNotFoundError as missing:
    raise OptionError(f"the gateway needs {missing.name}: pip install 'visionthink[serve]'") from None

T = TypeVar("T")

MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""The formats that are read, by Pillow's names."""

_ACCEPTED = "JPEG, PNG, WEBP and GIF are accepted"
_CLAIMED = {"", *MEDIA_TYPES.values(), "image/jpg", "image/pjpeg"}
_DATA = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,40}/[\w.+-]{1,40}")
_SPACES = b" \t\r\n\f\v"
_STANDARD = bytes.maketrans(b"-_", b"+/")
_OTHER = tuple(bytes([byte]) for byte in b"-_" + _SPACES)
_BEGINNINGS = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", rb"GIF8[79]a"),
    ("WEBP", rb"RIFF....WEBP"),
    ("BMP", rb"BM"),
    ("TIFF", rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
    ("AVIF", rb"....ftypavi[fs]"),
    ("HEIC", rb"....ftyp(?:hei|hev|mif|msf)"),
    ("JPEG 2000", rb"....jP  |\xff\x4f\xff\x51"),
    ("ICO", rb"\0\0[\1\2]\0"),
    ("PSD", rb"8BPS"),
    ("PDF", rb"%PDF"),
    ("SVG", rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,400}?-->\s*)?(?:<!DOCTYPE svg[^>]*>\s*)?<svg\b"),
    ("HTML", rb"\s*<(?:!DOCTYPE html|html|head|body|script)\b"),
)
_KINDS = tuple((kind, re.compile(beginning, re.DOTALL | re.IGNORECASE)) for kind, beginning in _BEGINNINGS)


def read_source(url: str, *, limits: Limits, name: str = "the image", fetched: bool = False) -> bytes | str:
    """The bytes of a data URL; an http address as it is, where addresses are `fetched`.

    Raises:
        ImageError: it is neither, or more than `limits.image_bytes`.
    """
    scheme = url[:8].lower()
    if scheme.startswith("data:"):
        content = _decoded(url, name, limits)
        image_kind(content, name)
        return content
    if scheme.startswith(("http:", "https:")):
        if fetched:
            return url
        raise ImageError(f"{name}: this server does not fetch images from addresses; send a data URL in base64")
    if scheme.startswith("file:"):
        raise ImageError(f"{name}: files of the server are never read; send a data URL in base64")
    raise ImageError(f"{name}: not a data URL in base64")


def image_kind(content: bytes, name: str) -> str:
    """The format of a file, by its first bytes.

    Raises:
        ImageError: it is not one of `MEDIA_TYPES`.
    """
    beginning = content[:1024]
    kind = next((kind for kind, pattern in _KINDS if pattern.match(beginning)), None)
    if kind in MEDIA_TYPES:
        return kind
    raise ImageError(f"{name}: {'not an image' if kind is None else f'a file of the format {kind}'}; {_ACCEPTED}")


def _decoded(url: str, name: str, limits: Limits) -> bytes:
    head = _DATA.match(url)
    if head is None:
        raise ImageError(f"{name}: a data URL without a comma after its media type")
    media_type, *options = (part.strip().lower() for part in head[1].split(";"))
    if media_type not in _CLAIMED:
        said = media_type if _MEDIA_TYPE.fullmatch(media_type) else "something else"
        raise ImageError(f"{name}: the data URL says that it is {said}; {_ACCEPTED}")
    if len(url) - head.end() > 4 * limits.image_bytes:  # more than percent signs and line breaks account for
        raise _too_large(name, limits)
    try:
        text = url[head.end() :].encode("ascii")
    except UnicodeEncodeError:
        raise ImageError(f"{name}: a data URL holds other than ASCII characters") from None
    if b"%" in text:
        text = unquote_to_bytes(text)
    if "base64" not in options:
        content = text
    else:
        if any(byte in text for byte in _OTHER):  # copying megabytes takes longer than decoding them
            text = text.translate(_STANDARD, _SPACES)
        text = text.rstrip(b"=")
        if 3 * len(text) // 4 > limits.image_bytes:
            raise _too_large(name, limits)
        try:
            content = pybase64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            raise ImageError(f"{name}: a data URL that is not valid base64") from None
    if len(content) > limits.image_bytes:
        raise _too_large(name, limits)
    if not content:
        raise ImageError(f"{name}: a data URL without data")
    return content


def _too_large(name: str, limits: Limits) -> ImageError:
    return ImageError(f"{name}: more than the limit of {limits.image_bytes / 1e6:g} MB")


class Images:
    """Opens the images of requests in threads, within the memory that `limits` allow for all of them together."""

    def __init__(self, limits: Limits, fetcher: Fetcher | None = None):
        self.limits, self.fetcher = limits, fetcher
        self.memory = Memory(limits.memory_bytes)
        self._threads = ThreadPoolExecutor(limits.decoders, thread_name_prefix="images")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def work(self, work: Callable[[], T]) -> T:
        """What has to do with pixels, in one of the threads. It is over when this returns, also where this is cancelled: a thread
        cannot be stopped, and memory that it works on must not be given back before."""
        job = self._threads.submit(work)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if not job.cancel():
                await asyncio.gather(asyncio.wrap_future(job), return_exceptions=True)
            raise

    @contextlib.asynccontextmanager
    async def opened(self, images: Sequence[ImageInput]) -> AsyncIterator[tuple[Picture, ...]]:
        """The images of a request, in order; their memory counts as taken until the end of the block.

        Raises:
            ApiError: an image cannot be used, or all together are too many or too large. It names the place of the first one
                that is too much.
        """
        if not images:  # no thread has to be waited for
            yield ()
            return
        if len(images) > self.limits.images:
            with _placed(images[self.limits.images].place):
                raise ImageError(f"{len(images)} images are more than the limit of {self.limits.images} in a request")
        with stage("files"):
            contents = await self._contents(images)
            files = await self.work(lambda: self._examined(contents, [image.place for image in images]))
            held, scratch = sum(4 * file.pixels for file in files), max((DECODING * file.pixels for file in files), default=0)
            await self.memory.take(held + scratch)
        try:
            pictures: list[Picture] = []
            with stage("decode"):
                for file in files:
                    with _placed(file.name):
                        pictures.append(await self.work(functools.partial(file.open, self.limits)))
            self.memory.give_back(scratch)
            scratch = 0
            yield tuple(pictures)
        finally:
            self.memory.give_back(held + scratch)

    async def _contents(self, images: Sequence[ImageInput]) -> list[bytes]:
        """The files, those at addresses fetched one after the other, so that they take no more memory than a body may."""
        contents: list[bytes] = []
        for image in images:
            source, name = image.source, image.place
            if isinstance(source, str):
                left = self.limits.body_bytes - sum(map(len, contents))
                with _placed(name):
                    if self.fetcher is None:
                        raise ImageError(f"{name}: this server does not fetch images from addresses")
                    source = await self.fetcher.fetch(source, name=name, most=min(left, self.limits.image_bytes))
            contents.append(source)
        return contents

    def _examined(self, contents: Sequence[bytes], names: Sequence[str]) -> list[_File]:
        """The files, all headers read before any pixel is unpacked."""
        files: list[_File] = []
        for content, name in zip(contents, names, strict=True):
            with _placed(name):
                files.append(_File.examined(content, name, self.limits))
        most, pixels = self.limits.request_pixels, list(itertools.accumulate(file.pixels for file in files))
        beyond = next((file for file, so_far in zip(files, pixels, strict=True) if so_far > most), None)
        if beyond is not None:
            sums = f"{pixels[-1] / 1e6:.1f} MP are more than the limit of {most / 1e6:g} MP"
            with _placed(beyond.name):
                raise ImageError(f"{len(files)} images of {sums} in a request")
        return files


@contextlib.contextmanager
def _placed(place: str) -> Iterator[None]:
    """What is wrong with an image, as an error that has its place in the request as `param`.

    Raises:
        ApiError: instead of an `ImageError`.
    """
    try:
        yield
    except ImageError as error:
        raise of_exception(error).at(place) from None


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file whose header is known to be allowed."""

    content: bytes = field(repr=False)
    kind: str
    name: str
    pixels: int

    @classmethod
    def examined(cls, content: bytes, name: str, limits: Limits) -> _File:
        if len(content) > limits.image_bytes:
            raise _too_large(name, limits)
        kind = image_kind(content, name)
        try:
            content = readable(content, kind)
            width, height = measure(content, name=name, max_pixels=limits.image_pixels, formats=(kind,))
        except ImageError as error:
            raise ImageError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from None
        return cls(content=content, kind=kind, name=name, pixels=width * height)

    def open(self, limits: Limits) -> Picture:
        """The picture. Where it shows the pixels as they are in the file, it brings that along without its metadata, to be passed
        on; not where it was turned, laid on white or converted, or its format cannot be copied without metadata."""
        picture = Picture.open(self.content, name=self.name, max_pixels=limits.image_pixels, formats=(self.kind,))
        if not picture.notes and (same := without_metadata(self.content, self.kind)):
            picture.encoded = (MEDIA_TYPES[self.kind], self.content if same == self.content else same)  # held once
        return picture
