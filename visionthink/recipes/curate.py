"""Curation from beginning to end: open, spread over workers, write down, label, report."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from visionthink.addresses import is_endpoint
from visionthink.data.curated import label_rows, summarise, write_tables
from visionthink.data.curation import Curator, RowCounter, counted, judge_again, written_down
from visionthink.data.curation_report import curation_page
from visionthink.data.examples import read_examples
from visionthink.data.labels import Thresholds
from visionthink.durable import replace_json, same_settings, stored_settings
from visionthink.errors import DataError, OptionError
from visionthink.model import ENGINES, check_installed
from visionthink.policies.attention import check_attention
from visionthink.policies.checkpoint import check_files, describe, resolve
from visionthink.policies.placement import AUTO, check_placement
from visionthink.pools.pool import Pool
from visionthink.pools.work import Work
from visionthink.progress import stage
from visionthink.recipes import SUITES, is_generated, suite
from visionthink.resolution import ResolutionLadder
from visionthink.rewards.usage import total
from visionthink.types import Example


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """One curation. The fields that a rollout depends on are stored with it; another run into the same folder must agree."""

    data: str
    """A file or folder of examples, a hub id, or a generated suite (`recipes.SUITES`)."""
    model: str
    out: Path
    judge: str = "rules"
    ladder: str = "0.25,1"
    rollouts: int = 8
    difference: int = 6
    wrong: int = 0
    select: int = 0
    """Examples per label at most; 0 takes as many as both have."""
    temperature: float = 1.0
    max_new_tokens: int = 1024
    max_tokens: int = 0
    definite: str = ""
    """An endpoint that is asked whether a question has one definite answer."""
    validation: str = ""
    """A data set whose images must not be in this one."""
    omit: tuple[str, ...] = ()
    """Fields to leave out of the request to an endpoint."""
    device: str = AUTO
    """Where a model that transformers runs is put."""
    dtype: str = AUTO
    """Type of the weights of such a model."""
    attention: str = ""
    """The attention of a model that transformers runs; empty takes flash attention where it can be used."""
    columns: str = ""
    image_root: str = ""
    seed: int = 0
    limit: int = 0
    strict: bool = False
    engine: str = "transformers"
    """What runs a model that is no endpoint."""
    pool: Pool = field(default_factory=Pool)

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(self.rollouts, self.difference, self.wrong)

    def __post_init__(self) -> None:
        for name, least in (("limit", 0), ("select", 0), ("max_tokens", 0), ("max_new_tokens", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")
        if not 0 <= self.temperature < math.inf:
            raise OptionError(f"--temperature {self.temperature}: must be a number of at least 0")
        if not self.pool.ray:  # the nodes of a cluster may have another one than this machine
            check_installed(self.engine)
        runner = "the endpoint" if is_endpoint(self.model) else self.engine
        check_attention(self.attention, runner=runner)
        check_placement(self.device, self.dtype, runner=runner)
        self.pool.check_device(self.device)
        _ = self.thresholds
        if len(ResolutionLadder.parse(self.ladder).levels) < 2:
            raise OptionError(f"--ladder {self.ladder}: needs two levels to compare")


_ROLLOUT_FIELDS = (
    "data", "model", "judge", "ladder", "rollouts", "temperature", "max_new_tokens", "max_tokens", "definite", "columns",
    "image_root", "seed", "limit",
)  # fmt: skip


def curate(config: CurateConfig, console: Console) -> dict[str, Any]:
    """Make the rollouts that are missing; when all are there, label, select and write. Returns the summary.

    Raises:
        OptionError: settings that cannot be, or that differ from the folder's.
        DataError: no row can be used, or, with `strict`, one cannot.
    """
    from visionthink.rewards.spec import read_definite, read_judge

    read_judge(config.judge)  # names that do not exist are known before a model is loaded
    if config.definite:
        read_definite(config.definite)
    examples = _examples(config.data, config)
    _same_settings(config)
    started = time.perf_counter()
    _judge_again(config, console)
    _count_rows(config, len(examples))
    rows = label_rows(
        config.out,
        config.thresholds,
        most=config.select,
        validation=read_examples(config.validation) if config.validation else None,
    )
    if rows and all(c.label is None for c in rows):
        raise DataError(f"{config.data}: no row can be used; the first: {rows[0].reason}")
    summary = summarise(rows, examples, config.thresholds)
    summary |= {"judge_usage": _usage(config.out), "seconds": round(time.perf_counter() - started, 1)}
    (config.out / "report.html").write_text(curation_page(config.out, rows, examples, summary), "utf-8")
    write_tables(config.out, rows, examples)
    replace_json(config.out / "summary.json", summary)
    return summary


def _examples(data: str, config: CurateConfig) -> Mapping[str, Example]:
    if is_generated(data):
        if config.columns or config.image_root:
            raise OptionError(f"{data}: is generated; --columns and --image-root are for tables")
        return {e.id: e for e in suite(data, config.limit or None)}
    table = read_examples(data, columns=config.columns, image_root=config.image_root)
    return table.first(config.limit) if config.limit else table


_PLACES = ("data", "model", "image_root", "definite")
"""Settings that may name a file or a folder."""


def _same_settings(config: CurateConfig) -> None:
    """Write the settings down as they were given, or compare them with those that are: a place may be written in another way.

    Raises:
        OptionError: one differs, or the folder is that of something else.
        ModelError: there is no such model.
    """
    settings = {name: getattr(config, name) for name in _ROLLOUT_FIELDS}
    judges = [part.strip() for part in config.judge.split(",")]
    settings |= {"judge": ",".join(judges), "judge_file": _judge_files(judges)}
    settings |= {"omit": list(config.omit)} if config.omit else {}
    settings |= {"attention": config.attention} if config.attention else {}
    settings |= {"dtype": config.dtype} if config.dtype != AUTO else {}
    settings |= {"engine": config.engine} if config.engine != ENGINES[0] else {}
    before = stored_settings(config.out)
    if before is None:
        if config.out.exists() and any(config.out.iterdir()):
            raise OptionError(f"--out {config.out}: the folder is not empty and holds no curation")
        if not is_endpoint(config.model):
            check_files(config.model)
            describe(config.model)  # a folder that was written for a model that is none could not be used for another
        same_settings(config.out, settings)
        return
    if not all(isinstance(before.get(name), str) for name in ("judge", "judge_file", *_PLACES)):
        raise OptionError(f"--out {config.out}: config.json is not of a curation; use another folder")
    same = settings | {name: before[name] for name in _PLACES if _as_place(before[name]) == _as_place(settings[name])}
    asked = before["judge"].split(",")
    first = judges[: len(asked)]
    if _judge_places(first) == _judge_places(asked):
        same |= {"judge": before["judge"], "judge_file": _judge_files(first)}
    same_settings(config.out, same)
    if len(judges) > len(asked):
        # further judges are asked what the ones before could not judge: what was judged stays as it is
        replace_json(config.out / "config.json", before | {name: settings[name] for name in ("judge", "judge_file")})


def _as_place(name: str) -> str:
    """What a setting names, whichever way its path is written; text that is no path as it is."""
    path = Path(resolve(name))
    known = path.parent if any(c in path.name for c in "*?[") else path
    return str(path.resolve()) if name not in ("", *SUITES) and known.exists() else name


def _judge_places(judges: Sequence[str]) -> list[str]:
    return [_as_place(judge) if judge.endswith(".toml") else judge for judge in judges]


def _judge_files(judges: Sequence[str]) -> str:
    """What the judges' files hold, where they are some: another prompt or model gives other verdicts."""
    files = [Path(judge) for judge in judges if judge.endswith(".toml")]
    return "\n".join(path.read_text("utf-8", "replace") for path in files if path.is_file())


def _count_rows(config: CurateConfig, count: int) -> None:
    """Give the rows that are left to the pool, and write down what comes back."""
    done = {c.row for c in counted(config.out)}
    left = [row for row in range(count) if row not in done]
    if not left:
        return
    usage: dict[str, Mapping[str, float]] = {}
    try:
        with stage("examples", count, done=len(done)) as advance:
            for finished in written_down(config.out, config.pool.results(rows_of(config), left)):
                usage[finished.worker] = finished.usage
                advance(1)
    finally:
        _write_usage(config.out / "usage" / "workers.jsonl", usage.values())


def rows_of(config: CurateConfig) -> Work:
    """The work of a curation: its items are the numbers of rows."""
    return _Work(config)


@dataclass(frozen=True)
class _Work:
    """Opens model, judge and table in a worker."""

    config: CurateConfig

    def __call__(self) -> RowCounter:
        from visionthink.model import load
        from visionthink.rewards.cascade import steady
        from visionthink.rewards.spec import read_definite, read_judge

        config = self.config
        model = load(
            config.model,
            ladder=ResolutionLadder.parse(config.ladder),
            engine=config.engine,
            device=config.device,
            dtype=config.dtype,
            attention=config.attention,
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            batch_size=2 * config.rollouts,
            omit=config.omit,
        )
        curator = Curator(
            model=model,
            judge=steady(read_judge(config.judge)),
            thresholds=config.thresholds,
            seed=config.seed,
            max_tokens=config.max_tokens,
            definite=read_definite(config.definite) if config.definite else None,
        )
        examples = _examples(config.data, config)
        return RowCounter(curator=curator, examples=examples, keys=list(examples), strict=config.strict)


def _judge_again(config: CurateConfig, console: Console) -> None:
    from visionthink.rewards.spec import read_judge

    if any(c.unscored for c in counted(config.out)):
        judge = read_judge(config.judge)
        rows, left = judge_again(config.out, judge)
        _write_usage(config.out / "usage" / "judged-again.jsonl", [judge.usage()])
        console.print(f"{rows} rows held answers that could not be judged; judged again, {left} still do")


def _write_usage(file: Path, usages: Iterable[Mapping[str, float]]) -> None:
    """What the judges of workers cost, a line each; of a run that was killed it is not known."""
    file.parent.mkdir(exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(dict(usage)) + "\n" for usage in usages)


def _usage(out: Path) -> dict[str, float]:
    """What the judges of all workers cost together."""
    files = sorted((out / "usage").glob("*.jsonl"))
    return total(json.loads(line) for file in files for line in file.read_text("utf-8").splitlines())
