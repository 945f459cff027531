"""The public surface, the direction of imports, and what importing costs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from PIL import Image

import visionthink

ROOT = Path(visionthink.__file__).parent
REPOSITORY = ROOT.parent

LAYERS = (
    "types errors",
    "images resolution geometry menu picture views scene transcript providers",
    "durable endpoint",
    "protocol prompts chatml",
    "episode",
    "engine",
    "policies",
    "rewards",
    "model",
    "data compress train evals serve",
    "recipes",
    "cli",
)
"""Modules and folders of visionthink. A module imports only from its own line and the lines above it; names of modules that do
not exist yet are allowed. Within a line and within a folder there is no cycle of imports."""
SEPARATE = {"data", "compress", "train", "evals", "serve"}
"""These do not import each other."""
LOWEST_FOR_USERS = "model"
"""`visionthink/__init__.py` offers names up to this line, and nothing but the version may be imported from it."""

RANK = {name: rank for rank, line in enumerate(LAYERS) for name in line.split()}


def name_of(path: Path, root: Path) -> str:
    """`train.config` for visionthink/train/config.py, "" for visionthink/__init__.py."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def modules_of(root: Path = ROOT) -> dict[str, ast.Module]:
    return {name_of(path, root): ast.parse(path.read_text("utf-8")) for path in sorted(root.rglob("*.py"))}


class Imports:
    """What modules import from each other: statements anywhere in a file, `import_module` and strings that name a module.

    `edges` holds (importing module, imported module), `missing` every name that is no module, or no name in its module.
    """

    def __init__(self, modules: dict[str, ast.Module], package: str = "visionthink"):
        self.modules, self.package = modules, package
        self.edges: set[tuple[str, str]] = set()
        self.missing: list[str] = []
        for name, tree in modules.items():
            written = {id(node) for node in self.documentation(tree)}
            for node in ast.walk(tree):
                if id(node) not in written:
                    self.add(name, node)

    @staticmethod
    def documentation(tree: ast.Module) -> Iterator[ast.AST]:
        return (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))

    def add(self, name: str, node: ast.AST) -> None:
        dotted = self.package + "."
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: relative imports hide their layer"
            if node.module == self.package or (node.module or "").startswith(dotted):
                for alias in node.names:
                    self.resolve(name, f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == self.package or alias.name.startswith(dotted):
                    self.resolve(name, alias.name)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            self.computed(name, node.args[0])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = re.fullmatch(rf"{self.package}\.(\w+)(\.\w+)*(:\w+)?", node.value)
            if named and named[1] in {module.split(".")[0] for module in self.modules}:
                self.resolve(name, node.value.replace(":", "."))

    def computed(self, name: str, argument: ast.expr) -> None:
        """`import_module(f"visionthink.folder.{x}")` may be any module of the folder; the top package has its own test."""
        if isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.Constant):
            start = str(argument.values[0].value)
            if start.startswith(self.package + ".") and start.endswith(".") and name:
                folder = start.removeprefix(self.package + ".")
                assert folder, f"{name}: imports a module that cannot be known from its text"
                self.edges |= {(name, other) for other in self.modules if other.startswith(folder) and other != name}
        elif not isinstance(argument, ast.Constant):
            assert not name or self.package not in ast.unparse(argument), f"{name}: imports {ast.unparse(argument)}"

    def resolve(self, name: str, dotted: str) -> None:
        """The longest part of a dotted name that is a module; at most one name of that module may follow."""
        parts = dotted.split(".")[1:]
        module = next(".".join(parts[:i]) for i in range(len(parts), -1, -1) if ".".join(parts[:i]) in self.modules)
        rest = parts[module.count(".") + 1 if module else 0 :]
        if len(rest) > 1 or (rest and rest[0] not in self.names(module)):
            self.missing.append(f"{name or '__init__'}: {dotted}")
        elif module != name:
            self.edges.add((name, module))
        if module == "" and rest and rest != ["__version__"]:
            self.missing.append(f"{name}: {dotted}, which is to be imported from where it is defined")

    def names(self, module: str) -> set[str]:
        """Names that a module binds at its top level."""
        found = set()
        for node in self.modules[module].body:
            for inner in ast.walk(node) if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) else ():
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    found.add(inner.id)
                elif isinstance(inner, ast.Import | ast.ImportFrom):
                    found |= {alias.asname or alias.name for alias in inner.names}
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                found.add(node.name)
        return found


def violations(edges: Iterable[tuple[str, str]]) -> list[str]:
    wrong = []
    for importing, imported in sorted(edges):
        one, other = importing.split(".")[0], imported.split(".")[0]
        if not one or one == "__main__" or not other:
            continue
        if RANK[other] > RANK[one] or (one != other and {one, other} <= SEPARATE):
            wrong.append(f"{importing} imports {imported}")
    return wrong


def cycles(edges: Iterable[tuple[str, str]]) -> list[set[str]]:
    """Modules that import each other, directly or through others."""
    after: dict[str, set[str]] = {}
    for importing, imported in edges:
        after.setdefault(importing, set()).add(imported)

    def reached(start: str) -> set[str]:
        found, open_ends = set(), [start]
        while open_ends:
            for other in after.get(open_ends.pop(), set()) - found:
                found.add(other)
                open_ends.append(other)
        return found

    reach = {name: reached(name) for name in after}
    groups = {frozenset(other for other in found if name in reach.get(other, set())) for name, found in reach.items()}
    return [set(group) for group in sorted(groups, key=sorted) if group]


@pytest.fixture(scope="module")
def imports() -> Imports:
    return Imports(modules_of())


def test_every_module_has_a_layer_and_imports_from_its_own_or_an_earlier_one(imports):
    assert sorted({name.split(".")[0] for name in imports.modules} - RANK.keys()) == ["", "__main__", "assets"]
    assert not [edge for edge in imports.edges if "assets" in (edge[0].split(".")[0], edge[1].split(".")[0])]
    assert violations(imports.edges) == []


def test_the_page_about_the_structure_has_the_same_order(imports):
    [line] = [
        x for x in (REPOSITORY / "docs" / "structure.md").read_text("utf-8").splitlines() if x.startswith("`types errors` < ")
    ]
    there = {path.stem for path in ROOT.iterdir()}
    expected = [[name for name in names.split() if name in there] for names in LAYERS]
    assert [part.strip("` .").split() for part in line.split(" < ")] == [names for names in expected if names]


def test_no_modules_import_each_other(imports):
    assert cycles(edge for edge in imports.edges if edge[0]) == []


def test_every_name_that_is_imported_exists_where_it_is_looked_for(imports):
    assert imports.missing == []


def test_imports_by_strings_are_seen(imports):
    assert ("compress.names", "compress.visionzip") in imports.edges
    assert ("evals.integrations.lmms_plugin", "evals.integrations.lmms_model") in imports.edges


def test_the_top_package_offers_names_up_to_the_model(imports):
    homes = {home: RANK[home.split(".")[0]] for home in visionthink._HOMES.values()}
    assert {home: rank for home, rank in homes.items() if rank > RANK[LOWEST_FOR_USERS]} == {}
    assert all(name in imports.names(home) for name, home in visionthink._HOMES.items())


def test_entry_points_name_functions_of_the_last_layers(imports):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    targets = [*project["scripts"].values(), *(target for group in project["entry-points"].values() for target in group.values())]
    assert targets == ["visionthink.cli:main", "visionthink.evals.integrations.lmms_plugin:manifests"]
    for target in targets:
        module, _, name = target.removeprefix("visionthink.").partition(":")
        assert name in imports.names(module)


def private_names(tree: ast.Module) -> list[str]:
    """Names with a leading underscore that a script takes from visionthink."""
    found, bound = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "visionthink":
            bound |= {alias.asname or alias.name for alias in node.names}
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            bound |= {
                (alias.asname or alias.name).split(".")[0] for alias in node.names if alias.name.split(".")[0] == "visionthink"
            }
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "visionthink"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node).split(".")[0] in bound:
            found.append(ast.unparse(node))
    return sorted({name for name in found if any(part[0] == "_" and part[:2] != "__" for part in name.split(".") if part)})


def test_benchmarks_use_no_private_names():
    files = sorted((REPOSITORY / "benchmarks").rglob("*.py"))
    assert "judge_parsers.py" in {path.name for path in files}
    assert {path.name: private_names(ast.parse(path.read_text("utf-8"))) for path in files} == {path.name: [] for path in files}


def test_the_rules_can_fail():
    assert violations({("protocol", "episode")}) == ["protocol imports episode"]
    assert violations({("train.run", "evals.metrics"), ("train.run", "types")}) == ["train.run imports evals.metrics"]
    assert violations({("recipes.demo", "train.run"), ("cli.training", "recipes.demo"), ("train.run", "train.config")}) == []
    assert violations({("recipes.demo", "cli.common"), ("model", "recipes")}) == [
        "model imports recipes",
        "recipes.demo imports cli.common",
    ]
    assert cycles({("a.x", "a.y"), ("a.y", "a.z"), ("a.z", "a.x"), ("a.w", "a.x"), ("a.x", "b")}) == [{"a.x", "a.y", "a.z"}]
    sources = {
        "": "__version__ = '1'\ndef load(): ...",
        "evals": "",
        "evals.a": "def f():\n    from visionthink.evals import b, c",
        "evals.b": "import importlib\nTARGET = 'visionthink.evals.a:f'\nimportlib.import_module(f'visionthink.train.{TARGET}')",
        "train.x": "from visionthink import load, __version__\nG = 'visionthink.evals.a:g'",
    }
    found = Imports({name: ast.parse(text) for name, text in sources.items()})
    assert found.edges == {("evals.a", "evals.b"), ("evals.b", "evals.a"), ("evals.b", "train.x"), ("train.x", "")}
    assert found.missing == [
        "evals.a: visionthink.evals.c",
        "train.x: visionthink.load, which is to be imported from where it is defined",
        "train.x: visionthink.evals.a.g",
    ]
    script = "from visionthink.train import run\nfrom visionthink.evals.cost import _bill\nrun._begin()\nrun.__doc__\nprint()._x"
    assert private_names(ast.parse(script)) == ["run._begin", "visionthink.evals.cost._bill"]


def test_public_surface():
    assert visionthink.__all__ == [
        "Box",
        "Completion",
        "Episode",
        "Example",
        "Look",
        "Menu",
        "Model",
        "Penalty",
        "Picture",
        "Protocol",
        "Regions",
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


WATCHED = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print([os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")])
            sys.exit(0)
sys.meta_path.insert(0, Watch())
"""
"""Says what the environment holds at the moment at which torch is imported first, and ends."""
AS_COMMAND = WATCHED + "from visionthink.cli import main\nmain(sys.argv[1:])"
AS_MODULE = WATCHED + "import runpy\nrunpy.run_module('visionthink', run_name='__main__', alter_sys=True)"


@pytest.mark.parametrize(
    ("code", "chosen", "expected"),
    [
        (AS_MODULE, {}, "['PASSIVE', '0']"),
        (AS_COMMAND, {}, "['PASSIVE', '0']"),
        (AS_COMMAND, {"OMP_WAIT_POLICY": "ACTIVE"}, "['ACTIVE', None]"),
        (AS_COMMAND, {"OMP_WAIT_POLICY": "PASSIVE"}, "['PASSIVE', None]"),
        (AS_COMMAND, {"GOMP_SPINCOUNT": "9"}, "['PASSIVE', '9']"),
    ],
    ids=["module", "command", "active chosen", "passive chosen", "spin count chosen"],
)
def test_threads_wait_passively_unless_the_user_chose_otherwise(code, chosen, expected, tmp_path):
    Image.new("RGB", (56, 56)).save(tmp_path / "photo.png")
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")} | chosen
    command = [sys.executable, "-c", code, "ask", "photo.png", "-q", "What is it?"]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, expected), result.stderr


def strings_of(path: Path) -> list[str]:
    """String constants of a module, docstrings left out."""
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in constants if id(node) not in documentation]


def test_tags_and_schemas_stand_in_one_folder():
    """Law 2: no file but the protocol's holds a tag of it, or the name of a tool or an argument."""
    tags = ("<tool_call>", "<tool_response>", "<answer>", "<think>", "<resize>", "<look>", "<grounding>", "GET_CROPS")
    tags += ("resize_image", "request_local_region", "image_zoom_in_tool", "bbox_2d", "img_idx")
    holders = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for text in strings_of(path)
        if any(tag in text for tag in tags)
    }
    assert holders == {f"protocol/{name}.py" for name in ("grammar", "protocol", "replies")}
