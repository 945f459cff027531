"""Sources of rows: a file or a folder, here or at an address that fsspec knows (`s3://`, `gs://`, `hf://`, ...), or a hub id.

Parquet, saved folders, WebDataset shards and the hub are read by `datasets`.
"""

from __future__ import annotations

import logging
import posixpath
from pathlib import Path
from typing import Any

from visionthink.cells import quoted
from visionthink.data.rows import ArrowRows, Csv, JsonLines, Rows
from visionthink.errors import DataError, one_line

_TABLES = ("metadata.parquet", "metadata.jsonl", "metadata.csv")
"""The table of a folder of images, as `datasets` names it."""


def open_rows(source: str, split: str) -> tuple[Rows, Path | str]:
    """Rows of a source, and the folder that paths in it are relative to, or its address.

    Raises:
        DataError: it cannot be opened.
    """
    if "://" in source:
        return _at_address(source)
    path = Path(source)
    if path.is_dir() and (table := next((path / name for name in _TABLES if (path / name).is_file()), None)):
        path, source = table, str(table)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".csv", ".tsv"):
        if not path.is_file():
            raise DataError(f"{source}: no such file")
        return (JsonLines(path) if suffix == ".jsonl" else Csv(path)), path.parent
    return _arrow(source, path, split), path.parent if path.is_file() or _is_pattern(path.name) else path


def _at_address(source: str) -> tuple[Rows, str]:
    """A file, a pattern of files or a folder with its table, wherever fsspec finds it; lines and CSV are copied here first."""
    import fsspec

    try:
        files, place = fsspec.core.url_to_fs(source)
        if table := next((name for name in _TABLES if files.exists(f"{place}/{name}")), None):
            source, place = f"{source.rstrip('/')}/{table}", f"{place}/{table}"
        suffix, beside = posixpath.splitext(place)[1].lower(), source.rpartition("/")[0]
        if suffix not in (".jsonl", ".csv", ".tsv", ".parquet", ".tar"):
            kinds = f"a .parquet, .jsonl, .csv, .tsv or .tar file, or a folder with {', '.join(_TABLES)}"
            raise DataError(f"{source}: expected {kinds}")
        packed = suffix in (".parquet", ".tar")
        found = files.glob(place) if packed and _is_pattern(place) else [place] * files.exists(place)
        if not found:
            raise DataError(f"{source}: no such file")
        if not packed:
            copy = Path(fsspec.open_local(f"simplecache::{source}"))
            return (JsonLines(copy) if suffix == ".jsonl" else Csv(copy)), beside
        with files.open(found[0]) as first:
            return _packed(source, suffix, first), beside
    except DataError:
        raise
    except Exception as error:  # each kind of place has errors of its own, and says which library it needs
        raise DataError(f"{source}: cannot be read ({one_line(error)})") from None


def _packed(source: str, suffix: str, first: Any) -> ArrowRows:
    """Rows of parquet files or WebDataset shards; `first` is one of them, or None."""
    import datasets

    _quiet()
    if suffix == ".tar":
        return ArrowRows(datasets.load_dataset("webdataset", data_files=source, split="train"))
    known, refused = _columns(source, first) if first is not None else ({}, {})
    return ArrowRows(datasets.load_dataset("parquet", data_files=source, split="train", **known), refused)


def _is_pattern(source: str) -> bool:
    return any(c in source for c in "*?[")


def _arrow(source: str, path: Path, split: str) -> ArrowRows:
    import datasets

    _quiet()
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".tar"):
            if not path.is_file() and not _is_pattern(source):
                raise DataError(f"{source}: no such file")
            if path.is_file() and path.stat().st_size == 0:
                raise DataError(f"{source}: is empty")
            first = path if path.is_file() else next(iter(sorted(path.parent.glob(path.name))), None)
            return _packed(source, suffix, first)
        if path.is_dir() and not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            raise DataError(f"{source}: neither a saved data set nor a folder with {', '.join(_TABLES)}")
        if path.is_dir():
            rows = datasets.load_from_disk(source)
            if not isinstance(rows, datasets.DatasetDict):
                return ArrowRows(rows)
            if split not in rows:
                raise DataError(f"{source}: no split {split}; it has {', '.join(rows)}")
            return ArrowRows(rows[split])
        if path.exists():
            raise DataError(f"{source}: expected a .parquet, .jsonl, .csv, .tsv or .tar file")
        if "/" not in source:
            raise DataError(f"{source}: no such file or folder; a data set of the hub is named OWNER/NAME")
        return ArrowRows(datasets.load_dataset(source, split=split))
    except DataError:
        raise
    except ConnectionError:
        raise DataError(f"{source}: no such file or folder, and the hub could not be reached") from None
    except Exception as error:  # readers of damaged files raise nearly anything
        raise DataError(
            f"{source}: cannot be read ({one_line(cause if isinstance(cause := error.__cause__, Exception) else error)})"
        ) from None


def _quiet() -> None:
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it has to say of a damaged file is in the exception
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _columns(source: str, first: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """What `datasets` is told of the columns of parquet files where it cannot hold one, and the types of those it cannot hold.

    Raises:
        DataError: two columns have the same name.
    """
    import pyarrow as pa
    from datasets import Features
    from pyarrow import parquet

    schema = parquet.read_schema(first)
    if twice := [name for name in dict.fromkeys(schema.names) if schema.names.count(name) > 1]:
        raise DataError(f"{source}: two columns have the same name: {quoted(twice)}")
    kept, refused = list[Any](), dict[str, str]()
    for field in schema:
        try:
            Features.from_arrow_schema(pa.schema([field]))
            kept.append(field)
        except ValueError:
            refused[field.name] = str(field.type)
    if not refused:
        return {}, {}
    return {"features": Features.from_arrow_schema(pa.schema(kept)), "columns": [field.name for field in kept]}, refused
