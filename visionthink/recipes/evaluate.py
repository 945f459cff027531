"""One evaluation as a value, from which the command line and every worker open the same examples, model and judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from visionthink.addresses import is_endpoint
from visionthink.errors import OptionError
from visionthink.evals.batches import Batch, BatchRunner
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.runner import Results
from visionthink.model import ENGINES, Model, check_installed, load
from visionthink.policies.placement import AUTO, META
from visionthink.pools.pool import Pool
from visionthink.pools.work import Finished
from visionthink.recipes.frontier import twin_of, with_method
from visionthink.rewards.cascade import steady
from visionthink.rewards.spec import read_judge
from visionthink.types import Example, Examples

if TYPE_CHECKING:
    from visionthink.evals.benchmarks.benchmark import Benchmark


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is asked of which models. The fields in `settings` are stored with a run; another run into its folder must agree."""

    suite: str
    """A generated suite (`recipes.SUITES`), or a table of examples."""
    judge: str | None = None
    """Default: `exact` for generated suites and for benchmarks without a judge of their own, `rules` for other tables."""
    menu: str | None = None
    ladder: str | None = None
    dialect: str | None = None
    boundary: str | None = None
    canonical: bool | None = None
    engine: str = ENGINES[0]
    device: str = AUTO
    dtype: str = AUTO
    attention: str = ""
    checkpoint: str | None = None
    max_new_tokens: int = 1024
    batch_size: int | None = None
    omit: tuple[str, ...] = ()
    limit: int | None = None
    split: str | None = None
    columns: str = ""
    image_root: str = ""
    benchmark: str | None = None
    pool: Pool = dataclasses.field(default_factory=Pool)

    def __post_init__(self) -> None:
        for name in ("batch_size", "limit", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if not self.pool.ray:  # the nodes of a cluster may have another one than this machine
            check_installed(self.engine)
        self.pool.check_device(self.device)

    @property
    def task(self) -> Benchmark | None:
        from visionthink.evals.benchmarks.benchmark import benchmark

        return benchmark(self.benchmark) if self.benchmark else None

    @property
    def judged_by(self) -> str:
        from visionthink.recipes import SUITES

        closed = self.suite in SUITES or (self.task is not None and not self.task.judged)
        return self.judge or ("exact" if closed else "rules")

    @property
    def settings(self) -> dict[str, Any]:
        kept = "menu ladder dialect boundary engine checkpoint max_new_tokens limit split columns image_root benchmark".split()
        settings = {name: getattr(self, name) for name in kept} | ({"omit": list(self.omit)} if self.omit else {})
        dtype = None if self.dtype == AUTO else self.dtype
        optional = {"attention": self.attention or None, "dtype": dtype, "canonical": self.canonical}
        return settings | {name: value for name, value in optional.items() if value is not None}

    @property
    def spread(self) -> bool:
        """Whether batches are run in other processes than this one."""
        return self.pool.ray or self.pool.workers > 1

    def examples(self) -> Examples:
        """The examples, which of a table are read when they are asked for.

        Raises:
            OptionError: an option of tables for a suite that is generated.
            DataError: the table cannot be opened.
        """
        from visionthink.data.examples import ExampleTable, parse_columns, read_examples
        from visionthink.data.sources import open_rows
        from visionthink.recipes import is_generated, suite

        task = self.task
        if is_generated(self.suite):
            if task is not None or self.split is not None or self.columns or self.image_root:
                raise OptionError(f"{self.suite}: is generated; --benchmark, --split, --columns and --image-root are for tables")
            examples: dict[str, Example] = {example.id: example for example in suite(self.suite, self.limit)}
            return examples
        if task is None:
            table = read_examples(self.suite, self.split or "test", columns=self.columns, image_root=self.image_root)
        else:
            rows, beside = open_rows(self.suite, self.split or task.split)
            asked = task.rows(self.suite, rows, parse_columns(self.columns))
            table = ExampleTable(self.suite, asked, self.image_root or beside)
        return table.first(self.limit) if self.limit else table

    def open_model(self, name: str) -> Model:
        """A model; where workers run it, without its weights."""
        if self.spread and not is_endpoint(name):
            return self._load(name, engine=ENGINES[0], device=META)
        return self._load(name, engine=self.engine, device=self.device)

    def _load(self, name: str, *, engine: str, device: str) -> Model:
        return load(
            name,
            menu=self.menu,
            ladder=self.ladder,
            dialect=self.dialect,
            boundary=self.boundary,
            canonical=self.canonical,
            checkpoint=self.checkpoint,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            engine=engine,
            device=device,
            dtype=self.dtype,
            attention=self.attention,
            omit=self.omit,
        )

    def results(self, model: str, policy: PolicySpec) -> Results | None:
        """What runs the batches of a policy; None where this process does."""
        return partial(_spread, self.pool, _Work(self, model, policy)) if self.spread else None


def _spread(pool: Pool, work: _Work, batches: Iterator[Batch]) -> Iterator[Finished]:
    return pool.results(work, batches)


@dataclass(frozen=True)
class _Work:
    """Opens examples, model and judge in a worker."""

    config: EvalConfig
    model: str
    policy: PolicySpec

    def __call__(self) -> BatchRunner:
        config = self.config
        model = with_method(self.policy, config._load(self.model, engine=config.engine, device=config.device))
        return BatchRunner(config.examples(), model, self.policy, steady(read_judge(config.judged_by)), twin_of)
