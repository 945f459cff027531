"""The built wheel works away from the repository: prompts, assets and recipes are inside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from visionthink.data import synth

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def test_wheel_answers_in_an_empty_environment(tmp_path):
    """The environment sees this one's third-party libraries through a path file, and none of this repository."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = tmp_path.glob("visionthink-*.whl")
    assert wheel.stat().st_size < 20e6
    names = zipfile.ZipFile(wheel).namelist()
    launch = ("train/launch/ddp.yaml", "train/launch/zero3.yaml", "train/launch/zero3.json", "train/launch/fsdp2.yaml")
    prompts = ("prompts/agent_system.txt", "prompts/chatml.jinja")
    page = ("serve/playground/index.html", "serve/playground/playground.js", "serve/playground/examples/8.png")
    for needed in (*prompts, *page, "assets/tiny/tuned/model.safetensors", "recipes/tiny.py", *launch):
        assert f"visionthink/{needed}" in names

    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
    python = env / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True, capture_output=True)
    [site] = (env / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    synth.draw("scene", 3).image.save(tmp_path / "scene.png")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = subprocess.run(
        [env / "bin" / "visionthink", "ask", "scene.png", "-q", "How many shapes are there?", "--json"],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["usage"]["visual_tokens_full"] == 16
    where = subprocess.run(
        [python, "-c", "import visionthink; print(visionthink.__file__)"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert Path(where.stdout.strip()).is_relative_to(env)
