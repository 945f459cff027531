"""Controls of a model that looks: views with other pixels than were asked for, at the same cost.

A model that reads what it looks at is wrong where the evidence was exchanged after its call, and where another place was shown;
one that is right all the same had the answer from elsewhere. The transcripts of a control hold what was asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal, get_args

from PIL import Image

from visionthink.episode import Episode
from visionthink.menu import Edit, Menu
from visionthink.model import Model
from visionthink.picture import Picture, open_pictures
from visionthink.types import Box, Example

Control = Literal["wrong-crop", "random-crop", "centre-crop", "blank-low", "blank"]
"""After the first turn: the counterfactual twin, in which the evidence is exchanged (`wrong-crop`); a box of the size that was
asked for at a random place, or in the middle. Or one colour: in the first turn (`blank-low`), or always."""
CONTROLS: tuple[Control, ...] = get_args(Control)

TwinOf = Callable[[Example], Example]
"""Makes of an example the same one with other evidence in its first image, and another answer; a `DataError` where there is
none."""


def episode(model: Model, example: Example, menu: Menu, control: Control | None, twin_of: TwinOf | None) -> Episode:
    """An episode over an example, with other views where there is a control.

    Raises:
        InputError: an image cannot be used, the example does not fit, or it has no twin and the control needs one.
    """
    if control is None:
        return model.episode(example, menu)
    pictures = open_pictures(example, max_pixels=model.max_image_pixels)
    twins = pictures
    if control == "wrong-crop" and twin_of is not None:
        twins = open_pictures(twin_of(example), max_pixels=model.max_image_pixels)
    changed = [
        _Changed(own, control, twin, f"{example.id} {i}") for i, (own, twin) in enumerate(zip(pictures, twins, strict=True))
    ]
    return model.episode(example, menu, pictures=changed)


class _Changed(Picture):
    """A picture whose views are not what they say. The first view that is rendered is that of the first turn."""

    def __init__(self, picture: Picture, control: Control, twin: Picture, name: str):
        super().__init__(picture.image, picture.notes, picture.name)
        self._control, self._twin, self._seed = control, twin, name

    def _pixels(self, box: Box, width: int, height: int, edit: Edit | None) -> Image.Image:
        first = not self.rendered
        if self._control == "blank" or (first and self._control == "blank-low"):
            return Image.new("RGB", (width, height), self.image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)))
        if first or self._control == "blank-low":
            return super()._pixels(box, width, height, edit)
        if self._control == "wrong-crop":
            return self._twin._pixels(box, width, height, edit)
        return super()._pixels(self._elsewhere(box), width, height, edit)

    def _elsewhere(self, box: Box) -> Box:
        """A box of this size in the middle, or at a place that follows from the example and the box."""
        spare = (self.size[0] - box.width, self.size[1] - box.height)
        drawn = hashlib.sha256(f"{self._seed} {box}".encode()).digest()
        shares = (
            (0.5, 0.5) if self._control == "centre-crop" else [int.from_bytes(drawn[i : i + 8], "big") / 2**64 for i in (0, 8)]
        )
        left, top = (int(share * (room + 1)) for share, room in zip(shares, spare, strict=True))
        return Box(left, top, left + box.width, top + box.height)
