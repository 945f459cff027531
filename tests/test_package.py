"""The public surface, the direction of imports, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import visionthink

ROOT = Path(visionthink.__file__).parent

# A module imports only from its own layer or one that stands before it; names are folders or modules below visionthink/.
LAYERS = [
    {"types", "errors"},
    {"images", "resolution", "providers", "durable", "endpoint"},
    {"protocol"},
    {"chatml"},
    {"episode"},
    {"policies", "rewards"},
    {"model"},
    {"data", "compress", "train", "evals", "serve"},
    {"recipes", "cli"},
]
SEPARATE = {"data", "compress", "train", "evals", "serve"}  # these do not import each other


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name}: relative imports hide their layer"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "visionthink":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("visionthink.")}
    return found


def violations(name: str, imported: set[str]) -> list[str]:
    rank = {module: i for i, layer in enumerate(LAYERS) for module in layer}
    wrong = []
    for other in sorted(imported - {name, "__version__"}):
        if rank[other] > rank[name] or (name in SEPARATE and other in SEPARATE):
            wrong.append(f"{name} imports {other}")
    return wrong


def test_every_module_has_a_layer_and_imports_downwards():
    wrong = []
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if name not in ("__init__", "__main__"):
            wrong += violations(name, imports_of(path))
    assert wrong == []


def test_the_layering_rule_can_fail():
    assert violations("protocol", {"episode"}) == ["protocol imports episode"]
    assert violations("train", {"evals", "types"}) == ["train imports evals"]
    assert violations("recipes", {"train", "evals"}) == []


def test_public_surface():
    assert visionthink.__all__ == [
        "Completion",
        "Episode",
        "Example",
        "Model",
        "Penalty",
        "Protocol",
        "ResolutionLadder",
        "Result",
        "Rubric",
        "ScriptedPolicy",
        "StopReason",
        "Transcript",
        "VisionThinkError",
        "load",
        "run_async",
        "run_batch",
    ]
    assert all(getattr(visionthink, name).__name__ == name for name in visionthink.__all__)


def test_import_is_light():
    code = (
        "import sys, visionthink, visionthink.cli, visionthink.recipes\n"
        "visionthink.Episode, visionthink.Rubric, visionthink.ScriptedPolicy\n"
        "heavy = {'torch', 'transformers', 'trl', 'fastapi', 'vllm', 'matplotlib', 'sklearn', 'datasets'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def strings_of(path: Path) -> list[str]:
    """String constants of a module, docstrings left out."""
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in constants if id(node) not in documentation]


def test_tags_and_schemas_stand_in_one_file():
    """Law 2: no file but the protocol holds a tag of it."""
    tags = ("<tool_call>", "<tool_response>", "<answer>", "<think>", "<resize>", "resize_image")
    holders = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for text in strings_of(path)
        if any(tag in text for tag in tags)
    }
    assert holders == {"protocol.py"}
