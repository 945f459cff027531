"""`visionthink serve`."""

from __future__ import annotations

import argparse
import gc
import logging
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from visionthink.addresses import is_endpoint, is_loopback
from visionthink.cli.common import AddCommand, given, load, model_options, names
from visionthink.errors import OptionError
from visionthink.model import Model
from visionthink.policies.gate import CONFIDENCE, Certificate, Gate, NamedGate, open_gate, parse_gate
from visionthink.providers import SIZE_RULES


def add(command: AddCommand) -> None:
    serve = command("serve", _serve, "An OpenAI-compatible server whose model looks at a part of the pixels first.")
    model_options(serve)
    text = "an OpenAI-compatible endpoint that answers, as http://host:8000/v1#MODEL, instead of --model; "
    text += "it is offered our function (dialect native) unless --dialect or --checkpoint says how it was trained"
    serve.add_argument("--upstream", metavar="URL", help=text)
    text = f"whose rule says how the upstream sizes images: {', '.join(SIZE_RULES)} "
    text += "(default: that of --checkpoint, openai for api.openai.com, else qwen2.5-vl)"
    text_of_deadline = "seconds until the first piece of an upstream's reply, further attempts included (default: %(default)g)"
    serve.add_argument("--deadline", type=float, default=60.0, help=text_of_deadline)
    serve.add_argument("--profile", metavar="NAME", help=text)
    serve.add_argument("--name", help="what clients call the model (default: the model's own name)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    text = "keys of clients, a line each: NAME sha256:HEX; needed unless only this machine is listened to"
    serve.add_argument("--api-key-file", metavar="FILE", help=text)
    serve.add_argument(
        "--new-key",
        metavar="NAME",
        help="make a key: its line for the file of keys goes to standard output, the key itself to standard error",
    )
    text = (
        "who decides on a second look: model, which asks; gate, on the model's confidence, which needs no training; gate:FILE, "
    )
    text += "as visionthink calibrate has certified it; or gate:SCORE@T (default: %(default)s)"
    serve.add_argument("--rule", type=given, default="model", help=text)
    text = f"of the rule gate: confidence, from 0 to 1, below which a second look is taken (default: {CONFIDENCE})"
    serve.add_argument("--threshold", type=float, help=text)
    text = "share of the gate's answers, from 0 to 1, that are compared with one from the full views, see visionthink drift "
    serve.add_argument("--audit", type=float, default=0.0, help=text + "(default: %(default)g)")
    text = "how images are shown whose detail a request does not say: auto, low or high (default: %(default)s)"
    serve.add_argument("--detail", choices=("auto", "low", "high"), default="auto", help=text)
    serve.add_argument("--max-new-tokens", type=int, default=1024, help="the most tokens of a turn (default: %(default)s)")
    serve.add_argument("--batch-size", type=int, default=32, help="replies of a local model in one call (default: %(default)s)")
    serve.add_argument("--concurrency", type=int, default=64, help="requests that are answered at once (default: %(default)s)")
    text = "send the upstream a cache_salt for each key, so that vLLM's prefix cache tells no client what another one has asked"
    serve.add_argument("--cache-salt", action="store_true", help=text)
    text = "hosts that images are fetched from, with commas between them; without it images at addresses are refused"
    serve.add_argument("--image-hosts", type=names, default=(), metavar="HOSTS", help=text)
    text = "send a trace of each request by OTLP over HTTP; OTEL_EXPORTER_OTLP_ENDPOINT and the other variables of OpenTelemetry "
    serve.add_argument("--traces", action="store_true", help=text + "say where, and how many")


def _serve(options: argparse.Namespace) -> None:
    from visionthink.serve.keys import Keys, new_key

    if options.new_key:
        key, line = new_key(options.new_key)
        sys.stderr.write(f"the key, which is shown only now: {key}\n")
        sys.stdout.write(f"{line}\n")
        return
    gate = _gate(options)
    if options.upstream:
        if not is_endpoint(options.upstream):
            raise OptionError(f"--upstream {options.upstream}: not the address of an endpoint, such as http://localhost:8000/v1")
        options.model = options.upstream
    if is_endpoint(options.model) and not (options.dialect or options.checkpoint or options.menu):
        options.dialect = "native"
    if options.profile and options.profile not in SIZE_RULES:
        raise OptionError(f"--profile {options.profile!r}: choose one of {', '.join(SIZE_RULES)}")
    if options.profile and not is_endpoint(options.model):
        raise OptionError("--profile: is for an upstream; a model of this process says itself what images cost")
    keys = Keys.read(options.api_key_file) if options.api_key_file else None
    if keys is None and not is_loopback(options.host):
        raise OptionError(
            f"--host {options.host}: others can reach it, so that clients need keys: --api-key-file FILE "
            "(visionthink serve --new-key NAME makes one)"
        )
    traces = _traces() if options.traces else None
    from visionthink.serve.fetching import Host
    from visionthink.serve.limits import Limits

    for host in options.image_hosts:
        Host.parse(host)
    limits = Limits(requests=options.concurrency)
    listening = _listening(options.host, options.port)
    with listening:
        _run(options, gate, keys, limits, listening, traces)


def _gate(options: argparse.Namespace) -> NamedGate:
    """The gate that was named, or the usual one, which requests may ask for."""
    if options.rule not in ("model", "gate") and not options.rule.startswith("gate:"):
        raise OptionError(f"--rule {options.rule}: choose model, gate, gate:FILE or gate:SCORE@T")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise OptionError(f"--threshold {options.threshold:g}: must be a number from 0 to 1")
    if not 0 <= options.audit <= 1 or (options.audit and options.rule == "model"):
        raise OptionError(f"--audit {options.audit:g}: must be a share from 0 to 1, and goes with --rule gate")
    if not options.rule.startswith("gate:"):
        return Gate.of_confidence(CONFIDENCE if options.threshold is None else options.threshold)
    if options.threshold is not None:
        raise OptionError(f"--threshold {options.threshold:g}: --rule {options.rule} has a threshold of its own")
    gate = parse_gate(options.rule, "--rule")
    if (gate.score if isinstance(gate, Gate) else Certificate.read(gate).score) == "vote":
        raise OptionError(f"--rule {options.rule}: the server answers a question once, and the score vote takes several answers")
    if isinstance(gate, Path) and Certificate.read(gate).mode == "continue":
        raise OptionError(f"--rule {options.rule}: was calibrated in mode continue, and the server can only restart")
    return gate


def _listening(host: str, port: int) -> socket.socket:
    """The socket, before a model is loaded for nothing."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OptionError(f"--host {host} --port {port}: cannot listen there ({words})") from None


def _traces() -> Any:
    from visionthink.serve.tracing import OtlpTraces

    return OtlpTraces()


def _run(options: argparse.Namespace, gate: NamedGate, keys: Any, limits: Any, listening: socket.socket, traces: Any) -> None:
    import uvicorn

    from visionthink.serve.answering import Answering
    from visionthink.serve.app import Gateway
    from visionthink.serve.connections import server_options
    from visionthink.serve.conversation import Rule
    from visionthink.serve.sources import Images

    more = {"concurrency": limits.requests, "deadline": options.deadline} if is_endpoint(options.model) else {}
    model = load(options, **more)
    upstream = _upstream(options, model)
    opened = open_gate(gate, model.policy, model.protocol, model.menu, model.budget)
    rule: Rule = "model" if options.rule == "model" else "gate"
    answering = Answering(upstream, Images(limits), rule=rule, gate=opened, audit=options.audit, detail=options.detail)
    gateway = Gateway(answering=answering, keys=keys, image_hosts=options.image_hosts, traces=traces)
    config = uvicorn.Config(gateway.app(), log_level="warning", timeout_graceful_shutdown=30, **server_options())
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("visionthink.serve").setLevel(logging.INFO)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    sys.stderr.write(f"{upstream.name} at http://{shown}:{port}/v1 (playground: http://{shown}:{port}/)\n")
    gc.collect()
    gc.freeze()  # what is loaded stays; a collection that went through all of it would stop every stream for a moment
    uvicorn.Server(config).run(sockets=[listening])


def _upstream(options: argparse.Namespace, model: Model) -> Any:
    known = "openai" if urlsplit(options.model).hostname == "api.openai.com" and not options.checkpoint else None
    if profile := options.profile or known:
        model.budget = SIZE_RULES[profile]
    if is_endpoint(options.model):
        served = options.model.partition("#")[2]
        from visionthink.serve.upstreams import RemoteUpstream

        return RemoteUpstream(model, options.name or served or "default", salted=options.cache_salt)
    if options.cache_salt:
        raise OptionError("--cache-salt: is for an upstream that is vLLM")
    from visionthink.serve.local_upstream import LocalUpstream

    return LocalUpstream(model, options.name or Path(options.model).name, batch_size=options.batch_size)
