"""The notebook of the tutorials runs, and prints what is stored in it. `python tests/test_notebook.py` stores new outputs."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "tutorials" / "first-look.ipynb"


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def run(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs in this folder, without times and progress; an error where a cell fails."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "IPYTHONDIR": str(folder / ".ipython")}
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    done = client.execute(env=env)
    for cell in done.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return done


def printed(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """What each cell of code prints, without colours; of a figure its size."""
    return [[text(output) for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def text(output: nbformat.NotebookNode) -> str:
    said = output.text if output.output_type == "stream" else output.data["text/plain"]
    return re.sub(r"\x1b\[[\d;]*m", "", said)


def test_the_stored_outputs_are_those_of_a_new_run(tmp_path):
    new = run(read(), tmp_path)
    assert printed(read()) == printed(new), "store the new outputs: python tests/test_notebook.py"
    assert "3\n  shown: (0.25,), 4 visual tokens" in printed(new)[3][0]
    assert "horizontal\n  shown: (0.25, 1.0), 20 visual tokens" in printed(new)[3][0]
    assert (tmp_path / "runs" / "first-look" / "report.html").is_file()


def test_the_file_is_small_and_complete():
    """All cells were run in their order, and what is not run can be read."""
    notebook = read()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) == 2
    assert NOTEBOOK.stat().st_size < 400_000
    [block] = [block for cell in notebook.cells for block in re.findall(r"^```python\n(.*?)^```", cell.source, re.M | re.S)]
    compile(block, NOTEBOOK.name, "exec")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        notebook = run(read(), Path(folder))
    NOTEBOOK.write_text(nbformat.writes(notebook, indent=1) + "\n", "utf-8")
    sys.stdout.write(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size} bytes\n")
