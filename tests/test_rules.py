"""The rules judge: literal pairs, and how often it is sure and right on pairs labelled by hand."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from visionthink.rewards.anls import anls
from visionthink.rewards.judge import Answer, Verdict
from visionthink.rewards.relaxed import relaxed_accuracy
from visionthink.rewards.rules.judge import RULES, RulesJudge

PAIRS = Path(__file__).parent / "data" / "answer_pairs"
LENGTHS = "How long is it? A. 1 cm B. 3 cm C. 4 cm"


def verdict(prediction: str, *references: str, question: str = "", closed: bool = False) -> str:
    return RulesJudge(closed=closed).compare([Answer(question, prediction, references)])[0].verdict


@pytest.mark.parametrize(
    "prediction, references, expected",
    [
        ("Red", ("red",), "correct"),
        (" the RED. ", ("red",), "correct"),
        ("three", ("3", "three"), "correct"),
        ("3.0", ("3",), "correct"),
        ("1,200", ("1200",), "correct"),
        ("1e3", ("1000",), "correct"),
        ("4", ("3", "three"), "wrong"),
        ("12", ("1",), "wrong"),
        ("46", ("47",), "wrong"),
        ("blue", ("red",), "unscored"),  # rules have no vocabularies; `exact` does
        ("", ("red",), "wrong"),
        ("A", ("A",), "correct"),
        ("a", ("B",), "wrong"),
        ('"red".', ("red",), "correct"),
        ("Yes, there is", ("yes",), "correct"),
        ("No.", ("yes",), "wrong"),
        ("No, but then again yes", ("no",), "unscored"),
        ("9007199254740993", ("9007199254740992",), "wrong"),
        ("1e300", ("2e300",), "wrong"),
        ("it is red", ("red",), "correct"),
        ("it is not red", ("red",), "unscored"),
        ("it is red or blue", ("red",), "unscored"),
        ("50%", ("50",), "correct"),
        ("0.5", ("50%",), "correct"),
        ("0.5", ("50",), "wrong"),
        ("1%", ("1",), "unscored"),
        ("1/2", ("50%",), "correct"),
        ("1½", ("1 1/2",), "correct"),
        ("3.14", ("3.1416",), "unscored"),
        ("3.15", ("3.14",), "wrong"),
        ("10 cm", ("0.1 m",), "correct"),
        ("10 cm", ("1 m",), "wrong"),
        ("5 m", ("5 min",), "unscored"),
        ("77 °F", ("25 °C",), "correct"),
        ("1.5 hours", ("90 min",), "correct"),
        ("1 hour 30 minutes", ("90 min",), "unscored"),
        ("$5", ("€5",), "wrong"),
        ("twenty-one", ("21",), "correct"),
        ("\\frac{1}{2}", ("0.5",), "correct"),
        ("$2\\sqrt{3}$", ("\\sqrt{12}",), "correct"),
        ("$x^2 - 1$", ("(x-1)(x+1)",), "correct"),
        ("$x^2 + 1$", ("(x-1)(x+1)",), "wrong"),
        ("9^9^9^9", ("3",), "unscored"),
        ("blue, red", ("red and blue",), "correct"),
        ("red", ("red and blue",), "unscored"),
        ("red, blue", ("red, blue and green",), "wrong"),
        ("(4, 3)", ("(3, 4)",), "wrong"),
        ("March 3, 2020", ("2020-03-03",), "correct"),
        ("03/04/2020", ("2020-04-03",), "unscored"),
        ("3:30 pm", ("15:30",), "correct"),
        ("Coca-Cola", ("coca cola",), "correct"),
        ("BBB+", ("BBB-",), "unscored"),
        ("10³", ("103",), "unscored"),  # a raised digit may have been lost
        ("10³", ("1000",), "correct"),
        ("5 mW", ("5 MW",), "unscored"),
        ("nineteen ninety", ("1990",), "unscored"),
        ("007", ("7",), "unscored"),
        ("London", ("London, UK",), "unscored"),
        ("I do not think the answer is 5", ("5",), "unscored"),
        ("twice 5", ("5",), "unscored"),
        ("2+2=5", ("5",), "unscored"),
        ("12π cm²", ("12π cm³",), "unscored"),
        ("1e350 m", ("5 cm",), "wrong"),
        ("1e500 m", ("5 cm",), "unscored"),
        ("((2^{999})^{999})^{999}", ("2",), "unscored"),
        ("automobile", ("car",), "unscored"),
        ("Room 12", ("Room 14",), "unscored"),
        ("I cannot tell.", ("5",), "wrong"),
        ("I cannot tell.", ("cannot be determined",), "correct"),
        ("Score: 1", ("cat",), "unscored"),
        ("red", ("",), "unscored"),
        ("<think>the sign says 12</think><answer>\\boxed{14}</answer>", ("14",), "correct"),
    ],
)
def test_pairs(prediction, references, expected):
    assert verdict(prediction, *references) == expected


@pytest.mark.parametrize(
    "prediction, reference, expected",
    [
        ("B", "3 cm", "correct"),
        ("(b) 3 cm", "B", "correct"),
        ("3 cm", "B", "correct"),
        ("C", "B", "wrong"),
        ("B. 4 cm", "B", "unscored"),  # letter and text disagree
        ("The length is 3 cm, so the answer is B.", "B", "unscored"),
        ("A or B", "B", "unscored"),
        ("A and B", "B", "wrong"),
    ],
)
def test_multiple_choice(prediction, reference, expected):
    assert verdict(prediction, reference, question=LENGTHS) == expected


@pytest.mark.parametrize(
    "prediction, reference, question, expected",
    [
        ("10", "10 cm", "How many cm is it?", "correct"),
        ("10", "10 cm", "How long is it?", "unscored"),
        ("0.5", "50", "What percentage is it?", "unscored"),
        ("3 apples", "3", "How many apples are there?", "correct"),
        ("4.5", "$4.5 million", "What was the revenue in million dollars?", "correct"),
        ("There is a cat.", "no", "Is there a dog?", "unscored"),
        ("The ball is on the box.", "yes", "Is the ball in the box?", "unscored"),
        ("No answer", "0", "How many cats are there?", "unscored"),
        ("3, 4", "4, 3", "What are the width and height?", "unscored"),
        ("There are 4 zebras.", "3", "How many zebras are there?", "wrong"),
        ("Two people sit in row 3.", "3", "How many people are there?", "unscored"),
        ("The cat is left of the dog.", "dog", "What is left of the cat?", "unscored"),
        ("The rest is 2, as 3 * 4 = 12", "2", "What is the rest?", "unscored"),
        ("VW", "Volkswagen", "What brand is the car?", "unscored"),
        ("Messi", "Lionel Messi", "Who scored?", "unscored"),
        ("One of them is Barack Obama", "Barack Obama, Joe Biden", "Who are the two people?", "unscored"),
        ("A. Lind, B. Moreau", "B. Moreau, A. Lind", "Who signed?", "correct"),
        ("cats and dogs, ahead of fish", "dogs and cats", "What are the two most common pets?", "unscored"),
    ],
)
def test_the_question_matters(prediction, reference, question, expected):
    assert verdict(prediction, reference, question=question) == expected


LEFT_TO_A_LANGUAGE_MODEL = [
    ("3:8", "6:16", "What is the ratio of cats to dogs?"),
    ("There is no cat.", "no", "Is there a cat?"),
    ("blue, red", "red, blue", "Which colours, from left to right?"),
    ("The letter is addressed to Dr. Carter.", "Dr. Carter", "To whom is the letter addressed?"),
    ("The dog is left of the cat.", "dog", "What is left of the cat?"),
    ("The shop is closed on Sundays.", "Monday", "On which day is the shop closed?"),
    ("Saturday and Sunday are the days off.", "Sunday, Saturday", "Which are the days off?"),
    ("It is closed.", "no", "Is the laptop open?"),
    ("The light is red.", "yes", "Is the light green?"),
    ("The highest is 58 and the lowest 12, so 58 - 12 = 46", "46", "What is the range?"),
    ("y = 4", "x = 4", "What is the equation of the line?"),
    ("sin B = 5/13", "12/13", "Find sin B."),
    ("x = 2 or x = -3", "2, -3", "What are the solutions?"),
    ("from 2000 to 2010", "2000-2010", "Which years does the chart cover?"),
    ("10 a.m. to 4 p.m.", "10am-2pm", "What are the hours?"),
    ("Ramirez", "Martinez", "What is the name on the jersey?"),
    ("Barack Obama", "Barack Obama, Joe Biden", "Who are the two people?"),
    ("The label is not visible, so I cannot tell.", "unanswerable", "What medicine is this?"),
    ("The payment is due on May 5, 2003.", "05/15/2003", "When is the payment due?"),
]
"""Sentences and paraphrases: (prediction, reference, question)."""


@pytest.mark.parametrize("prediction, reference, question", LEFT_TO_A_LANGUAGE_MODEL)
def test_sentences_are_not_understood_in_part(prediction, reference, question):
    assert verdict(prediction, reference, question=question) == "unscored"


NEVER = r"""
# one line each: question | reference | answer | what a judge may say (c: correct, w: wrong, u: unscored)
Is there a dog in the image? | no | I do not see a dog in the image. | cu
Is there a dog in the image? | no | I can't see a dog. | cu
Is there a dog in the image? | no | I don't see one. | cu
How many people are in the image? | 0 | I don't see any people. | cu
Is the date visible? | no | The date is not visible. | cu
Is the phone number given? | no | It is not given. | cu
Does the chart show data for 2010? | no | The chart does not show data for 2010. | cu
Which continent code? | NA | North America | cu
What is the symbol for sodium? | Na | Sodium | cu
Is there a clock on the wall? | no | There is a clock on the table. | cu
Is there a person behind the car? | no | There is a person in the car. | cu
Is there a red car? | no | There is a blue car and a red truck. | cu
Is there a dog? | no | There is a hot dog on the plate. | cu
Where is this? | Chicago, Illinois | Chicago, Illinois, USA | cu
Where is this? | Paris, France | Paris, Ile-de-France, France | cu
What is the address? | 12 Main Street, Springfield | 12 Main Street, Springfield, IL 62701 | cu
How much? | 5 | .5 | wu
How far? | 5 miles | .5 miles | wu
How long? | 5' | 5" | wu
Value? | 5 | 5! | wu
Which grade? | A* | A | wu
Which vitamin? | Vitamin A | Vitamin | wu
Which disease? | Hepatitis A | Hepatitis | wu
Which plan? | Plan A | Plan | wu
Which book? | War and Peace | Peace and War | wu
What does the sign say? | Stop and Go | Go and Stop | wu
Which brand? | Black & Decker | Decker & Black | wu
What is shown? | Sunday | sun | wu
How many people are not wearing hats? | 5 | 5 people are wearing hats. | wu
What percent don't like tea? | 34% | 34% of people like tea. | wu
How many prefer tea to coffee? | 34 | 34 people prefer coffee to tea. | wu
What colour is the car next to the truck? | red | The truck is red. | wu
How many cars? | 0 | There are no cars besides a taxi. | wu
What is $\sqrt{144}$? | 12 | \sqrt{144} | wu
Compute 2^5 | 32 | 2^5 | wu
What is it? | 3 | 6/2 | wu
Sum? | \frac{5}{6} | \frac{2}{3}+\frac{1}{6} | wu
Factorise x^2+x-2 | (x-1)(x+2) | x^2+x-2 | wu
Expand (x-1)(x+2) | x^2+x-2 | (x-1)(x+2) | wu
Simplify 6/8 | 3/4 | 6/8 | wu
Convert 5 m to cm | 500 cm | 5 m | wu
What is the matrix size? | 4 \times 3 | 3 \times 4 | wu
What is the matrix size? | 12 | 3 \times 4 | wu
Which Python release? | 3.10 | 3.1 | wu
Which figure? | 2.10 | 2.1 | wu
Which model number? | 1.10 | 1.1 | wu
Which batch number? | 1E5 | 100000 | wu
What is the date? | 9/12 | 3/4 | wu
What is the time signature? | 3/4 | 6/8 | wu
What is the blood pressure? | 120/80 | 3/2 | wu
How much is it? | £5 | 5 lbs | wu
What is the length AB? | 5 | BC = 5 | wu
How much energy? | 200 Cal | 200 kcal | cu
What is the phone number? | (336) 741-5000 | 741-5000 | cu
What is the zip? | 27102 | 27102-0001 | cu
What is the zip code? | 27102 | 27102-0001 | cu
"""


@pytest.mark.parametrize("line", [line for line in NEVER.splitlines() if line and line[0] != "#"])
def test_traps_that_were_fallen_into(line):
    question, reference, prediction, allowed = line.split(" | ")
    assert verdict(prediction, reference, question=question)[0] in allowed


def test_a_closed_vocabulary_makes_another_short_text_wrong():
    assert verdict("banana", "apple") == "unscored" and verdict("banana", "apple", closed=True) == "wrong"
    assert verdict("a red apple", "apple", closed=True) == "unscored"  # it holds the reference
    assert verdict("bottom", "bottom left", closed=True) == "wrong"
    assert verdict("something like a much longer sentence here", "apple", closed=True) == "unscored"


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("<answer>3", "5", "wrong"),
        ("<answer>print", "8", "wrong"),
        ("<answer>vertical", "horizontal", "wrong"),
        ("2<answer>", "3", "wrong"),
        ("<answer>", "3", "wrong"),
        ("<answer>3", "3", "unscored"),
        ("<answer>red circle", "red", "unscored"),
    ],
)
def test_tags_left_open_save_no_wrong_answer_of_a_closed_vocabulary(prediction, reference, expected):
    assert verdict(prediction, reference, closed=True) == expected
    assert verdict(prediction, reference) == "unscored"


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("reference", ["<div>", "<b>"])
def test_tags_that_are_no_part_of_a_protocol_are_the_answer(closed, reference):
    assert verdict(f"**{reference}**", reference, closed=closed) == "correct"


LEAST = {
    "hard_1": 0.37,
    "hard_2": 0.21,
    "hard_3": 0.2,
    "hard_4": 0.28,
    "kinds_2": 0.4,
    "kinds_3": 0.4,
    "kinds_4": 0.58,
    "typical_1": 0.55,
    "typical_2": 0.7,
    "typical_3": 0.6,
    "typical_4": 0.64,
}
"""The share of each file that must be decided: at most .02 below what `python benchmarks/judge_rules.py` measures."""


@functools.cache
def judged(name: str) -> list[tuple[dict[str, str], Verdict]]:
    """A file of labelled pairs, with the verdict on each."""
    rows = [json.loads(line) for line in (PAIRS / f"{name}.jsonl").read_text("utf-8").splitlines()]
    found = RulesJudge().compare([Answer(r["question"], r["prediction"], (r["reference"],)) for r in rows])
    return list(zip(rows, found, strict=True))


@pytest.mark.parametrize("name", sorted(file.stem for file in PAIRS.glob("*.jsonl")))
def test_labelled_pairs(name):
    """Labelled by hand, independently of the rules; files 2 and 3 were unseen when the rules were written. Hard pairs (full
    sentences, traps), typical ones, and kinds that other tools misread. `either` is the label where nobody can know: a sure
    verdict is then a mistake."""
    decided = [(r, v) for r, v in judged(name) if v.verdict != "unscored"]
    mistakes = [f"{r['reference']!r} {r['prediction']!r}: {v.verdict}" for r, v in decided if v.verdict != r["label"]]
    assert 1 - len(mistakes) / len(decided) >= 0.995, mistakes
    assert len(decided) / len(judged(name)) >= LEAST[name]


REPORTED = r"""
# one line each: question | reference | answer | verdict; the kinds that users reported of other tools, with siblings
What is the order of magnitude? | 10^-20 | 10^-19 | w
What is the charge? | 1.6 \times 10^{-20} \text{ C} | 1.6 \times 10^{-19} \text{ C} | w
Evaluate. | \frac{1}{2^{98}} | \frac{1}{2^{99}} | w
Evaluate. | \sqrt{2}\times 10^{-20} | \sqrt{2}\times 10^{-19} | w
Evaluate. | 1e-300 | 1e-301 | w
Evaluate. | 1e-300 | 10^{-300} | c
How large? | 12345678901234567890 | 12345678901234567891 | w
How small? | 0.30000000000000004 | 0.3 | wu
How long is it? | 3.5 m | 3,5 m | c
How long is it? | 3,5 m | 35 m | w
What does it cost? | 1.234,56 € | 1234.56 € | c
What does it cost? | €1.234 | €1234 | u
What is the population? | 1 234 567 | 1234567 | c
What is the population? | 12,34,567 | 1234567 | c
Wie hoch ist der Wert? | 1,234 | 1234 | u
Where is the point? What are the two coordinates? | 3,5 | 3.5 | u
How heavy is it? | ५ kg | 5 kg | c
How heavy is it? | ٣٫٥ kg | 3.5 kg | c
How long is it? | 12\,\mathrm{cm} | 12 cm | c
How long is it? | 12\,\mathrm{cm} | 12 cm per second | wu
How large is the area? | 12 cm^2 | 12 cm^3 | wu
Solve. | x = 3 | 3 or 4 | wu
What is the speed? | $3\times10^{8}\ \text{m/s}$ | 3 × 10⁸ m/s | c
What is the angle? | 45^\circ | 45° | c
What is the angle? | 45^\circ | 45 rad | w
When? | 2020-03-05 | 5 March 2020 | c
When? | 2020-03-05 | 05.03.2020 | u
When? | 31.12.2020 | 12/31/2020 | c
When? | 2020-03-05 | 06/07/2020 | w
When? | 5 March 2020 | 5 March | u
What time is it? | 15:30 | 3:30 pm | c
What time is it? | 15:30 | 3:30 am | w
What time is it? | 15:30 | 3:30 | u
"""


@pytest.mark.parametrize("line", [line for line in REPORTED.splitlines() if line and line[0] != "#"])
def test_reported_kinds(line):
    question, reference, prediction, allowed = line.split(" | ")
    assert verdict(prediction, reference, question=question)[0] in allowed


TEN = "Which value?\nA. 12\nB. 14\nC. 16\nD. 18\nE. 20\nF. 22\nG. 24\nH. 26\nI. 28\nJ. 30"
DOOR = "图中的门是什么颜色？\n（A） 红\n（B） 蓝\n（C） 绿"
DOTS = "图中的门是什么颜色？\nA．红\nB．蓝\nC．绿"
CIRCLED = "Which fruit? ① apple ② pear ③ plum"
ROMAN = "Which statement holds? i) it melts ii) it freezes iii) it boils"


@pytest.mark.parametrize(
    "question, reference, prediction, expected",
    [
        (TEN, "I", "28", "correct"),
        (TEN, "J", "(J)", "correct"),
        (TEN, "J", "J. 30", "correct"),
        (TEN, "I", "The answer is (I).", "correct"),
        (TEN, "J", "12", "wrong"),
        (TEN, "J", "I", "wrong"),
        (TEN, "K", "J", "unscored"),
        (TEN, "H", "H. 28", "unscored"),
        (DOOR, "B", "蓝", "correct"),
        (DOOR, "B", "选B", "correct"),
        (DOOR, "B", "（B） 蓝", "correct"),
        (DOOR, "B", "答案：Ｂ", "correct"),
        (DOOR, "B", "（A） 红", "wrong"),
        (DOOR, "B", "红", "wrong"),
        (DOTS, "B", "B．蓝", "correct"),
        (DOTS, "B", "不是蓝", "unscored"),
        (CIRCLED, "2", "②", "correct"),
        (CIRCLED, "2", "pear", "correct"),
        (CIRCLED, "2", "③ plum", "wrong"),
        (ROMAN, "ii", "it freezes", "correct"),
        (ROMAN, "ii", "iii) it boils", "wrong"),
    ],
)
def test_options(question, reference, prediction, expected):
    assert verdict(prediction, reference, question=question) == expected


@pytest.mark.parametrize(
    "question, reference, prediction, expected",
    [
        ("How many cars are there?", "8", "no", "wrong"),
        ("Which fruit is left?", "apple", "none", "wrong"),
        ("图中有几扇门？", "3", "图中有3扇门", "unscored"),
        ("门是什么颜色？", "红色", "答案是红色", "correct"),
        ("门是什么颜色？", "红色", "蓝色", "unscored"),
        ("What colour is it?", "red", "blue", "wrong"),
        ("What colour is it?", "red", "dark red", "unscored"),
        ("How many are there?", "12", "a dozen", "unscored"),
        ("Wie viele sind es?", "3", "drei", "unscored"),
        ("Is it open?", "yes", "sure", "unscored"),
        ("门是什么颜色？", "红色", "粉红色", "unscored"),
        ("What is drawn?", "sun", "blue", "wrong"),
        ("What is drawn?", "moon", "sun", "wrong"),
        ("What are they doing?", "march", "dance", "wrong"),
        ("Which word is written here?", "may", "can", "wrong"),
        ("Which word is written here?", "march", "april", "wrong"),
        ("What does the calendar show?", "sun", "Sunday", "unscored"),
        ("What does the calendar show?", "may", "2026-05-01", "unscored"),
        ("What does the calendar show?", "2026-05-01", "may", "unscored"),
        ("Which month is it?", "5", "may", "unscored"),
    ],
)
def test_exact_decides_short_texts(question, reference, prediction, expected):
    assert verdict(prediction, reference, question=question, closed=True) == expected


def test_rules_work_in_threads():
    """math-verify's own time limits would need the main thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(verdict("$\\frac{2}{4}$", "0.5")))
    thread.start()
    thread.join()
    assert found == ["correct"]


@pytest.mark.parametrize(
    "prediction, reference, stock, strict",
    [
        ("46", "47", True, False),  # within 5 %, but a count
        ("2019", "2020", True, False),
        ("47%", "47", False, True),
        ("0.47", "47%", True, True),
        ("3.2", "3.1", True, True),
        ("3.4", "3.1", False, False),
        ("0", "0", True, True),
        ("0.0", "0", False, True),  # a reference of 0 is compared as text
        ("Red", "red", True, True),
        ("1,200", "1200", False, True),
        ("blue", "red", False, False),
    ],
)
def test_relaxed_accuracy(prediction, reference, stock, strict):
    assert relaxed_accuracy(prediction, reference, "stock") is stock
    assert relaxed_accuracy(prediction, reference, "strict") is strict


def test_anls():
    assert anls("Hello World", ["hello  world"]) == 1.0
    assert anls("helo world", ["hello world"]) == pytest.approx(10 / 11)
    assert anls("cat", ["dog", "cut"]) == pytest.approx(2 / 3)
    assert anls("abc", ["xyz"]) == 0.0
    assert anls("", [""]) == 1.0 and anls("x", []) == 0.0


def test_every_rule_decides_a_hundredth_of_the_pairs():
    """One that decides less is not worth its lines."""
    verdicts = [v for name in LEAST for _, v in judged(name)]
    decided = Counter(v.reason for v in verdicts if v.verdict != "unscored")
    assert {name for name in RULES if decided[name] < len(verdicts) / 100} == set()


def test_the_benchmark_measures():
    command = [sys.executable, "benchmarks/judge_rules.py", str(PAIRS / "hard_2.jsonl"), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    record = json.loads(done.stdout)
    assert record.keys() == {"ratio", "ours", "peer", "bound"}
    assert record["ours"]["all"] == record["ours"]["by set"]["hard_2"] and record["ours"]["all"]["pairs"] == 300
    assert record["ours"]["all"]["decided"] <= record["bound"]["decided"] == 286 / 300
