"""Answers that speak to the judge instead of answering. They are refused: such an answer never reaches a model.

A judge is a language model, and what it reads can turn it. No wording of a prompt prevents that; an answer to a question about an
image has no reason to mention scores, graders or chat markup, unless the question or the reference does.
"""

from __future__ import annotations

import re
import unicodedata

from visionthink.rewards.judge import Answer

_DIRECTIVES = (
    # the judge's business
    r"scor(?:e|ed|es|ing)\b",
    r"\b(?:judg(?:e|ed|es|ing)|judge?ments?|grad(?:e|ed|er|ers|ing)|evaluat\w+|verdict|assess\w*|verif(?:y|ied|ier)|reviewers?)\b",
    r"\b(?:rubric|rating|rate\s+this|meaningful\s+match|full\s+(?:marks|credit|points))\b",
    # orders
    r"\b(?:ignore|disregard|forget|override|bypass|overrule|instructions?|directive|guidelines?|prompts?|please)\b",
    r"\b(?:decode|base64|rot13|unfair|harmful)\b",
    # openers that turn judges by themselves (arXiv 2507.08794)
    r"\b(?:thought\s+process|step\s+by\s+step|let(?:['’]?s|\s+us)\s+(?:solve|think))\b|^\s*solution\s*:?\s*$",
    r"\byou\s+(?:must|should|are|will|have\s+to)\b|\bas\s+an?\s+(?:ai|evaluator|intelligent)\b|\bi\s+am\s+the\b",
    r"\b(?:accept|mark|count|treat|consider|regard)\s+(?:this|it|that|the|my|as)\b.{0,40}\b(?:correct|right|true|valid|match\w*)\b",
    r"\b(?:return|output|respond|reply|print)\b.{0,40}\b(?:correct|true|one|1|yes)\b",
    r"\b(?:award|give|assign)\b.{0,20}\b(?:marks?|points?|credit|1)\b",
    # claims about the answer itself
    r"\bground[\s_-]*truth\b|\b(?:reference|prediction|predicted|correct\s+answer)\b|\bmodel\b.*\banswer",
    r"\b(?:answer|response|this|it|above)\b.{0,20}\b(?:is|as|was)\s+(?:\w+ly\s+|indeed\s+|already\s+)?"
    r"(?:correct|right|accepted|valid|acceptable|true)\b",
    r"\bmatch(?:es)?\b.{0,30}\b(?:reference|truth|exactly|meaningfully)\b",
    r"\b(?:same|identical|equal|equivalent)\s+(?:as|to)\s+(?:the\s+)?(?:above|item|what|one\s+given)\b|\bis_correct\b|\bmatch\s*[:=]",
    r"\b(?:both|two|the)\s+(?:answers?\s+)?(?:agree|are\s+(?:the\s+same|identical|equal|equivalent)|match)\b|\b(?:result|nota|verdict|answer|grade|mark)\s*[:=]\s*[01]\s*$",
    r"\n\s*(?:question|truth|answer|score)\s*:",
    # markup
    r"\[\[|\]\]|<\|?/?\w+|\|>|\[/?inst\]|^\s*\#{1,6}\s|\{\s*[\"']|```|\b(?:system|assistant|user)\s*[:\]]",
    # the same in other languages
    r"\b(?:puntuaci[oó]n|calificaci[oó]n|bewertung|punktzahl|bewerte\w*|correcta?|korrekt|richtig|ignorier\w*|ignora\w*|ignorez"
    r"|anweisung\w*|instruc\w+)\b",
    "分数|评分|得分|正确|忽略|指令|点数|正解|スコア|採点|정답|점수|оценк|правильн|игнорир|инструкц",
    # encoded text
    r"(?<![\w+/])(?:[A-Za-z0-9+/]{24,}|[A-Za-z0-9+/]{8,}={1,2})(?![\w+/=])",
)
_SPELLED = re.compile(r"sc[o0]re[01]|\byes(?:yes)+\b")
"""What is left when everything between letters is taken out."""
_DIRECTIVE = re.compile("|".join(_DIRECTIVES), re.IGNORECASE | re.MULTILINE | re.DOTALL)
_VERDICT = re.compile(r"score\W{0,4}[:=]\W{0,4}[01]\b|\[\[(?:yes|no)\]\]", re.IGNORECASE)
"""A verdict itself; only a reference may hold it, a question is no excuse."""
_HIDDEN = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\U000e0000-\U000e007f]")
_MIXED = re.compile(r"[a-z][\u0370-\u03ff\u0400-\u052f]|[\u0400-\u052f][a-z]", re.IGNORECASE)
"""Latin beside Cyrillic or Greek letters within a word: look-alikes. Greek may stand before Latin, as in μm and Δx."""


def speaks_to_the_judge(answer: Answer) -> str | None:
    """The words that are meant for the judge, or None. What the question or a reference says as well may be said."""
    if _HIDDEN.search(answer.prediction):
        return "invisible characters"
    marks_off = "".join(c for c in unicodedata.normalize("NFKD", answer.prediction) if not "\u0300" <= c <= "\u036f")
    prediction = unicodedata.normalize("NFKC", marks_off)
    references = unicodedata.normalize("NFKC", " ".join(answer.references)).casefold()
    for verdict in _VERDICT.finditer(prediction):
        if verdict[0].casefold() not in references:
            return verdict[0]
    given = unicodedata.normalize("NFKC", " ".join((answer.question, *answer.references)))
    squeezed = re.sub(r"[\W_]+", "", references)
    if (spelled := _SPELLED.search(re.sub(r"[\W_]+", "", prediction.casefold()))) and spelled[0] not in squeezed:
        return spelled[0]
    if not _words(prediction) and prediction.strip() not in given:
        return "no words"
    if (mixed := _MIXED.search(answer.prediction)) and mixed[0] not in given:
        return "mixed alphabets"
    for match in _DIRECTIVE.finditer(prediction):
        words = _words(match[0])
        if not (words <= _words(given) if words else match[0].strip() in given):
            return " ".join(match[0].split())[:40]
    return None


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
