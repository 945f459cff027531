"""The engine: what a prompt is told apart by."""

from PIL import Image
from transformers import Qwen2VLImageProcessor

from visionthink.engine.engine import _name
from visionthink.engine.tower import PreparedImages


def test_a_prompt_is_named_by_the_content_of_its_images_and_not_by_their_running_numbers():
    red, blue = Image.new("RGB", (56, 56), "red"), Image.new("RGB", (56, 56), "blue")
    one, other = PreparedImages(Qwen2VLImageProcessor()), PreparedImages(Qwen2VLImageProcessor())
    [(first,)] = one.of([[red]])
    _, (second,) = other.of([[blue], [red.copy()]])
    [(third,)] = other.of([[blue]])
    assert first.number != second.number
    assert _name([5, 6], [first]) == _name([5, 6], [second])
    assert _name([5, 6], [first]) != _name([5, 6], [third])
    assert _name([5, 6], [first]) != _name([5, 7], [first])
