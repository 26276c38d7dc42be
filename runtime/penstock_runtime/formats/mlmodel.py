"""MLflow's `MLmodel` file: which flavours a saved model has, where their files are, and its signature.

The file is the small part of YAML that MLflow writes: nested keys with plain or quoted scalars. Reading that part here
keeps a YAML library, and what it may make of a hostile document, out of the containers that open models.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure

__all__ = ["Column", "MLModel", "read_mlmodel"]

_MOST = 4 << 20
_ENTRY = re.compile(r"^(?P<indent> *)(?P<key>[^\s:#'\"\[\]{}-][^:]*):(?:\s+(?P<value>.*))?$")
Node: TypeAlias = "dict[str, str | Node]"


@dataclass(frozen=True)
class Column:
    """One input of the signature: MLflow's or NumPy's type, and the whole shape; a column of a table has none."""

    name: str
    type: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class MLModel:
    """Flavours with their scalar settings, and the inputs of the signature where there is one."""

    flavors: Mapping[str, Mapping[str, str]]
    inputs: tuple[Column, ...] = ()


def read_mlmodel(path: Path) -> MLModel:
    """Read an MLmodel file; raises Failure."""
    try:
        with path.open("rb") as file:
            root = _parse(file.read(_MOST).decode())
        flavors = root["flavors"]
        assert isinstance(flavors, dict)
        settings = {name: _scalars(value) for name, value in flavors.items()}
        return MLModel(settings, _signature(root))
    except (KeyError, AssertionError, ValueError) as error:
        message = f"the file MLmodel cannot be read ({type(error).__name__}: {error}); save the model with MLflow again"
        raise Failure(Reason.INVALID_MODEL, message) from error


def _scalars(node: "str | Node") -> dict[str, str]:
    return {key: value for key, value in node.items() if isinstance(value, str)} if isinstance(node, dict) else {}


def _signature(root: Node) -> tuple[Column, ...]:
    signature = root.get("signature")
    text = signature.get("inputs", "") if isinstance(signature, dict) else ""
    if not isinstance(text, str) or not text or text == "null":
        return ()
    return tuple(_column(item, index) for index, item in enumerate(json.loads(text)))


def _column(item: Any, index: int) -> Column:
    name = str(item.get("name") or f"input_{index}")
    tensor = item.get("tensor-spec")
    if item.get("type") == "tensor" and isinstance(tensor, dict):
        return Column(name, str(tensor["dtype"]), tuple(int(size) for size in tensor["shape"]))
    return Column(name, str(item.get("type")), None)


def _parse(text: str) -> Node:
    """Nested keys by their indentation; lists are passed over."""
    root: Node = {}
    open_nodes: list[tuple[int, Node]] = [(-1, root)]
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        match = _ENTRY.match(lines[at])
        at += 1
        if not match:
            continue
        indent, key = len(match["indent"]), match["key"].strip()
        while open_nodes[-1][0] >= indent:
            open_nodes.pop()
        value = (match["value"] or "").strip()
        if value:
            whole, at = _continued(value, lines, at, indent)
            open_nodes[-1][1][key] = _unquoted(whole)
        else:
            node: Node = {}
            open_nodes[-1][1][key] = node
            open_nodes.append((indent, node))
    return root


def _continued(value: str, lines: list[str], at: int, indent: int) -> tuple[str, int]:
    """A scalar with the lines that go on with it: until its quote ends, or while they are deeper and no entries."""
    quote = value[0] if value[0] in "'\"" else ""
    parts = [value]
    while at < len(lines):
        line = lines[at]
        if quote:
            if _ends(" ".join(parts), quote):
                break
        elif not line.strip() or len(line) - len(line.lstrip()) <= indent or _ENTRY.match(line):
            break
        text = line.strip()
        if parts[-1].endswith("\\") and quote == '"':
            parts[-1] = parts[-1][:-1] + (text[1:] if text.startswith("\\ ") else text)
        else:
            parts.append(text)
        at += 1
    return " ".join(parts), at


def _ends(text: str, quote: str) -> bool:
    body = text[1:]
    if quote == "'":
        return body.replace("''", "").endswith("'")
    return bool(re.search(r'(?<!\\)(\\\\)*"$', body))


def _unquoted(value: str) -> str:
    if value[:1] == "'" and value.endswith("'"):
        return value[1:-1].replace("''", "'")
    if value[:1] == '"' and value.endswith('"'):
        return str(json.loads(value))
    return "" if value in ("null", "~") else value
