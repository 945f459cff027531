"""What is said between us and the model: prompts, tags, tool schemas, coordinates, and how a reply is read.

Knows nothing about whose turn it is (`episode`), the sizes of images (`action_space`) or tokens (`chatml` writes the wire
text). The strings live in `prompts/`, byte for byte as published; a variant of the protocol is a `Dialect`, a value.
"""

from visionthink.protocol.dialects import DIALECTS, IMAGE_MARK, Boundary, Dialect, prompt
from visionthink.protocol.disarming import disarmed, disarmed_json
from visionthink.protocol.grammar import MARKUP, Grammar
from visionthink.protocol.native import call_of, functions_of, names_of, with_calls
from visionthink.protocol.protocol import Protocol
from visionthink.protocol.reader import Piece, Reader
from visionthink.protocol.replies import (
    Answer,
    IncrementalText,
    Malformed,
    Reply,
    Request,
    after_thinking,
    answer_start,
    extract_answer,
    written_out,
)

__all__ = [
    "DIALECTS",
    "IMAGE_MARK",
    "MARKUP",
    "Answer",
    "Boundary",
    "Dialect",
    "Grammar",
    "IncrementalText",
    "Malformed",
    "Piece",
    "Protocol",
    "Reader",
    "Reply",
    "Request",
    "after_thinking",
    "answer_start",
    "call_of",
    "disarmed",
    "disarmed_json",
    "extract_answer",
    "functions_of",
    "names_of",
    "prompt",
    "with_calls",
    "written_out",
]
