"""What each benchmark asks: a row of its dataset to the question with its options and the usual request for a short answer.

The texts are those of lmms-eval's tasks, so that results can be compared; the tests compare them word for word.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

from visionthink.cells import is_text, text_of
from visionthink.errors import DataError
from visionthink.evals.benchmarks.mme import COGNITION, PERCEPTION
from visionthink.evals.benchmarks.mmmu import CHOICE, OPEN
from visionthink.evals.benchmarks.ocrbench import QUESTION_TYPES
from visionthink.evals.benchmarks.rows import Row, missing, one_of, text
from visionthink.evals.printed import read_printed

WORD = "Answer the question with a single word."
PHRASE = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LETTER_PRO = "Answer with the option letter from the given choices directly."

_SHORT = 200
"""Characters of a text that stay in an example's metadata."""


def chartqa(row: Row) -> Row:
    return {"question": f"{text(row, 'question')}\n{WORD}", "data_source": text(row, "type")}


def ocrbench(row: Row) -> Row:
    question_type = one_of(row, "question_type", QUESTION_TYPES)
    return {"question": text(row, "question").strip(), "data_source": question_type, "dataset": text(row, "dataset")}


def docvqa(row: Row) -> Row:
    """The answers of a copy without types stand as one text, as Python writes their list."""
    answers = _unwritten(row, "answer")
    return {"question": f"{text(row, 'question')}\n{PHRASE}", "answer": answers}


def mme(row: Row) -> Row:
    question = text(row, "question").strip().replace(" Please answer yes or no.", "")  # the request below stands in for it
    return {
        "question": f"{question}\n{PHRASE}",
        "answer": one_of(row, "answer", ("Yes", "No")),
        "data_source": one_of(row, "category", (*PERCEPTION, *COGNITION)),
        "question_id": text(row, "question_id"),
    }


def mmvet(row: Row) -> Row:
    """A reference of alternatives is several references; one of several parts is one text.

    Our protocol asks for reasoning already, so the request for it that lmms-eval puts before the question is left out.
    """
    answers = [" and ".join(part.strip() for part in way.split("<AND>")) for way in text(row, "answer").split("<OR>")]
    capability = row.get("capability")
    return {"answer": [a for a in answers if a], "data_source": None if missing(capability) else text(row, "capability")}


def realworldqa(row: Row) -> Row:
    return {"question": text(row, "question").strip()}


def pope(row: Row) -> Row:
    return {
        "question": f"{text(row, 'question').strip()}\n{PHRASE}",
        "answer": one_of(row, "answer", ("yes", "no")),
        "data_source": text(row, "category"),
    }


def mathvista(row: Row) -> Row:
    """`query` is the dataset's own wording: a hint at the form of the answer, the question, its unit and its choices."""
    about = row.get("metadata")
    task = about.get("task") if isinstance(about, dict) else None
    return {"question": text(row, "question").strip(), "data_source": task}


def mathverse(row: Row) -> Row:
    """`query_wo` is the dataset's own wording without a request for reasoning."""
    return {"question": text(row, "question").strip(), "data_source": text(row, "problem_version")}


def mmmu(row: Row) -> Row:
    """An image stands where the question first mentions it.

    Raises:
        DataError: a cell cannot be used, or the answer to a choice is not the letter of an option.
    """
    kind = one_of(row, "question_type", (CHOICE, OPEN))
    options = _list(row, "options") if kind == CHOICE else []
    request = LETTER if kind == CHOICE else PHRASE
    question = text(row, "question")
    asked = f"{question}\n{_lines(options)}\n\n{request}" if options else f"{question}\n\n{request}"
    subject = text(row, "id").partition("_")[2].rpartition("_")[0]  # of validation_Art_Theory_12
    return {
        "question": _with_marks(asked),
        "image": _images(row, f"{question}\n{_lines(options)}"),
        "answer": _answers(row) if kind == OPEN else _letter(row, options),
        "data_source": subject or None,
        "question_type": kind,
        "options": _kept(options),
    }


def mmmu_pro(row: Row) -> Row:
    """Rows with a question are of the standard set; the others have question and options in their image.

    Raises:
        DataError: as `mmmu`.
    """
    options = _list(row, "options")
    common = {"answer": _letter(row, options), "question_type": CHOICE, "options": _kept(options)}
    if missing(row.get("question")):
        return common | {"question": LETTER_PRO, "data_source": "vision"}
    listed = f"{text(row, 'question')}\n{_lines(options)}"
    image = _images(row, listed)
    return common | {"question": f"{listed}\n\n{LETTER_PRO}", "image": image, "data_source": "standard"}


def mmbench(row: Row) -> Row:
    """Hint, question and options.

    Raises:
        DataError: an option is missing between others, or the answer is not the letter of one.
    """
    there = [letter for letter in "ABCDE" if not missing(row.get(letter))]
    if not there or "".join(there) != "ABCDE"[: len(there)]:
        raise DataError(f"options {', '.join(there) or 'none'}: expected A, B and so on without a gap")
    options = [text(row, letter) for letter in there]
    hint = "" if missing(row.get("hint")) else f"{text(row, 'hint')} "
    return {
        "question": f"{hint}{text(row, 'question')} There are several options:\n{_lines(options)}\n\n{LETTER}",
        "answer": _letter(row, options),
        "data_source": text(row, "category"),
        "options": _kept(options),
    }


def _lines(options: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False))


def _kept(options: Sequence[str]) -> list[str]:
    """Options as metadata keep them: none of them empty, none too long."""
    return [option[:_SHORT] or " " for option in options]


def _list(row: Row, column: str) -> list[str]:
    """A list of 2 to 26 texts, or one as Python or JSON writes it."""
    value = _unwritten(row, column)
    if not isinstance(value, (list, tuple)) or not 1 < len(value) <= 26:
        raise DataError(f"{column} is not a list of 2 to 26 texts")
    return _texts(value, column)


def _answers(row: Row) -> Any:
    """A reference, or several that are in a list, or written as one; those that are null are none."""
    answer = _unwritten(row, "answer")
    if not isinstance(answer, (list, tuple)):
        return text(row, "answer")
    there = _texts([value for value in answer if not missing(value)], "answer")
    if not there:
        raise DataError("no answer")
    return there


def _unwritten(row: Row, column: str) -> Any:
    """A cell; of text that is a written list, the list."""
    value = row.get(column)
    try:
        return read_printed(str(value)) if is_text(value) else value
    except DataError as error:
        raise DataError(f"{column} is {error}") from None


def _letter(row: Row, options: Sequence[str]) -> str:
    """The answer as the letter of one of the options; "b", "(B)" and "B." are B.

    Raises:
        DataError: it is another text.
    """
    answer = text(row, "answer").strip()
    letters = string.ascii_uppercase[: len(options)]
    written = _LETTER.fullmatch(answer)
    if written is None or written[1].upper() not in letters:
        raise DataError(f"answer {answer[:60]!r} is none of the letters of its options, {', '.join(letters)}")
    return written[1].upper()


_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")


def _texts(values: Sequence[Any], column: str) -> list[str]:
    try:
        return [text_of(value) for value in values]
    except DataError as error:
        raise DataError(f"{column} holds {error}") from None


_MENTION = re.compile(r"<image (\d+)>")


def _mentioned(question: str) -> list[int]:
    """Numbers of the images that a question mentions as `<image 2>`, in the order of their first mention."""
    return list(dict.fromkeys(int(number) for number in _MENTION.findall(question)))


def _with_marks(question: str) -> str:
    """The first mention of each image as the place where it stands; a later one cannot be another image."""
    places = {number: i for i, number in enumerate(_mentioned(question), 1)}
    seen = set[int]()

    def mark(mention: re.Match[str]) -> str:
        number = int(mention[1])
        if number not in seen:
            seen.add(number)
            return "<image>"
        return "the image" if len(places) == 1 else f"image {places[number]}"

    return _MENTION.sub(mark, question)


def _images(row: Row, question: str) -> list[Any]:
    """The images that a question mentions; the first where it mentions none.

    Raises:
        DataError: one of several is missing.
    """
    numbers = _mentioned(question) or [1]
    images = [row.get(f"image_{number}") or (row.get("image") if number == 1 else None) for number in numbers]
    if len(images) > 1 and None in images:
        raise DataError(f"the question mentions image {numbers[images.index(None)]}, and there is none")
    return [image for image in images if image is not None]
