"""Cells of Arrow tables: every type to the value a person would read, or to its refusal."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from visionthink.cells import Refused, TypedText, read_json

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def cell(scalar: Any) -> Any:
    """A `pyarrow.Scalar` of any type as a cell, see `visionthink.cells`. Nothing is raised: what has no text is `Refused`."""
    if not scalar.is_valid:
        return None
    kind = str(scalar.type)
    try:
        return _cell(scalar, kind)
    except UnicodeDecodeError:
        return Refused(f"{kind} that is not UTF-8")
    except (ValueError, OverflowError, RecursionError, LookupError, OSError):  # a year 10000, a time zone that is not known
        return Refused(kind)


def _cell(scalar: Any, kind: str) -> Any:
    import pyarrow as pa

    types, of = pa.types, scalar.type
    if isinstance(scalar, pa.ExtensionScalar):
        return _extension(scalar, kind)
    if types.is_dictionary(of) or types.is_run_end_encoded(of) or types.is_union(of):
        return cell(scalar.value) if isinstance(scalar.value, pa.Scalar) else _cell_of(scalar.as_py(), kind)
    if types.is_map(of):
        pairs = [(cell(key), cell(value)) for key, value in zip(scalar.values.field(0), scalar.values.field(1), strict=True)]
        return _mapping(pairs, kind)
    if types.is_struct(of):
        return _mapping([(of.field(i).name, cell(scalar[i])) for i in range(of.num_fields)], kind)
    if scalar.__class__ in (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar, pa.ListViewScalar, pa.LargeListViewScalar):
        return _list(scalar)
    if types.is_floating(of):
        return _floats(np.array([scalar.as_py()], f"f{of.bit_width // 8}"))[0]
    if types.is_decimal(of):
        return TypedText(f"{scalar.as_py():f}", kind)
    if types.is_date(of):
        return TypedText(scalar.as_py().isoformat(), kind)
    if types.is_time(of):
        return TypedText(_clock(scalar.value, of.unit), kind)
    if types.is_timestamp(of):
        return TypedText(_moment(scalar.value, of.unit, of.tz), kind)
    return _cell_of(scalar.as_py(), kind)


def _list(scalar: Any) -> list[Any]:
    """A list; numbers and texts are converted at once, as they may be many (embeddings)."""
    import pyarrow as pa

    of = scalar.values.type
    if pa.types.is_floating(of):
        return _floats(scalar.values.to_numpy(zero_copy_only=False))
    if pa.types.is_integer(of) or pa.types.is_string(of) or pa.types.is_large_string(of):
        return list(scalar.as_py())
    return [cell(value) for value in scalar.values]


def _floats(numbers: np.ndarray) -> list[float]:
    """The 64-bit number with the same shortest decimal text: 0.1 of 16 bits is 0.0999755859375, and a person reads 0.1."""
    return list((numbers if numbers.dtype == np.float64 else numbers.astype(str).astype(np.float64)).tolist())


def _cell_of(value: Any, kind: str) -> Any:
    return value if value is None or isinstance(value, (str, bytes, bool, int)) else Refused(kind)


def _extension(scalar: Any, kind: str) -> Any:
    """Those of Arrow's own whose values have a usual spelling."""
    name = getattr(scalar.type, "extension_name", "")
    if name == "arrow.uuid":
        return TypedText(str(scalar.as_py()), kind)
    if name == "arrow.bool8":
        return bool(scalar.value.as_py())
    return read_json(scalar.value.as_py()) if name == "arrow.json" else Refused(kind)


def _mapping(pairs: list[tuple[Any, Any]], kind: str) -> Any:
    record = dict(pairs) if all(isinstance(name, str) for name, _ in pairs) else {}
    return record if len(record) == len(pairs) else Refused(kind)


def _clock(value: int, unit: str) -> str:
    """hh:mm:ss and the part of a second, if there is one."""
    seconds, part = divmod(value, _PER_SECOND[unit])
    text = (datetime.datetime.min + datetime.timedelta(seconds=seconds)).time().isoformat()
    return text + _fraction(part, unit)


def _fraction(part: int, unit: str) -> str:
    return f".{part:0{len(str(_PER_SECOND[unit])) - 1}}".rstrip("0") if part else ""


def _moment(value: int, unit: str, zone: str | None) -> str:
    """Write a moment as ISO 8601, with a space before the time, and with the offset from UTC if the column has a time zone."""
    seconds, part = divmod(value, _PER_SECOND[unit])
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
    if zone is None:
        return moment.replace(tzinfo=None).isoformat(" ") + _fraction(part, unit)
    local = moment.astimezone(_zone(zone)).isoformat(" ")
    return local[:19] + _fraction(part, unit) + local[19:]


def _zone(name: str) -> datetime.tzinfo:
    if offset := re.fullmatch(r"([+-])(\d\d):?(\d\d)", name):
        distance = datetime.timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return datetime.timezone(distance if offset[1] == "+" else -distance)
    return ZoneInfo(name)


def named_classes(value: Any, feature: Any) -> Any:
    """A cell of a `datasets` column, with the names of its classes in place of their numbers."""
    from datasets import ClassLabel

    if isinstance(feature, ClassLabel) and isinstance(value, int):
        if value < 0:
            return None  # stands for a class that is not known
        return feature.names[value] if value < len(feature.names) else Refused(f"class {value} of {len(feature.names)}")
    if isinstance(feature, Mapping) and isinstance(value, dict):
        return {name: named_classes(each, feature.get(name)) for name, each in value.items()}
    if isinstance(value, list) and (inner := feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)):
        return [named_classes(each, inner) for each in value]
    return value
