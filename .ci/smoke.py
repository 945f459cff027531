"""What each extra is for, tried once, by the interpreter of an environment that has this extra alone.

python .ci/smoke.py EXTRA

Needs the standard library, visionthink as it is installed, and what the extra brings. `.ci/extras.py` runs it.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]


def visionthink(*arguments: str) -> Any:
    """What the command prints: JSON where it was asked for, else text."""
    done = subprocess.run([sys.executable, "-m", "visionthink", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"visionthink {' '.join(arguments)}: {done.stderr[-2000:]}"
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def picture() -> str:
    from visionthink.data import synth

    synth.draw("scene", 3).image.save("scene.png")
    return "scene.png"


def none() -> None:
    """The command line and the protocol, without torch."""
    assert visionthink("tokens", "--size", "1024x768", "--json")
    assert Path(importlib.import_module("visionthink").__file__ or "").with_name("py.typed").is_file()
    assert not {"torch", "transformers"} & {name.partition(".")[0] for name in sys.modules}


def local() -> None:
    """The embedded model answers."""
    asked = visionthink("ask", picture(), "-q", "How many shapes are there?", "--json")
    assert asked["answer"] and asked["usage"]["visual_tokens_full"] == 16, asked


def train() -> None:
    """One step of reinforcement learning."""
    visionthink("train", "tiny", "--steps", "1", "--prompts-per-step", "2", "--out", "run")
    assert Path("run/final/model.safetensors").is_file()


def deepspeed() -> None:
    """One step under ZeRO-2."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    options = ("--steps", "1", "--prompts-per-step", "2", "--launch", "zero2", "--processes", "1")
    visionthink("train", "tiny", *options, "--out", "run")
    assert Path("run/final/model.safetensors").is_file()


def evaluation() -> None:
    """A run and its page."""
    summary = visionthink("eval", "mini", "--limit", "8", "--out", "run", "--json")
    assert summary["n"] == 8 and summary["accuracy"] is not None, summary
    visionthink("report", "run", "--out", "page.html")
    assert "<svg" in Path("page.html").read_text("utf-8")


def judge() -> None:
    """Verdicts by arithmetic, units and dates."""
    pairs = [
        ("What is the ratio?", "1/2", "0.5"),
        ("How long is it?", "5 km", "7 km"),
        ("When was it?", "5 May 2020", "2020-05-05"),
    ]
    rows = [{"question": q, "ground_truth": truth, "prediction": said} for q, truth, said in pairs]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run([sys.executable, "-m", "visionthink", "score", "rows.jsonl", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == ["correct", "wrong", "correct"], done.stdout


@contextlib.contextmanager
def endpoint() -> Iterator[str]:
    """An OpenAI-compatible server that answers "red"."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "<answer>red</answer>"}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 20, "completion_tokens": 5}}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1#model"
        server.shutdown()


def remote() -> None:
    """An endpoint is asked."""
    with endpoint() as url:
        asked = visionthink("ask", picture(), "-q", "What colour is it?", "--model", url, "--json")
    assert asked["answer"] == "red", asked


def serve() -> None:
    """The gateway answers with the embedded model, on a port of its own."""
    image = Path(picture()).read_bytes()
    url = {"url": f"data:image/png;base64,{base64.b64encode(image).decode()}"}
    content = [{"type": "text", "text": "How many shapes are there?"}, {"type": "image_url", "image_url": url}]
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": content}]}).encode()
    command = [sys.executable, "-m", "visionthink", "serve", "--port", "0"]
    with open("log", "w") as log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as server:
        try:
            for _ in range(3000):
                found = [word for word in Path("log").read_text().split() if word.startswith("http://127.0.0.1:")]
                assert server.poll() is None, Path("log").read_text()
                if found:
                    break
                time.sleep(0.2)
            base = found[0].rstrip("/.,").removesuffix("/v1")
            headers = {"Content-Type": "application/json"}
            with urllib.request.urlopen(
                urllib.request.Request(f"{base}/v1/chat/completions", body, headers), timeout=120
            ) as reply:
                answer = json.load(reply)
        finally:
            server.terminate()
    assert answer["choices"][0]["message"]["content"], answer


def otel() -> None:
    """Spans are made and sent, to nobody."""
    os.environ |= {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    traces = importlib.import_module("visionthink.serve.tracing").OtlpTraces()
    assert traces.request("/v1/chat/completions", {})
    traces.close()


def ray() -> None:
    """An evaluation over a worker of Ray."""
    options = ("--limit", "4", "--engine", "ray", "--gpus-per-worker", "0")
    assert visionthink("eval", "mini", *options, "--out", "run", "--json")["n"] == 4


def lmms() -> None:
    """The entry point, where lmms-eval itself is installed beside the extra."""
    [entry] = importlib.metadata.entry_points(group="lmms_eval.models")
    [manifest] = entry.load()()
    module, _, name = manifest.chat_class_path.rpartition(".")
    assert getattr(importlib.import_module(module), name)


def vllm() -> None:
    """Everything that the policy imports; a model is run by tests/test_vllm.py."""
    assert importlib.import_module("vllm").LLM and importlib.import_module("visionthink.policies.vllm")


def docs() -> None:
    """The site, without a warning."""
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(Path("site").absolute())], cwd=HERE, check=True)


def dev() -> None:
    """Lint, types and a file of tests."""
    run = [sys.executable, "-m"]
    subprocess.run([*run, "ruff", "check", "."], cwd=HERE, check=True)
    subprocess.run([*run, "pytest", "-p", "no:cacheprovider", "--collect-only", "-qq", "tests"], cwd=HERE, check=True)
    subprocess.run([*run, "pytest", "-p", "no:cacheprovider", "tests/test_package.py"], cwd=HERE, check=True)


EXTRAS = {
    "none": none,
    "local": local,
    "train": train,
    "vllm": vllm,
    "deepspeed": deepspeed,
    "eval": evaluation,
    "remote": remote,
    "serve": serve,
    "otel": otel,
    "judge": judge,
    "ray": ray,
    "lmms": lmms,
    "docs": docs,
    "dev": dev,
}

if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        EXTRAS[sys.argv[1]]()
