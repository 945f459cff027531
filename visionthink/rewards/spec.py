"""Judges by name: what `--judge` and the setting `judge` understand.

rules                                   what rules are sure of; the rest is unscored
exact                                   rules, and another short text is wrong
http://localhost:8000/v1#qwen           a language model; without #MODEL the only one that is served
rules,http://localhost:8000/v1          a cascade: each judges what the one before could not
judge.toml                              all of it: prompts, keys, limits, prices (docs/reference/judges.md)
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from visionthink.addresses import is_endpoint
from visionthink.errors import DataError, OptionError, choose_from
from visionthink.rewards.cascade import Cascade
from visionthink.rewards.judge import JUDGES, Judge
from visionthink.rewards.rules.judge import RulesJudge

KEY = "VISIONTHINK_JUDGE_KEY"
"""Environment variable whose value is sent to an endpoint given by its address; OPENAI_API_KEY goes to OpenAI alone."""


def read_judge(spec: str) -> Judge:
    """The judge of a specification. Nothing is asked before it judges.

    Raises:
        OptionError: a judge that does not exist, or a setting that cannot be.
        DataError: the file is not TOML.
    """
    parts = [part.strip() for part in spec.split(",")]
    judges = [judge for part in parts for judge in _judges(part)]
    audit = 0.0
    for part in parts:
        if part.endswith(".toml"):
            audit = _number(part, _toml(part).get("audit", audit))
            if not 0 <= audit <= 1:
                raise OptionError(f"{part}: audit {audit}: a share, from 0 to 1")
    return judges[0] if len(judges) == 1 else Cascade(judges, audit=audit)


def probe(judge: Judge) -> None:
    """Ask every endpoint of a judge one question, whatever was asked before.

    Raises:
        OptionError: one gives no verdict; the message names it.
    """
    from visionthink.rewards.llm.judge import LLMJudge

    for one in judge.judges if isinstance(judge, Cascade) else (judge,):
        if isinstance(one, LLMJudge):
            one.probe()


def read_definite(spec: str) -> Judge:
    """An endpoint that is asked, of a question, whether it has one definite answer; `wrong` means that it has none.

    Raises:
        OptionError: not an endpoint.
    """
    from visionthink.rewards.llm.judge import LLMJudge
    from visionthink.rewards.llm.preset import preset

    judge = read_judge(spec)
    if not isinstance(judge, LLMJudge):
        raise OptionError(f"definite {spec!r}: needs one language model, as URL#MODEL or a .toml file")
    return LLMJudge(judge.endpoint, preset("definite"), judge.cache, sampling=judge.sampling, price=judge.price)


def _judges(part: str) -> list[Judge]:
    if part in ("rules", "exact"):
        return [_rules(part)]
    if part.endswith(".toml"):
        return _from_file(part)
    if is_endpoint(part):
        url, _, model = part.partition("#")
        return [_llm(part, {"url": url, "model": model, "key_env": _key_for(url)})]
    raise OptionError(f"judge {part!r}: {choose_from(part, JUDGES)}, an endpoint URL#MODEL, or a .toml file")


def _rules(name: str) -> RulesJudge:
    """The judge `rules` or `exact`, whose libraries are loaded when it first compares."""
    for library in ("babel", "dateutil", "latex2sympy2_extended", "pint", "sympy", "text_to_num"):
        if importlib.util.find_spec(library) is None:
            raise OptionError(f"judge {name}: needs {library}; pip install 'visionthink[judge]'")
    return RulesJudge(closed=name == "exact")


def _key_for(url: str) -> str:
    if urlsplit(url).hostname == "api.openai.com":
        return "OPENAI_API_KEY"
    return KEY if os.environ.get(KEY) else ""


def _toml(name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(name).read_text("utf-8"))
    except FileNotFoundError:
        raise OptionError(f"judge {name}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be read as TOML ({error})") from None


def _from_file(name: str) -> list[Judge]:
    record = _toml(name)
    tables = record.pop("judge", None)
    record.pop("audit", None)
    if record or not isinstance(tables, list) or not tables:
        raise OptionError(f"{name}: expected [[judge]] tables and audit, found {', '.join(record) or 'none'}")
    judges: list[Judge] = []
    for number, table in enumerate(tables, 1):
        where = f"{name}, judge {number}"
        if "url" in table:
            judges.append(_llm(where, table))
        elif table in ({"kind": "rules"}, {"kind": "exact"}):
            judges.append(_rules(table["kind"]))
        else:
            raise OptionError(f'{where}: needs a url, or kind = "rules" or "exact" alone')
    return judges


def _llm(where: str, table: Mapping[str, Any]) -> Judge:
    from visionthink.endpoint import Endpoint
    from visionthink.rewards.llm.cache import VerdictCache, default_cache
    from visionthink.rewards.llm.judge import LLMJudge, Sampling
    from visionthink.rewards.llm.preset import preset

    left = dict(table)
    for name, kind in _KINDS.items():
        if name in left and (not isinstance(left[name], kind) or isinstance(left[name], bool)):
            raise OptionError(f"{where}: {name} has the wrong type")
    connection = {f.name: left.pop(f.name) for f in dataclasses.fields(Endpoint) if f.name in left}
    sampling = {f.name: left.pop(f.name) for f in dataclasses.fields(Sampling) if f.name in left}
    prompt, cache = left.pop("prompt", "paper"), left.pop("cache", None)
    price = left.pop("price", [0.0, 0.0])
    longest = left.pop("longest_answer", 1000)
    if left:
        raise OptionError(f"{where}: unknown setting {', '.join(left)}")
    if not isinstance(price, (list, tuple)) or len(price) != 2:
        raise OptionError(f"{where}: price is two numbers, per million prompt and completion tokens")
    try:
        json.dumps(sampling.get("extra"))
    except TypeError as error:
        raise OptionError(f"{where}: extra cannot be sent ({error})") from None
    if any(not isinstance(name, str) for name in sampling.get("omit", ())):
        raise OptionError(f"{where}: omit holds names of fields")
    for name, value in {"max_tokens": sampling.get("max_tokens", 1), "longest_answer": longest}.items():
        if value < 1:
            raise OptionError(f"{where}: {name} {value}: must be at least 1")
    if any(_number(where, p) < 0 for p in price):
        raise OptionError(f"{where}: price {price}: must be at least 0")
    if "omit" in sampling:
        sampling["omit"] = tuple(sampling["omit"])
    try:
        return LLMJudge(
            Endpoint(**connection),
            preset(prompt),
            None if cache == "" else VerdictCache(Path(cache) if cache else default_cache()),
            sampling=Sampling(**sampling),
            longest_answer=int(longest),
            price=(_number(where, price[0]), _number(where, price[1])),
        )
    except (TypeError, ValueError) as error:
        raise OptionError(f"{where}: a setting has the wrong type ({error})") from None


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("url", "model", "key_env", "key_header", "prompt", "cache"), str),
    **dict.fromkeys(("concurrency", "max_tokens", "longest_answer"), int),
    **dict.fromkeys(("requests_per_minute", "timeout", "deadline"), (int, float)),
    **dict.fromkeys(("query", "extra"), dict),
    **dict.fromkeys(("omit", "price"), list),
}


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise OptionError(f"{where}: {value!r} is not a number")
    return float(value)
