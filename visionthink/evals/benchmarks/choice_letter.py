"""Which option a free answer names, by its letter: the extraction that lmms-eval's RealWorldQA and MMBench share.

Every form in which a letter occurs has a rank; the highest rank that is found decides, and of it the last letter:

a standalone letter at the beginning (10), at the end (9), after "the answer is" (7), "(A)" (6), "A." (5), "A:" (4), "A)" (3),
"A " (2); and a letter anywhere if there is none of these (0).
"""

from __future__ import annotations

from collections.abc import Iterator

_FORMS = ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} "))

_NOUNS = "answer", "correct answer", "best answer", "correct option", "best option", "choice", "correct choice"
_PHRASES = (
    *(f"{article}{noun} is" for noun in _NOUNS for article in ("the ", "")),
    *("my answer is", "my choice is", "i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)


def choice_letter(answer: str, letters: str) -> str | None:
    """The letter of the option, one of `letters`; None where the answer holds none of them."""
    text = answer.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    found = list(_occurrences(text, letters)) or [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, key=lambda f: f[:2])[2] if found else None


def _occurrences(text: str, letters: str) -> Iterator[tuple[int, int, str]]:
    """(rank, position, letter) of every form."""
    padded, bare = f" {text} ", text.strip()
    for rank, form in _FORMS:
        for letter in letters:
            if (position := padded.rfind(form.format(letter))) >= 0:
                yield rank, position, letter
    lower = padded.lower()
    for phrase in _PHRASES:
        if (begin := lower.find(phrase)) >= 0:
            for letter in letters:
                if (position := padded.find(letter, begin + len(phrase))) >= 0:
                    yield 7, position, letter
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            yield 10, 0, letter
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            yield 9, len(padded), letter
