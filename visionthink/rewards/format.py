"""R_format = 0.5 if every turn keeps the format, else 0 (Sec. 3.4 of arXiv 2507.13348).

Stricter than the released code, which accepts a call whose JSON is broken and counts tags with `and` for `or`.
"""

from __future__ import annotations

from visionthink.protocol import Protocol
from visionthink.transcript import Transcript

FORMAT_REWARD = 0.5


def format_reward(transcript: Transcript, protocol: Protocol) -> float:
    """0.5 or 0. A direct answer is one well-formed answer; with requests, every turn but the last is a well-formed request
    and the last a well-formed answer."""
    if not transcript.answered:
        return 0.0
    can_request = bool(transcript.offers)
    actions = [t.action for t in transcript.turns]
    in_order = actions[-1] == "answer" and all(a == "request" for a in actions[:-1])
    clean = all(protocol.is_well_formed(t.text, can_request=can_request) for t in transcript.turns)
    return FORMAT_REWARD if in_order and clean else 0.0
