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
from visionthink.cli.common import AddCommand, given, load, model_groups, model_option, names, suggest
from visionthink.errors import OptionError, choose_from
from visionthink.model import Model
from visionthink.policies.gate import CONFIDENCE, Certificate, Gate, NamedGate, open_gate, parse_gate
from visionthink.providers import SIZE_RULES


def add(command: AddCommand) -> None:
    text = "Serve a model through an OpenAI-compatible API, with a playground for the browser. Each image is first shown at a "
    text += "lower resolution."
    serve = command("serve", _serve, text, needs="serve")
    model_option(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    serve.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default: %(default)s)")
    text = "file with the clients' keys, one per line as NAME sha256:HEX; required unless only this machine can connect"
    serve.add_argument("--api-key-file", metavar="FILE", help=text)
    text = "make a key and exit: its line for --api-key-file goes to standard output, the key itself to standard error"
    serve.add_argument("--new-key", metavar="NAME", help=text)
    serve.add_argument("--name", help="name of the model for clients (default: its own)")
    text = "hosts that images may be fetched from, separated by commas (default: none; requests with such images are refused)"
    serve.add_argument("--image-hosts", type=names, default=(), metavar="HOSTS", help=text)
    text = "send a trace of each request by OTLP over HTTP; OTEL_EXPORTER_OTLP_ENDPOINT names the receiver, and "
    text += "OTEL_TRACES_SAMPLER sets how many requests are traced (docs/how-to/serving.md)"
    serve.add_argument("--traces", action="store_true", help=text)

    decides = serve.add_argument_group("who decides what is shown")
    text = (
        "who decides whether more than the low view is shown: model (it asks for more), gate (more is shown if the confidence of "
    )
    text += "the answer is below --threshold; needs no training), gate:FILE (with a threshold of visionthink calibrate) or "
    text += "gate:SCORE@T; see docs/how-to/gate.md (default: %(default)s)"
    suggest(decides.add_argument("--rule", type=given, default="model", help=text), ("model", "gate"))
    text = f"with --rule gate: confidence, from 0 to 1, below which the full view is shown (default: {CONFIDENCE})"
    decides.add_argument("--threshold", type=float, metavar="T", help=text)
    text = "with --rule gate: share of the answers, from 0 to 1, that are compared with an answer from the full view, for "
    text += "visionthink drift (default: %(default)g)"
    decides.add_argument("--audit", type=float, default=0.0, metavar="SHARE", help=text)
    text = "how to show an image for which the request has no `detail`: auto (low view first), low (low view only) or high (full "
    text += "view at once) (default: %(default)s)"
    decides.add_argument("--detail", choices=("auto", "low", "high"), default="auto", metavar="NAME", help=text)

    groups = model_groups(serve)
    text = "address of the endpoint, as http://host:8000/v1#MODEL; the same as --model with an address. The endpoint's model is "
    text += "offered a function to ask for more (dialect native) unless --dialect, --menu or --checkpoint says how it was trained"
    groups.endpoint.add_argument("--upstream", metavar="URL", help=text)
    text = "longest wait for the first piece of the endpoint's reply, retries included, in seconds (default: %(default)g)"
    groups.endpoint.add_argument("--deadline", type=float, default=60.0, metavar="SECONDS", help=text)
    text = f"rule by which the endpoint turns pixels into visual tokens: {', '.join(SIZE_RULES)} "
    text += "(default: that of --checkpoint, openai for api.openai.com, else qwen2.5-vl)"
    suggest(groups.endpoint.add_argument("--profile", metavar="NAME", help=text), SIZE_RULES)
    text = "if the endpoint is vLLM: send a cache_salt for each client's key, so that its prefix cache reveals nothing to others"
    groups.endpoint.add_argument("--cache-salt", action="store_true", help=text)

    text = "largest number of tokens in a reply (default: %(default)s)"
    groups.running.add_argument("--max-new-tokens", type=int, default=1024, metavar="N", help=text)
    text = "largest number of replies that a local model generates together (default: %(default)s)"
    groups.running.add_argument("--batch-size", type=int, default=32, metavar="N", help=text)
    text = "largest number of requests that are answered at once (default: %(default)s)"
    groups.running.add_argument("--concurrency", type=int, default=64, metavar="N", help=text)


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
        raise OptionError(f"--profile {options.profile!r}: {choose_from(options.profile, SIZE_RULES)}")
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
