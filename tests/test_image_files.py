"""Rarer files: every pixel as it should be and noted, measured as it is opened, or refused in one line."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from visionthink.errors import ImageError
from visionthink.images import measure, open_image

WHITE = "transparency laid on white"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, bits: int, key: tuple[int, ...] | None = None, behind: bytes = b"") -> bytes:
    """A PNG of greys (height, width) or colours (height, width, 3) in a depth that Pillow does not write."""
    height, width = values.shape[:2]
    kind = 2 if values.ndim == 3 else 0
    lines = []
    for line in values.reshape(height, -1):
        if bits == 16:
            packed = line.astype(">u2").tobytes()
        else:
            packed = np.packbits(np.unpackbits(line.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]).tobytes()
        lines.append(b"\0" + packed)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    named = b"" if key is None else chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    body = chunk(b"IDAT", zlib.compress(b"".join(lines)))
    return b"\x89PNG\r\n\x1a\n" + header + named + body + behind + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_every_depth(bits):
    most = (1 << bits) - 1
    greys = np.array([[0, most // 2 + 1, most]])
    for key in (0, most // 2 + 1, most):
        loaded = open_image(png(greys, bits, (key,)))
        expected = [(255 if grey == key else round(255 * grey / most),) * 3 for grey in greys[0].tolist()]
        assert [loaded.image.getpixel((x, 0)) for x in range(3)] == expected
        assert loaded.notes[-1] == WHITE


def test_a_transparent_colour_of_16_bits_is_compared_in_16_bits():
    colours = np.array([[[0x4000] * 3, [0x4001, 0x4000, 0x4000], [0x40FF] * 3, [0x4100] * 3]])
    loaded = open_image(png(colours, 16, (0x4000,) * 3))
    assert [loaded.image.getpixel((x, 0)) for x in range(4)] == [(255,) * 3, (64,) * 3, (64,) * 3, (65,) * 3]
    assert loaded.notes == (WHITE,)


@pytest.mark.parametrize(
    "content",
    [
        png(np.array([[[0x4001] * 3]]), 16, (0x4000,) * 3),
        png(np.array([[0x4001]]), 16, (0x4000,)),
        png(np.array([[7]]), 4, (8,)),
        png(np.array([[[9, 9, 8]]]), 8, (9, 9, 9)),
        png(np.array([[200]]), 8),
    ],
    ids=["16-bit colour", "16-bit grey", "4-bit grey", "8-bit colour", "no key"],
)
def test_where_nothing_is_transparent_nothing_is_said_of_it(content):
    loaded = open_image(content)
    assert WHITE not in loaded.notes and loaded.image.getpixel((0, 0)) != (255, 255, 255)


def test_only_the_bits_of_the_depth_count_in_a_transparent_colour():
    assert open_image(png(np.array([[5]]), 4, (0xFF05,))).image.getpixel((0, 0)) == (255, 255, 255)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_opaque_alpha_is_no_transparency():
    assert open_image(saved(Image.new("RGBA", (4, 4), (1, 2, 3, 255)), "PNG")).notes == ()


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_transparency_of_opened_images(mode):
    clear = Image.new("RGBA", (2, 2), (10, 10, 10, 0))
    if mode == "PA":
        clear = Image.new("P", (2, 2), 3)
        clear.putalpha(0)
    image = clear.convert("LA").convert("La") if mode == "La" else clear.convert(mode)
    loaded = open_image(image)
    assert image.mode == mode and loaded.image.getpixel((0, 0)) == (255,) * 3 and loaded.notes == (WHITE,)


def test_a_lent_png_is_left_as_it_is(tmp_path):
    (tmp_path / "a.png").write_bytes(png(np.full((2, 2, 3), 0x4000), 16, (0x4000,) * 3))
    lent = Image.open(tmp_path / "a.png")
    assert open_image(lent).image.getpixel((0, 0)) == (255, 255, 255)
    assert lent.mode == "RGB" and lent.info["transparency"] == (0x4000,) * 3 and lent.getpixel((0, 0)) == (64, 64, 64)


# ------------------------------------------------------------------------------------------------ orientation

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/></rdf:RDF></x:xmpmeta>'
)
CORNER = {1: (0, 0), 2: (59, 0), 3: (59, 39), 4: (0, 39), 5: (0, 0), 6: (39, 0), 7: (39, 59), 8: (0, 59)}
"""Where the corner that is stored first is seen, of 60 x 40 px."""


def marked() -> Image.Image:
    image = Image.new("RGB", (60, 40), "white")
    image.paste("black", (0, 0, 8, 8))
    return image


def turned(orientation: int, where: str) -> bytes:
    kind, _, said = where.partition(" ")
    options: dict = {}
    if said == "EXIF":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    elif kind == "PNG" and said == "XMP":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.format(orientation))
    elif kind == "TIFF" and said == "XMP":
        options["tiffinfo"] = {700: XMP.format(orientation).encode()}
    elif said == "XMP":
        options["xmp"] = XMP.format(orientation).encode()
    if said.startswith("behind"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        late = chunk(b"eXIf", exif.tobytes()[6:])
        if said == "behind XMP":
            late = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.format(orientation).encode())
        content = saved(marked(), "PNG")
        return content[:-12] + late + content[-12:]
    return saved(marked(), kind, **options)


PLACES = ["JPEG EXIF", "PNG EXIF", "WEBP EXIF", "TIFF EXIF", "AVIF EXIF", "JPEG XMP", "PNG XMP", "WEBP XMP", "TIFF XMP"]
PLACES += ["PNG behind EXIF", "PNG behind XMP"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("where", PLACES)
def test_an_image_is_measured_as_it_stands(where, orientation):
    content = turned(orientation, where)
    loaded = open_image(content)
    assert measure(content) == loaded.image.size == ((40, 60) if orientation > 4 else (60, 40))
    x, y = CORNER[orientation]
    assert loaded.image.getpixel((x, y))[0] < 100 and loaded.image.getpixel((20, 20))[0] > 200
    assert loaded.notes == (("orientation applied",) if orientation > 1 else ())
    assert measure(Image.open(io.BytesIO(content))) == loaded.image.size


def test_exif_that_cannot_be_read_costs_no_image():
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n8\nno digits")
    content = saved(marked(), "PNG", pnginfo=info)
    assert measure(content) == (60, 40)
    assert open_image(content).notes == ("EXIF cannot be read, and is not applied",)


def test_measuring_an_ordinary_png_unpacks_no_pixels():
    content = saved(Image.effect_noise((200, 200), 60), "PNG")
    assert measure(content[: len(content) // 2]) == (200, 200)


# ------------------------------------------------------------------------------------------------ limits and damage


@pytest.mark.parametrize("size", [(10_000, 10_000), (13_000, 13_000), (50_000, 50_000)])
def test_a_large_image_is_refused_by_our_error_alone(size):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in (open_image, measure):
            with pytest.raises(ImageError, match=rf"image: {size[0]}x{size[1]} px is more than the limit of 40 MP"):
                read(content)


def noise() -> Image.Image:
    blocks = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(np.kron(blocks, np.ones((4, 4, 1), np.uint8)))


FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA", "SGI", "PCX", "JPEG2000", "QOI", "AVIF")
FILES = {kind: saved(noise(), kind) for kind in FORMATS} | {
    "TIFF LZW": saved(noise(), "TIFF", compression="tiff_lzw"),
    "progressive": saved(noise(), "JPEG", progressive=True),
    "animated": saved(noise(), "GIF", save_all=True, append_images=[noise().rotate(90)]),
    "APNG": saved(noise(), "PNG", save_all=True, append_images=[noise().rotate(90)]),
    "16-bit": png(np.arange(0, 60000, 100).reshape(20, 30), 16, (100,)),
    "turned": turned(6, "PNG behind EXIF"),
    "CMYK": saved(noise().convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_cut_anywhere_is_whole_or_refused(kind):
    content = FILES[kind]
    whole = open_image(content).image
    step = max(1, len(content) // 150)
    for cut in (*range(1, len(content), step), *range(max(1, len(content) - 20), len(content))):
        try:
            loaded = open_image(content[:cut])
        except ImageError as error:
            assert str(error).startswith("image: ") and "\n" not in str(error)
            continue
        assert loaded.image.tobytes() == whole.tobytes() or kind == "turned", cut


@settings(max_examples=200, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(FILES)), data=st.data())
def test_damaged_bytes_are_an_image_or_one_line(kind, data):
    content = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 80))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    sizes = []
    for read in (measure, lambda c, **limit: open_image(c, **limit).image.size):
        try:
            sizes.append(read(bytes(content), max_pixels=1_000_000))
        except ImageError as error:
            assert str(error).startswith("image: ") and "\n" not in str(error)
    assert len(sizes) < 2 or sizes[0] == sizes[1]


MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    mode=st.sampled_from(MODES),
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF", "TGA", "opened"]),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    orientation=st.integers(0, 9),
    transparency=st.none() | st.integers(0, 3),
)
def test_what_is_opened_has_the_size_that_is_measured(mode, kind, size, orientation, transparency):
    image = Image.new("L", size, 3).convert("F" if mode == "F" else "L").convert(mode if mode != "I;16" else "I")
    image = image.convert("I;16") if mode == "I;16" else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    keyed = transparency is not None and mode in ("1", "L", "P") and kind in ("PNG", "GIF")
    options = {"transparency": transparency} if keyed else {}
    if kind == "opened":
        image.info["exif"] = exif.tobytes()
        source: bytes | Image.Image = image
    else:
        try:
            source = saved(image, kind, **options, **({} if kind in ("GIF", "BMP", "TGA", "JPEG2000") else {"exif": exif}))
        except (OSError, ValueError, KeyError):  # no such mode in this format
            return
    loaded = open_image(source)
    assert loaded.image.mode == "RGB" and loaded.image.size == measure(source)
    turns = orientation in range(2, 9) and kind not in ("GIF", "BMP", "TGA", "JPEG2000")
    assert ("orientation applied" in loaded.notes) == turns
    assert (WHITE in loaded.notes) <= (loaded.image.getpixel((0, 0)) == (255, 255, 255))
