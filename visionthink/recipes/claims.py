"""All claims and their runs, by name and in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from visionthink.errors import OptionError, choose_from
from visionthink.recipes import further_claims, paper_claims
from visionthink.recipes.claim import Claim, Variant

VARIANTS: Mapping[str, Variant] = {**paper_claims.VARIANTS, **further_claims.VARIANTS}
GROUPS: Mapping[str, tuple[Claim, ...]] = {"paper": paper_claims.CLAIMS, **further_claims.GROUPS}
"""`paper` is VisionThink's."""
CLAIMS: Mapping[str, Claim] = {claim.name: claim for group in GROUPS.values() for claim in group}


def chosen(names: Sequence[str]) -> list[Claim]:
    """The claims of these names, of which each is a group or a claim, in order and each once.

    Raises:
        OptionError: there is no such group or claim.
    """
    found: dict[str, Claim] = {}
    for name in names:
        if name not in GROUPS and name not in CLAIMS:
            raise OptionError(f"--claims {name!r}: {choose_from(name, (*GROUPS, *CLAIMS))}")
        found |= {claim.name: claim for claim in GROUPS.get(name, (CLAIMS[name],) if name in CLAIMS else ())}
    return list(found.values())
