from __future__ import annotations

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from visionthink.errors import ImageError
from visionthink.images import measure, open_image


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_missing_empty_folder_and_text(tmp_path):
    for name, content, message in [
        ("missing.png", None, "missing.png: no such file"),
        ("empty.png", b"", "empty.png: the file is empty"),
        ("text.png", b"hello there", "text.png: not an image file that can be read"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ImageError) as error:
            open_image(path)
        assert str(error.value).partition(" (")[0] == f"{tmp_path}/{message}"
    with pytest.raises(ImageError, match="a folder, not an image file"):
        open_image(tmp_path)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated(format, tmp_path):
    rng = np.random.default_rng(0)
    content = encoded(Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)), format)
    path = tmp_path / "half.img"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError) as error:
        open_image(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_truncated_anywhere_gives_one_line():
    frames = [Image.effect_noise((40, 40), 60).convert("P") for _ in range(3)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for cut in range(1, len(content), 97):
        try:
            open_image(content[:cut])
        except ImageError as error:
            assert "\n" not in str(error)


def test_devices_are_not_read():
    with pytest.raises(ImageError, match="/dev/zero: a device, not an image file"):
        open_image("/dev/zero")


def test_the_limit_can_be_raised_above_that_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert open_image(encoded(Image.new("L", (100, 100)))).image.size == (100, 100)
    assert Image.MAX_IMAGE_PIXELS == 40_000_000  # raised for good: nothing is swapped while others read


def test_bomb_is_refused_by_its_header():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match=r"limit of 40 MP"):
        open_image(bomb)
    with pytest.raises(ImageError, match=r"100x100 px is more than the limit of 0.005 MP"):
        open_image(encoded(Image.new("RGB", (100, 100))), max_pixels=5000)


def test_an_icon_that_hides_a_larger_image_is_not_read():
    """The folder of an ICO says 16 x 16; what Pillow would unpack is the PNG inside."""
    inner = encoded(Image.new("L", (4000, 3000)))
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    for read in (open_image, measure):
        with pytest.raises(ImageError, match=r"image: not an image file that can be read \(AVIF, BMP, .*, WEBP\)"):
            read(icon, max_pixels=10_000_000)
    with pytest.raises(ImageError, match=r"4000x3000 px is more than the limit of 10 MP"):
        measure(inner, max_pixels=10_000_000)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_an_image_is_measured_as_it_is_opened(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (20, 10), "white"), kind, exif=exif)
    loaded = open_image(content)
    assert loaded.image.size == measure(content) == (10, 20)
    assert loaded.notes == ("orientation applied",)


def test_floating_point_greys():
    content = encoded(Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], np.float32)), "TIFF")
    assert [open_image(content).image.getpixel((x, 0))[0] for x in range(4)] == [0, 128, 255, 0]


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (20, 10), "white")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    loaded = open_image(encoded(image, exif=exif))
    assert loaded.image.size == (10, 20)
    assert loaded.image.getpixel((9, 0)) == (255, 0, 0)
    assert loaded.notes == ("orientation applied",)


def test_cmyk():
    loaded = open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = loaded.image.getpixel((4, 4))
    assert red > 200 and green < 60 and blue < 60
    assert loaded.notes == ("CMYK converted to RGB",)


def test_sixteen_bit_greys_are_scaled_not_clipped():
    grey = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    loaded = open_image(encoded(grey))
    assert [loaded.image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    assert loaded.notes == ("16-bit greys scaled to 8 bits",)


def test_palette_with_transparency_is_laid_on_white():
    image = Image.new("P", (4, 1), 0)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    loaded = open_image(encoded(image, transparency=0))
    assert loaded.image.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.image.getpixel((1, 0)) == (10, 20, 30)
    assert loaded.notes == ("transparency laid on white",)


def test_animation_uses_the_first_frame_and_says_so():
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "green", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    loaded = open_image(content)
    assert loaded.image.getpixel((0, 0)) == (255, 0, 0)
    assert loaded.notes == ("first of 3 frames used",)


def test_opened_images_are_taken_as_they_are():
    loaded = open_image(Image.new("L", (3, 5), 7))
    assert (loaded.image.mode, loaded.image.size, loaded.notes) == ("RGB", (3, 5), ())


def test_an_image_that_was_opened_elsewhere(tmp_path):
    """It is measured upright, kept within the limit, and copied: its owner may go on drawing."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("RGB", (30, 10), "red"), "JPEG", exif=exif))
    lent = Image.open(tmp_path / "a.jpg")
    assert measure(lent) == open_image(lent).image.size == (10, 30)
    with pytest.raises(ImageError, match=r"30x10 px is more than the limit of 0.0001 MP"):
        open_image(lent, max_pixels=100)
    own = Image.new("RGB", (4, 4), "red")
    loaded = open_image(own)
    own.paste("blue", (0, 0, 4, 4))
    assert loaded.image.getpixel((0, 0)) == (255, 0, 0)


def test_many_threads_read_an_image_that_was_opened_elsewhere(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8))
    noise.save(tmp_path / "a.png")
    lent, found = Image.open(tmp_path / "a.png"), []
    threads = [threading.Thread(target=lambda: found.append(open_image(lent).image.tobytes())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [noise.tobytes()] * 16
