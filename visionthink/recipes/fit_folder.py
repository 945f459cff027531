"""The folder of a fit: what may be in it, and what an interrupted fit goes on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionthink.compress.learned import CHECKPOINTS, CONTROL, PARTIAL, PARTS, RECORD
from visionthink.durable import check_writable, replace_json, replace_text, stored_settings
from visionthink.engine.checkpoints import last_checkpoint
from visionthink.errors import OptionError
from visionthink.train.usable import reject_lines

MODULES = ("trained", CONTROL)
"""Names under which method and control have their checkpoints."""
REJECTS = "rejects.jsonl"


def interrupted(out: Path) -> bool:
    """Whether there is an unfinished fit with a checkpoint."""
    return any(last_checkpoint(out / CHECKPOINTS / name) for name in MODULES)


def check_folder(out: Path, *, resume: bool) -> None:
    """Raises before anything is computed, and creates nothing.

    Raises:
        OptionError: the folder cannot be written to, holds something other than a fitted method, or holds an unfinished fit that
            is not to be resumed.
    """
    check_writable(out)
    ours = (*PARTS, PARTIAL, CHECKPOINTS, REJECTS)
    if out.is_dir() and not (out / RECORD).is_file() and any(path.name not in ours for path in out.iterdir()):
        raise OptionError(f"--out {out}: holds something else than a fitted method; name another folder")
    if not resume and interrupted(out):
        raise OptionError(f"--out {out}: holds a fit that was interrupted; give --resume or another folder")


def check_same_fit(out: Path, settings: Mapping[str, Any]) -> None:
    """A fit goes on with the settings that it began with.

    Raises:
        OptionError: there is no unfinished fit, or it began with other settings.
    """
    before = stored_settings(out / CHECKPOINTS)
    if before is None:
        raise OptionError(f"--resume: no unfinished fit in {out}")
    for name, value in json.loads(json.dumps(dict(settings))).items():
        if before.get(name) != value:
            raise OptionError(f"--resume: {name} was {before.get(name)!r} in {out} and is {value!r} now")


def begin(out: Path, settings: Mapping[str, Any], unreadable: Mapping[str, str]) -> None:
    """Write down the settings of a fit, and which examples are left out, for what reasons."""
    replace_json(out / CHECKPOINTS / "config.json", settings)
    if unreadable:
        replace_text(out / REJECTS, "".join(reject_lines(unreadable)))
    else:
        (out / REJECTS).unlink(missing_ok=True)  # of an earlier fit
