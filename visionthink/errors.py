"""Everything that can go wrong, in one tree.

    VisionThinkError
    ├── InputError            what the caller gave us cannot be used: one line, exit status 2
    │   ├── ImageError        an image file: missing, empty, truncated, too large, too thin, not an image
    │   ├── DataError         a row or file of examples, transcripts or generated items
    │   ├── OptionError       a command-line option or configuration value
    │   └── ModelError        a checkpoint that is missing, incomplete or of an unknown family
    ├── JudgeError            a judge is down, and what it would judge cannot be used without it
    ├── CompressionError      a model, cache or call that visual tokens cannot be taken out of
    └── StorageError          what we made cannot be kept: the disk is full

A bad rollout is data, not an exception: see `types.StopReason`.
"""

import difflib
import unicodedata
from collections.abc import Iterable


class VisionThinkError(Exception):
    """Base class. The message is one line that names the file, row or option."""


class InputError(VisionThinkError):
    """The caller's input cannot be used."""


class ImageError(InputError):
    """An image cannot be used; the message names it."""


class DataError(InputError):
    """A row or file of data cannot be used; the message names it."""


class OptionError(InputError):
    """An option or configuration value cannot be used; the message names it."""


class ModelError(InputError):
    """A checkpoint cannot be loaded; the message names the file that is missing or wrong."""


class JudgeError(VisionThinkError):
    """A judge is down; the message names it and says what is kept."""


class CompressionError(VisionThinkError):
    """Visual tokens cannot be taken out of this model, cache or call; or a method took out none."""


class StorageError(VisionThinkError):
    """A file cannot be written; the message names it and says what is kept."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is spelled most like an unknown one, as `did you mean 'tiny'? `; empty where none is like it."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.55)
    return f"did you mean {near[0]!r}? " if near else ""


def choose_from(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is not among the known ones: the one that was probably meant, and all of them."""
    names = list(known)
    return f"{did_you_mean(name, names)}choose from {', '.join(names)}"


def is_blank(text: str) -> bool:
    """Whether nothing in a text can be seen: white space, control characters and marks without width."""
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def one_line(said: str | Exception, most: int = 200, *, end: bool = False) -> str:
    """A text, or what a library's exception says, short enough to stand inside a message of ours: its beginning, or its end."""
    line = " ".join(str(said).split()) or ("" if isinstance(said, str) else type(said).__name__)
    if len(line) <= most:
        return line
    return f"...{line[3 - most :]}" if end else f"{line[: most - 3]}..."
