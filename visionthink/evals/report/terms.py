"""The words of the page, each explained once."""

from collections.abc import Sequence

from visionthink.evals.report.runs import Run

TERMS = {
    "Policy": "A policy decides at which resolution an image is shown. A run is one model under one policy.",
    "Adaptive": "The model sees a low view first, and decides for each question whether to ask for more.",
    "Always-low, always-full": "Every image is shown once, at the lowest resolution of the menu or at full resolution (policies "
    "low and full).",
    "Visual tokens": "The pieces into which the model cuts an image; they make up most of what an image costs. The full view is "
    "the image at full resolution.",
    "Retention": "The visual tokens that the model read, relative to those of the full view. Last view counts only the view that "
    "the model saw last; every view counts all of them, which is the whole cost.",
    "Request": "The model, or the policy in its place, asks for another view.",
    "Judged, unscored": "An answer is unscored where the judge could not decide, or where the model gave none. Unscored answers "
    "count in no accuracy.",
    "Random mix": "Always-low or always-full, chosen at random for each question, so often that as many visual tokens are read "
    "as in the run. A model has learnt when to ask only if it is above its random mix. "
    "The policy random:P shows the full view with probability P.",
    "Training-free gate": "The gate answers from the low view, and starts again with the full view where that answer was least "
    "certain.",
    "Oracle router": "It asks for the full view exactly where always-low is wrong and always-full is right. No other "
    "choice between these two answers is right more often; an adaptive run, which reads both views, may give a third answer.",
    "95 % interval, undecided": "The range in which a figure would lie for other questions of the same kind. A difference is "
    "undecided where the interval includes zero, or where fewer than 20 questions were compared.",
    "Forced": "The first decision is the same for every question: forced:direct answers from the low view, forced:request always "
    "asks for more.",
}

_FAMILIES = (
    " The mix of each family spends, in each family of questions, as many tokens as the run spent there. The mix with the best "
    "rates spends the tokens in the families whose accuracy gains most."
)


def terms(runs: Sequence[Run]) -> dict[str, str]:
    """Those that these runs need."""
    forced = any(run.policy.action for run in runs)
    families = any(run.summary["by_family"] for run in runs)
    found = {term: meaning for term, meaning in TERMS.items() if term != "Forced" or forced}
    return found | ({"Random mix": TERMS["Random mix"] + _FAMILIES} if families else {})
