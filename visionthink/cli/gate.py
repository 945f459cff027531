"""`visionthink calibrate` and `visionthink drift`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.table import Table

from visionthink.certainty import SCORES
from visionthink.cli.common import AddCommand, model_groups, model_option, names, path, wide, write_json
from visionthink.cli.evaluation import answer_options, suite_argument, suite_options
from visionthink.policies.gate import Method, Mode

if TYPE_CHECKING:
    from visionthink.policies.gate import Certificate


def add(command: AddCommand) -> None:
    text = "Calibrate a gate, a rule that shows the full view if the answer from the low view is not certain enough. The harm is "
    text += "the share of questions that the full view answers right and the gate does not; the threshold is chosen to keep it "
    text += "within a bound. An interrupted run continues in its folder."
    calibrate = command("calibrate", _calibrate, text, needs="eval", as_json=True)
    suite_argument(calibrate)
    model_option(calibrate)
    text = "file for the certificate, which holds the threshold; the answers go to a folder beside it, gate/ for gate.json"
    calibrate.add_argument("--out", type=path, required=True, metavar="FILE.json", help=text)
    text = "bound on the harm (default: %(default)g)"
    calibrate.add_argument("--alpha", type=float, default=0.05, metavar="SHARE", help=text)
    text = "probability with which the harm may exceed the bound nevertheless (default: %(default)g)"
    calibrate.add_argument("--delta", type=float, default=0.1, metavar="SHARE", help=text)
    suite_options(calibrate)
    answer_options(model_groups(calibrate).running)
    gate = calibrate.add_argument_group("how the gate works")
    text = f"score of how uncertain an answer is, one of {', '.join(SCORES)} (docs/how-to/gate.md). Of several, separated by "
    text += "commas, the one that is best on a part of the suite is taken (default: nllmax)"
    gate.add_argument("--score", type=names, default=("nllmax",), metavar="SCORES", help=text)
    text = "how the full view is shown: restart asks the question again with it, continue adds it after the low view (default: "
    text += "%(default)s)"
    gate.add_argument("--mode", choices=get_args(Mode), default="restart", metavar="NAME", help=text)
    text = (
        "statistical method: fixed-sequence (testing) keeps the bound with probability 1 - delta, crc (conformal risk control) "
    )
    text += "only on average over calibrations (default: %(default)s)"
    gate.add_argument("--method", choices=get_args(Method), default="fixed-sequence", metavar="NAME", help=text)
    gate.add_argument("--by-family", action="store_true", help="also print the threshold of each family of questions")

    text = "Test whether a gate's calibration still holds, by comparing the scores of current answers with those that it was "
    text += "calibrated on."
    drift = command("drift", _drift, text, needs="eval", as_json=True)
    drift.add_argument("gate", type=Path, metavar="GATE.json", help="certificate that visionthink calibrate has written")
    text = "folder of visionthink eval --policy gate:GATE.json (or low), or log of visionthink serve --rule gate:GATE.json"
    drift.add_argument("traffic", type=Path, metavar="RUN", help=text)


def _calibrate(options: argparse.Namespace) -> None:
    from visionthink.recipes.calibrate import CalibrateConfig, calibrate
    from visionthink.recipes.evaluate import EvalConfig

    fields = [field.name for field in dataclasses.fields(EvalConfig) if field.name != "pool"]
    own = {name: getattr(options, name) for name in ("alpha", "delta", "mode", "method", "by_family", "out", "model")}
    config = CalibrateConfig(
        evaluation=EvalConfig(**{name: getattr(options, name) for name in fields}), scores=options.score, **own
    )
    certificate = calibrate(config)
    if options.json:
        write_json(dataclasses.asdict(certificate))
    else:
        _print(certificate, options.out)


def _print(certificate: Certificate, out: Path) -> None:
    c, test = certificate, certificate.test
    table = Table("on held-out questions", "accuracy", "visual tokens", "shown more", "harm")
    table.add_row("low view", f"{100 * test['low']:.1f} %", "", "0 %", "")
    table.add_row("full view", f"{100 * test['full']:.1f} %", "100 %", "", "0 %")
    table.add_row("random mix at the gate's cost", f"{100 * test['mix']:.1f} %", f"{100 * test['cost']:.0f} %", "", "")
    shown = [f"{100 * test[name]:.{digits}f} %" for name, digits in (("accuracy", 1), ("cost", 0), ("escalated", 0), ("harm", 1))]
    table.add_row("gate", *shown)
    console = wide()
    console.print(table)
    promise = f"at most {100 * c.alpha:g} % harm, with probability {1 - c.delta:g}"
    if c.method == "crc":
        promise = f"at most {100 * c.alpha:g} % harm on average over calibrations"
    console.print(
        f"{c.score} <= {c.threshold:.4g} keeps the low view: {promise}, for questions like these ({c.k} of {c.n} were harmed); "
        f"visionthink eval SUITE --policy gate:{out}, visionthink serve --rule gate:{out}",
        markup=False,
        soft_wrap=True,
        highlight=False,
    )
    for name, own in c.families.items():
        found = "no threshold" if own["threshold"] is None else f"{c.score} <= {own['threshold']:.4g}, {own['k']} harmed"
        console.print(f"within {name}, {own['n']} questions: {found}", markup=False, highlight=False)


def _drift(options: argparse.Namespace) -> None:
    from visionthink.evals.drift import Traffic, drift
    from visionthink.policies.gate import Certificate

    certificate = Certificate.read(options.gate)
    found = drift(certificate, Traffic.read(options.traffic, certificate))
    if options.json:
        write_json(found)
        return
    table = Table("", "questions", "shown more")
    table.add_row("calibration", str(certificate.n), f"{100 * found['escalated_then']:.1f} %")
    table.add_row("now", str(found["n"]), f"{100 * found['escalated']:.1f} %")
    console = wide()
    console.print(table)
    verdict = "the scores are others than those of the calibration: calibrate again" if found["alarm"] else "no alarm"
    console.print(f"Kolmogorov-Smirnov {found['ks']:.3f}, p {found['p']:.2g}: {verdict}", highlight=False)
    if audit := found["audit"]:
        text = f"audit: {audit['k']} of {audit['n']} answers are not those of the full view; with probability "
        text += f"{1 - certificate.delta:g} the harm is at most {100 * audit['bound']:.1f} %; {100 * certificate.alpha:g} %"
        console.print(f"{text} are allowed", highlight=False)
