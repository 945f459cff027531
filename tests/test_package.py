"""The public surface, the direction of imports, and what importing costs."""

from __future__ import annotations

import ast
import math
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from PIL import Image

import visionthink

ROOT = Path(visionthink.__file__).parent
REPOSITORY = ROOT.parent

LAYERS = (
    "types errors threads cells records",
    "transparency images resolution geometry menu picture view_sizes action_space transcript providers",
    "durable addresses endpoint progress pools",
    "protocol prompts chatml",
    "certainty episode",
    "engine",
    "policies",
    "rewards",
    "model",
    "data compress train evals serve",
    "recipes",
    "cli",
)
"""Modules and folders of visionthink. A module imports only from its own line and the lines above it. Within a line and within
a folder there is no cycle of imports."""
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


def test_the_page_about_the_structure_has_the_same_order():
    """The drawing from its top to its bottom, with a frame for each layer and for each part of the layer whose parts do not
    import each other; and what stands in its place where drawings are not shown."""
    folder = REPOSITORY / "docs" / "explanation"
    layers: list[list[str]] = []
    framed = 0
    for shape in ElementTree.parse(folder / "structure.svg").iter():
        if shape.get("class") == "layer":
            layers.append([])
        elif shape.get("class") == "name":
            layers[-1] += str(shape.text).split()
        framed += shape.get("class") == "apart"
    assert layers == [names.split() for names in reversed(LAYERS)]
    assert framed == len(SEPARATE)
    page = (folder / "structure.md").read_text("utf-8")
    assert f"![The layers, from the bottom to the top: {' < '.join(LAYERS)}](structure.svg)" in page


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


BY_POSITION = {
    "visionthink.types.Example": 3,  # id, question and image, as every example has them
    "visionthink.data.synth.Drawn": 3,  # as the example that it is
    "visionthink.types.Look": 3,  # boxes, level and image
    "visionthink.types.Completion": 2,  # the text, and how it ended
    "visionthink.types.Message": 3,  # who says what, and the completion that it came from
    "visionthink.types.Box": 4,  # left, top, right, bottom: a tuple of coordinates
    "visionthink.view_sizes.ViewSize": 4,  # width, height, tokens, level: as the sizes of a ladder come
    "visionthink.endpoint.endpoint.Endpoint": 1,  # its address
    "visionthink.rewards.penalty.Penalty": 1,  # its name
    "visionthink.compress.selection.Selection": 2,  # which tokens, and what they become
    "visionthink.rewards.rubric.Rubric": 3,  # the wording, who judges, and the penalty
}
"""The records of more than three fields that take any by position, and how many."""


class Record(NamedTuple):
    """A dataclass or NamedTuple: its fields, and for each whether it can be given by position."""

    fields: dict[str, bool]

    @property
    def by_position(self) -> int:
        return sum(self.fields.values())


class Records:
    """The records of some modules, by dotted name, and `faults`: calls that give one of five fields or more a value by position
    that it does not take so."""

    def __init__(self, modules: dict[str, ast.Module]):
        self.known: dict[str, Record] = {}
        self.bound = {name: self.bindings(name, tree) for name, tree in modules.items()}
        classes = [(name, n) for name, tree in modules.items() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
        self.classes = {f"{name}.{n.name}": (name, n) for name, n in classes}
        for dotted in self.classes:
            self.read(dotted)
        self.faults = [fault for name, tree in modules.items() for fault in self.calls(name, tree)]

    @staticmethod
    def bindings(module: str, tree: ast.Module) -> dict[str, str]:
        """What names stand for: imported, or classes of the module's own."""
        found = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        return found | {n.name: f"{module}.{n.name}" for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}

    def resolve(self, module: str, text: str) -> str | None:
        """The class that `text` stands for in a module. Scripts of a folder import each other without naming it."""
        head, dot, rest = text.partition(".")
        dotted = self.bound[module].get(head, head) + dot + rest
        for name in (dotted, f"{module.split('.')[0]}.{dotted}"):
            if name in self.classes:
                return name
            home, _, last = name.rpartition(".")
            if home == "visionthink" and last in visionthink._HOMES:
                return self.resolve(module, f"visionthink.{visionthink._HOMES[last]}.{last}")
            if home in self.bound and home != module and last in self.bound[home]:
                return self.resolve(home, last)
        return None

    def read(self, dotted: str) -> Record | None:
        module, node = self.classes[dotted]
        decorators = [ast.unparse(d) for d in node.decorator_list if "dataclass" in ast.unparse(d)]
        bases = [ast.unparse(base) for base in node.bases]
        if not decorators and not any(base.split(".")[-1] == "NamedTuple" for base in bases):
            return None
        fields: dict[str, bool] = {}
        for base in reversed(bases):
            if (name := self.resolve(module, base)) and (inherited := self.read(name)):
                fields |= inherited.fields
        by_keyword = any("kw_only=True" in d for d in decorators)
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and "ClassVar" not in ast.unparse(line.annotation):
                if ast.unparse(line.annotation).split(".")[-1] == "KW_ONLY":
                    by_keyword = True
                else:
                    fields[ast.unparse(line.target)] = not by_keyword and "kw_only=True" not in ast.unparse(line)
        self.known[dotted] = Record(fields)
        return self.known[dotted]

    def calls(self, module: str, tree: ast.Module) -> Iterator[str]:
        own = {id(n): c.name for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for n in ast.walk(c)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                text = ast.unparse(node.func)
                name = self.resolve(module, own.get(id(node), text) if text == "cls" else text)
                record = self.known.get(name or "", Record({}))
                given = math.inf if any(isinstance(a, ast.Starred) for a in node.args) else len(node.args)
                if len(record.fields) >= 5 and given > record.by_position:
                    yield f"{module}:{node.lineno}: {text}"


@pytest.fixture(scope="module")
def records() -> Records:
    folders = {folder: modules_of(REPOSITORY / folder) for folder in ("visionthink", "tests", "benchmarks")}
    return Records({f"{folder}.{name}".rstrip("."): tree for folder, trees in folders.items() for name, tree in trees.items()})


def test_records_of_more_than_three_fields_are_keyword_only(records):
    large = {name: r.by_position for name, r in records.known.items() if name.startswith("visionthink.") and len(r.fields) > 3}
    assert large["visionthink.train.config.TrainConfig"] == 0
    assert {name: count for name, count in large.items() if count} == BY_POSITION


def test_no_record_of_five_fields_is_made_by_position(records):
    assert records.faults == []


def test_the_rules_about_records_can_fail():
    sources = {
        "visionthink.a": (
            "@dataclass\nclass Five:\n    a: int\n    _: KW_ONLY\n    b: int\n    c: int\n    d: int\n    e: int\n\n"
            "    @classmethod\n    def of(cls):\n        return cls(1, 2)"
        ),
        "visionthink.b": "@dataclass(kw_only=True)\nclass Six(a.Five):\n    x: ClassVar[int]\n    f: int",
        "visionthink.c": "from visionthink.b import Six\nclass Four(NamedTuple):\n    a: int\n    b: int\n    c: int\n    d: int",
        "tests.d": "from visionthink.c import Four, Six as S\nS(1)\nS(1, b=2)\nS(1, 2)\nFour(1, 2, 3, 4)",
        "tests.e": "import d\nfrom d import S\nimport visionthink.a\nS(*x)\nd.S(1, 2)\nvisionthink.a.Five(1, 2)\nFive(1, 2)",
    }
    sources["visionthink.b"] = "from visionthink import a\n" + sources["visionthink.b"]
    found = Records({name: ast.parse(text) for name, text in sources.items()})
    assert {name: (len(r.fields), r.by_position) for name, r in found.known.items()} == {
        "visionthink.a.Five": (5, 1),
        "visionthink.b.Six": (6, 1),
        "visionthink.c.Four": (4, 4),
    }
    assert found.faults == [
        "visionthink.a:12: cls",
        "tests.d:4: S",
        "tests.e:4: S",
        "tests.e:5: d.S",
        "tests.e:6: visionthink.a.Five",
    ]


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
        "heavy = set('torch transformers trl fastapi vllm ray matplotlib sklearn datasets'.split()) & set(sys.modules)\n"
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
    assert holders == {f"protocol/{name}.py" for name in ("grammar", "protocol", "reader", "replies")}
