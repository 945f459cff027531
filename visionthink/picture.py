"""Opened pictures: a file is read once, a view is rendered once, and all who need them share them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from PIL import Image

from visionthink.errors import ImageError
from visionthink.images import FORMATS, MAX_IMAGE_PIXELS, measure, open_image, source_label
from visionthink.menu import Edit
from visionthink.resolution import check_size
from visionthink.types import Box, Example, ImageSource, ImageView, whole


class Picture:
    """An upright RGB image and the views of it that were rendered so far.

    Read-only: the members of a rollout group, both lanes of an evaluation and curation share it, so neither `image` nor the
    image of a view may be changed in place.

    Args:
        encoded: media type and bytes of a file that holds exactly these pixels and no metadata, where there is one: a view of
            them all is sent to an endpoint as these bytes.
        detail: what an endpoint that knows the field `detail` of an image is told of its views; empty leaves the field out.
    """

    def __init__(
        self,
        image: Image.Image,
        notes: Sequence[str] = (),
        name: str = "image",
        *,
        encoded: tuple[str, bytes] | None = None,
        detail: str = "",
    ):
        self.image, self.notes, self.name, self.encoded, self.detail = image, tuple(notes), name, encoded, detail
        self._rendering = threading.Lock()
        self._views: dict[tuple[Box, int, int, float, str], ImageView] = {}

    @classmethod
    def open(
        cls,
        source: ImageSource,
        *,
        name: str | None = None,
        max_pixels: int = MAX_IMAGE_PIXELS,
        formats: tuple[str, ...] = FORMATS,
    ) -> Picture:
        """Decode a path, the bytes of a file, or an opened image; see `images.open_image`.

        Raises:
            ImageError: the file cannot be used, is larger than `max_pixels`, or its sides differ by more than a factor of 200.
        """
        label = name or source_label(source)
        loaded = open_image(source, name=label, max_pixels=max_pixels, formats=formats)
        _checked(loaded.image.size, label)
        return cls(loaded.image, loaded.notes, label)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in px."""
        return self.image.size

    @property
    def rendered(self) -> int:
        """How many views have been rendered."""
        return len(self._views)

    @property
    def bytes_held(self) -> int:
        """Memory of the image and its views, of which Pillow keeps four bytes for each pixel."""
        with self._rendering:
            images = {id(image): image for image in (self.image, *(view.image for view in self._views.values()))}
        return sum(4 * image.width * image.height for image in images.values())

    def view(self, box: Box, width: int, height: int, *, level: float, visual_tokens: int, edit: Edit | None = None) -> ImageView:
        """A box of the picture at width x height px: one LANCZOS pass from the original, or its own pixels where the size is the
        box's; then the edit. The same view is the same object."""
        key = (box, width, height, level, edit.name if edit else "")
        with self._rendering:
            if key not in self._views:
                pixels = self._pixels(box, width, height, edit)
                self._views[key] = ImageView(
                    image=pixels,
                    box=box,
                    level=level,
                    width=width,
                    height=height,
                    visual_tokens=visual_tokens,
                    given=self.encoded if pixels is self.image else None,
                    detail=self.detail,
                )
            return self._views[key]

    def _pixels(self, box: Box, width: int, height: int, edit: Edit | None) -> Image.Image:
        if edit is not None:
            return edit.apply(self._pixels(box, *((height, width) if edit.turns_sides else (width, height)), None))
        if (width, height) != (box.width, box.height):
            return self.image.resize((width, height), Image.Resampling.LANCZOS, box=box)
        return self.image if box == whole(*self.size) else self.image.crop(box)


def _checked(size: tuple[int, int], name: str) -> tuple[int, int]:
    """A size that a model can be shown; the error for another one names the image."""
    try:
        check_size(*size)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    return size


def source_name(example: Example, index: int = 0, row: str = "") -> str:
    """What an error calls an example's image: its path, or the example's id and which of its images it is."""
    source = example.images[index]
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        return f"{row}, {path}" if row else path
    which = f", image {index + 1} of {len(example.images)}" if len(example.images) > 1 else ""
    return f"{row or f'example {example.id}'}{which}"


def measured(example: Example, *, max_pixels: int = MAX_IMAGE_PIXELS, row: str = "") -> tuple[tuple[int, int], ...]:
    """(width, height) in px of each image of an example, from the headers alone; arguments and errors as of `open_pictures`."""
    names = [source_name(example, i, row) for i in range(len(example.images))]
    return tuple(
        _checked(measure(source, name=name, max_pixels=max_pixels), name)
        for source, name in zip(example.images, names, strict=True)
    )


def open_pictures(example: Example, *, max_pixels: int = MAX_IMAGE_PIXELS, row: str = "") -> tuple[Picture, ...]:
    """The images of an example, opened, in order.

    Args:
        row: how errors name the example, where it is not by its id.

    Raises:
        ImageError: an image cannot be used; the message names it.
    """
    return tuple(
        Picture.open(source, name=source_name(example, i, row), max_pixels=max_pixels) for i, source in enumerate(example.images)
    )
