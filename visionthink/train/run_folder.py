"""The folder of a training run: whether it can be written to, its settings, its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionthink import records
from visionthink.durable import check_writable
from visionthink.engine.checkpoints import last_checkpoint, trained_updates
from visionthink.errors import OptionError


def check_folder(out: Path, *, resume: bool) -> None:
    """Raises before anything is computed, and creates nothing.

    Raises:
        OptionError: the folder cannot be written to, or holds a run that is not to be resumed.
    """
    check_writable(out)
    if not resume and ((out / "final").exists() or last_checkpoint(out)):
        raise OptionError(f"--out {out}: holds a run already; give --resume or another folder")


def check_same_run(out: Path, settings: Mapping[str, Any], defaults: Mapping[str, Any], *, updates: int) -> None:
    """A run goes on with the settings it began with. What may change is how often it is saved, how long it waits, what it does
    without its judge, and its length where the learning rate does not depend on it.

    Args:
        settings: as they would be stored.
        defaults: what a run that began before a setting existed is taken to have begun with.
        updates: optimizer updates of the whole run.

    Raises:
        OptionError: there is no run, or one that began with other settings or has gone further.
    """
    stored = out / "config.json"
    try:
        before = json.loads(json.dumps(defaults)) | records.parse(stored.read_bytes())
    except FileNotFoundError:
        raise OptionError(f"--resume: no run in {out}") from None
    except ValueError:
        raise OptionError(f"--resume: {stored} is damaged") from None
    newest = last_checkpoint(out)
    free = (
        "save_steps",
        "judge_down",
        "timeout_minutes",
        "out",
        "resume",
        *(("steps",) if settings["lr_schedule"] == "constant" else ()),
    )
    for name, value in json.loads(json.dumps(settings)).items():
        if name not in free and before.get(name) != value:
            said = f"--resume: {name} was {before.get(name)!r} in {out} and is {value!r} now"
            if name == "steps":  # what is possible depends on what there is to begin with
                start = newest if newest and (newest / "config.json").is_file() else out / "final"
                said += (
                    f"; a {settings['lr_schedule']} learning rate falls to 0 over the length that a run began with: "
                    f"leave --steps {before.get(name)}, or train on from it as a new run with --model {start} and another --out; "
                    "--lr-schedule constant runs can be made longer"
                )
            raise OptionError(said)
    if newest and trained_updates(newest) > updates:
        raise OptionError(f"--resume: {newest.name} of {out} is beyond {settings['steps']} steps")
