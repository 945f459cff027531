"""VisionThink as a model of lmms-eval (0.7 or newer): its requests become episodes; its scores stay its own.

    lmms-eval --model visionthink --model_args pretrained=tiny,policy=adaptive --tasks ... --output_path logs --log_samples

A task gets the extracted answer alone, since stock tasks would score the tags too; the whole episode goes to the sidecar.
"""

from __future__ import annotations

import inspect
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.utils import get_datetime_str, sanitize_model_name, simple_parse_args_string
from loguru import logger

from visionthink.episode import Episode
from visionthink.errors import DataError, InputError, OptionError, one_line
from visionthink.evals.integrations.lmms_numbers import run_numbers
from visionthink.evals.integrations.lmms_requests import Failed, read_messages
from visionthink.evals.lane import AnyLane
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.routing import routing
from visionthink.model import Model, load
from visionthink.policies.placement import AUTO
from visionthink.progress import stage
from visionthink.transcript import Transcript
from visionthink.types import Example, StopReason

SIDECAR = "visionthink-transcripts.jsonl"
"""The transcripts, in the working directory, where lmms-eval was given no output path."""


class VisionThink(lmms):
    """The arguments are those of `--model_args`.

    Args:
        pretrained: tiny, tiny-base, a checkpoint folder or a hub id.
        policy: as `visionthink eval --policy`; oracle needs to know what lmms-eval's tasks do not say.
        menu: what can be asked for, by name, see `visionthink eval --menu`; it brings its dialect along.
        ladder: levels of whole images, instead of the menu's, as 0.25:1 (a comma would end the argument).
        dialect, boundary: protocol wording and turn boundary; default: what is stored beside the checkpoint.
        max_new_tokens: per turn. It wins over the task's own, which is meant for answers without thinking; so does
            `temperature`. The task's `until` is ignored.
        output: what the task is given to score: `answer`, or `full` for all that was said.
        sidecar: file for the transcripts; default: beside lmms-eval's samples.
        batch_size, device: these win over `--batch_size` and `--device`.
        attention: see `visionthink eval --attention`.
        model: an opened model, in Python, with its own ladder and sampling; `pretrained` is then what it is called.

    Raises:
        OptionError: an argument that is unknown or cannot be used.
        ModelError: the checkpoint cannot be loaded.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        policy: str = "adaptive",
        menu: str | None = None,
        ladder: Any = None,
        dialect: str | None = None,
        boundary: str | None = None,
        max_new_tokens: int = 8192,
        temperature: float = 0.0,
        output: str = "answer",
        sidecar: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        attention: str = "",
        max_batch_size: int | None = None,
        *,
        model: Model | None = None,
        **unknown: Any,
    ):
        super().__init__()
        if unknown:
            known = [
                name for name in inspect.signature(type(self)).parameters if name not in ("max_batch_size", "model", "unknown")
            ]
            raise OptionError(f"--model_args: visionthink has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
        if output not in ("answer", "full"):
            raise OptionError(f"--model_args: output={output}: choose answer or full")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise OptionError(f"batch_size {batch_size}: must be a number of at least 1")
        spec = PolicySpec.parse(policy)
        if spec.method:
            raise OptionError(f"--model_args: policy={policy}: compression methods are for `visionthink eval`")
        if spec.routing == "oracle":
            raise OptionError("--model_args: policy=oracle: lmms-eval's tasks do not say which examples need a closer look")
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise OptionError("visionthink takes one process under lmms-eval: give each GPU tasks of its own, with device=cuda:N")
        self.name, self.policy, self.output, self.batch_size = str(pretrained or "model"), policy, output, int(batch_size)
        if model is None:
            if pretrained is None:
                raise OptionError("--model_args: pretrained is missing: tiny, tiny-base, a checkpoint folder or a hub id")
            model = load(
                self.name,
                menu=menu,
                ladder=None if ladder is None else _levels(ladder),
                dialect=dialect,
                boundary=boundary,
                device=device or AUTO,
                attention=attention,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                batch_size=self.batch_size,
            )
        self.model = model
        self._route = routing(spec, model)
        self._sidecar = Path(sidecar) if sidecar else None
        self._begun = False

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> VisionThink:
        """The model that lmms-eval asks for. A value in `--model_args` wins over the same option of the command line."""
        try:
            given = simple_parse_args_string(arg_string)
        except ValueError:
            raise OptionError(f"--model_args {arg_string!r}: expected NAME=VALUE,...; a ladder is written 0.25:1") from None
        return cls(**{k: v for k, v in (additional_config or {}).items() if v is not None} | given)

    def generate_until(self, requests: list[Any]) -> list[GenerationResult]:
        """All requests of all tasks, in order. What cannot be asked is an empty answer, a warning and a line of the sidecar."""
        ended: dict[int, Transcript | Failed] = {}
        path = self._sidecar_path(requests)
        with (
            path.open("a" if self._begun else "w", encoding="utf-8") as sidecar,
            stage(f"{self.name} {self.policy}", len(requests)) as advance,
        ):
            self._begun = True

            def keep(place: int, end: Transcript | Failed) -> None:
                ended[place] = end
                sidecar.write(json.dumps(end.to_dict()) + "\n")
                sidecar.flush()
                advance(1)
                if reason := _failure(end):
                    logger.warning(f"{end.example_id}: {reason}; lmms-eval is given an empty answer")

            waiting: dict[int, tuple[AnyLane, list[tuple[int, Episode]]]] = {}
            for place, (example_id, request) in enumerate(zip(_names(requests), requests, strict=True)):
                try:
                    lane, episode = self._begin(self._example(request, example_id))
                except InputError as error:
                    _, _, _, doc_id, task, split = request.args
                    keep(
                        place,
                        Failed(example_id=example_id, family=task, reason=str(error), metadata=self._metadata(doc_id, split)),
                    )
                    continue
                _, batch = waiting.setdefault(id(lane), (lane, []))
                batch.append((place, episode))
                if len(batch) == self.batch_size:
                    _run(*waiting.pop(id(lane)), keep)
            for lane, batch in waiting.values():
                _run(lane, batch, keep)
        in_order = [ended[place] for place in range(len(requests))]
        self._log(in_order, path)
        return [self._result(end) for end in in_order]

    def _example(self, request: Any, example_id: str) -> Example:
        _, doc_to_messages, _, doc_id, task, split = request.args
        try:
            messages = doc_to_messages(self.task_dict[task][split][doc_id])
        except Exception as error:  # a task's own code, on data that may be damaged
            raise DataError(f"the task cannot read the document ({one_line(error)})") from None
        return read_messages(messages, example_id, task, self._metadata(doc_id, split))

    def _metadata(self, doc_id: Any, split: str) -> dict[str, Any]:
        return {"doc_id": doc_id, "split": split, "model": self.name, "policy": self.policy}

    def _begin(self, example: Example) -> tuple[AnyLane, Episode]:
        lane = self._route(example)
        return lane, self.model.episode(example, lane.menu)

    def _result(self, end: Transcript | Failed) -> GenerationResult:
        if isinstance(end, Failed):
            return GenerationResult("")
        counts = TokenCounts(end.visual_tokens + end.text_tokens, end.output_tokens)
        said = "\n".join(turn.text for turn in end.turns) if self.output == "full" else end.answer or ""
        return GenerationResult(said, counts)

    def _log(self, ended: Sequence[Transcript | Failed], path: Path) -> None:
        transcripts = [end for end in ended if isinstance(end, Transcript)]
        failed = sum(_failure(end) is not None for end in ended)
        numbers = run_numbers(transcripts, failed, self.model)
        seconds, tokens = sum(t.seconds for t in transcripts), sum(t.output_tokens for t in transcripts)
        log_metrics(seconds, tokens, tokens / seconds if seconds else 0.0, {"total_requests": len(ended), **numbers})
        logger.info(f"visionthink: transcripts are in {path}")

    def _sidecar_path(self, requests: Sequence[Any]) -> Path:
        """Beside lmms-eval's samples, with a time stamp as theirs; a task knows the options of the command line."""
        if self._sidecar is None:
            task = getattr(requests[0].args[1], "__self__", None) if requests else None
            options = getattr(task, "args", None)
            folder = getattr(options, "output_path", None)
            self._sidecar = Path(SIDECAR)
            if folder:
                stamp = get_datetime_str(timezone=getattr(options, "timezone", "Asia/Singapore"))
                self._sidecar = Path(folder) / sanitize_model_name(self.name) / f"{stamp}_visionthink.jsonl"
        self._sidecar.parent.mkdir(parents=True, exist_ok=True)
        return self._sidecar

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("visionthink answers in words: tasks of likelihoods are not supported")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError("visionthink asks its own second round: tasks of several rounds are not supported")


def _run(lane: AnyLane, batch: Sequence[tuple[int, Episode]], keep: Any) -> None:
    transcripts = lane.run([episode for _, episode in batch])
    for (place, _), transcript in zip(batch, transcripts, strict=True):
        keep(place, transcript)


def _names(requests: Sequence[Any]) -> list[str]:
    """task/split/doc_id; from the second repeat on with its number."""
    seen: Counter[str] = Counter()
    names = []
    for request in requests:
        _, _, _, doc_id, task, split = request.args
        name = f"{task}/{split}/{doc_id}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _failure(end: Transcript | Failed) -> str | None:
    if isinstance(end, Failed):
        return end.reason
    return end.turns[-1].note or "policy error" if end.stop_reason == StopReason.POLICY_ERROR else None


def _levels(ladder: Any) -> str:
    """lmms-eval reads 1 and 0.25 as numbers and keeps brackets and quotes."""
    if isinstance(ladder, (list, tuple)):
        return ",".join(map(str, ladder))
    return str(ladder).strip("[]'\" ").replace(":", ",")
