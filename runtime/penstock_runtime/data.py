"""Datasets: rows of arrays named as the model's inputs, from an `.npz` file or a folder of `.npy` files.

Whoever may name a dataset may not make this program run code or fill the memory: nothing is unpickled, and sizes are
checked in the headers before a byte of data is read.
"""

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from penstock.api.reasons import Reason

from .failure import Failure, shorten
from .finding import Tensor

__all__ = ["LABEL", "Array", "Arrays", "Dataset", "read_dataset"]

Array: TypeAlias = np.ndarray[Any, Any]
Arrays: TypeAlias = Mapping[str, Array]

LABEL = "label"
_MOST_BYTES = 1 << 30
_MOST_ARRAYS = 256
_LONGEST_HEADER = 10_000
_UNREADABLE = (
    OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
"""What damaged or foreign files make the standard library raise."""
_ZIP, _NPY = b"PK\x03\x04", b"\x93NUMPY"
_FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
_INTEGERS: Mapping[str, type[np.integer[Any]]] = {
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
}  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """Rows for a model: every array's first axis counts them, and is of the type that the model's input wants.

    `whole` names inputs of which a row is the whole tensor, so that rows can only be given one by one. `fixed` is the
    size of the first dimension where the model fixes it: so many rows go in at once, no more and no less.
    """

    arrays: Arrays
    label: Array | None
    rows: int
    whole: frozenset[str] = frozenset()
    fixed: int | None = None

    def take(self, chosen: Sequence[int] | Array) -> "Dataset":
        """Some of the rows, in that order."""
        indices = np.asarray(chosen, dtype=np.int64)
        label = None if self.label is None else self.label[indices]
        arrays = {name: array[indices] for name, array in self.arrays.items()}
        return Dataset(arrays, label, len(indices), self.whole, self.fixed)

    def spread(self, most: int) -> "Dataset":
        """At most so many rows, evenly from the first to the last: data is often sorted by class."""
        return self if self.rows <= most else self.take(np.arange(most) * self.rows // most)


def read_dataset(
    root: Path,
    inputs: Sequence[Tensor],
    most_rows: int | None = None,
    *,
    batching: bool = True,
    most_bytes: int = _MOST_BYTES,
    head: int | None = None,
) -> Dataset:
    """The dataset below `root` for a model with these inputs; raises Failure `DataInvalid`.

    Numbers are taken in any width of their kind if the input can hold them; integers for a floating-point input are
    refused, since they are often pixels that nobody has scaled. Arrays that no input is called after are not read.
    Without proven `batching`, rows are given one by one. Of more than `most_rows`, so many are taken evenly; with
    `head` only so many are read, the first ones, and fewer where they would be more than `most_bytes`.
    """
    with _open_arrays(root) as found:
        _check_names(found, inputs)
        wanted = [tensor.name for tensor in inputs]
        if LABEL in found and LABEL not in wanted:
            wanted.append(LABEL)
        total = sum(found[name].size for name in wanted)
        rows = None if head is None else _affordable([found[name] for name in wanted], head, most_bytes)
        if total > most_bytes and rows is None:
            message = f"the arrays of the dataset are {total >> 20} MiB, at most {most_bytes >> 20} MiB are read"
            raise _invalid(f"{message}; keep fewer rows")
        arrays = {name: found[name].read(rows) for name in wanted}
    label = arrays.pop(LABEL) if LABEL in wanted[len(inputs) :] else None
    dataset = _dataset(arrays, label, inputs, batching=batching)
    return dataset if most_rows is None else dataset.spread(most_rows)


@dataclass(frozen=True)
class _Stored:
    """One array that has not been read: its type and shape as its header declares them."""

    name: str
    file: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool

    @property
    def size(self) -> int:
        """Bytes of the data; exact, since what follows the header is read no further."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self, rows: int | None = None) -> Array:
        """All of it, or the first rows: no more than they take, unless the last dimension comes first on disk."""
        if rows is None or not self.shape or rows >= self.shape[0]:
            return self._read(self.shape)
        return self._read(self.shape)[:rows] if self.fortran else self._read((rows, *self.shape[1:]))

    def _read(self, shape: tuple[int, ...]) -> Array:
        data = bytearray(prod(shape) * self.dtype.itemsize)
        view, have = memoryview(data), 0
        try:
            while have < len(data):
                piece = self.file.read(min(1 << 20, len(data) - have))
                if not piece:
                    break
                view[have : have + len(piece)] = piece
                have += len(piece)
        except _UNREADABLE as error:
            raise _invalid(f"array {self.name!r} of the dataset cannot be read: {error}") from error
        if have < len(data):
            raise _invalid(f"array {self.name!r} of the dataset ends after {have} of {len(data)} bytes; copy it again")
        if not data:
            return np.zeros(shape, self.dtype)
        return np.frombuffer(data, dtype=self.dtype).reshape(shape, order="F" if self.fortran else "C")


def _affordable(stored: Iterable[_Stored], head: int, most_bytes: int) -> int:
    """How many of the first rows fit into so many bytes; at least one."""
    row = sum(array.size // max(1, array.shape[0]) if array.shape else array.size for array in stored)
    return max(1, min(head, most_bytes // max(1, row)))


@contextmanager
def _open_arrays(root: Path) -> Iterator[dict[str, _Stored]]:
    """The arrays by name, open for as long as the context."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    kinds = {path: _kind(path) for path in files}
    archives = [path for path, kind in kinds.items() if kind == "npz"]
    single = [path for path, kind in kinds.items() if kind == "npy"]
    opened: list[IO[bytes]] = []
    try:
        if len(archives) == 1 and not single:
            yield dict(_members(archives[0], opened))
        elif single and not archives:
            yield dict(_single(single, opened))
        else:
            shown = ", ".join(path.relative_to(root).as_posix() for path in files[:5]) or "no file"
            message = f"the dataset holds {shown}; expected one .npz file, or .npy files alone"
            raise _invalid(f"{message}, as numpy.savez and numpy.save write them")
    finally:
        for file in reversed(opened):
            file.close()


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(len(_NPY))
    return "npz" if start.startswith(_ZIP) else "npy" if start == _NPY else ""


def _members(path: Path, opened: list[IO[bytes]]) -> Iterator[tuple[str, _Stored]]:
    try:
        archive = zipfile.ZipFile(path)
        opened.append(archive)  # type: ignore[arg-type]
        members = archive.infolist()
        if len(members) > _MOST_ARRAYS:
            raise _invalid(f"the dataset holds {len(members)} arrays, at most {_MOST_ARRAYS} are read")
        for member in members:
            name = member.filename.removesuffix(".npy")
            file = archive.open(member)
            opened.append(file)
            stored = _header(name, file)
            if member.file_size < stored.size:
                message = f"array {name!r} of the dataset declares {stored.size} bytes and has {member.file_size}"
                raise _invalid(f"{message}; write the file again")
            yield name, stored
    except _UNREADABLE as error:
        raise _invalid(f"{path.name} of the dataset is no readable .npz file: {error}") from error


def _single(paths: Iterable[Path], opened: list[IO[bytes]]) -> Iterator[tuple[str, _Stored]]:
    for path in list(paths)[:_MOST_ARRAYS]:
        file = path.open("rb")
        opened.append(file)
        stored = _header(path.name.removesuffix(".npy"), file)
        if path.stat().st_size < stored.size:
            message = f"array {stored.name!r} of the dataset declares {stored.size} bytes, its file has fewer"
            raise _invalid(f"{message}; copy it again")
        yield stored.name, stored


def _header(name: str, file: IO[bytes]) -> _Stored:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file, max_header_size=_LONGEST_HEADER)
    except (ValueError, KeyError, SyntaxError, RecursionError, MemoryError, *_UNREADABLE) as error:
        raise _invalid(f"array {name!r} of the dataset has no header that can be read: {error}") from error
    if dtype.hasobject:
        message = f"array {name!r} of the dataset holds Python objects, which only unpickling could read"
        raise _invalid(f"{message}; save it with a plain type, text as numpy's <U or S")
    if dtype.names is not None or dtype.subdtype is not None or any(size < 0 for size in shape):
        raise _invalid(f"array {name!r} of the dataset is {dtype} of shape {shape}; expected plain numbers or text")
    return _Stored(name, file, dtype, tuple(int(size) for size in shape), bool(fortran))


def _check_names(found: Mapping[str, _Stored], inputs: Sequence[Tensor]) -> None:
    missing = [tensor.name for tensor in inputs if tensor.name not in found]
    if missing:
        has = ", ".join(sorted(found)[:20]) or "none"
        wanted = ", ".join(missing[:20])
        raise _invalid(f"the dataset has no array named {wanted}, as the model's inputs are; it has {has}")


def _dataset(arrays: dict[str, Array], label: Array | None, inputs: Sequence[Tensor], *, batching: bool) -> Dataset:
    whole: set[str] = set()
    fixed: set[int] = set()
    read: dict[str, Array] = {}
    for tensor in inputs:
        array = _fit_type(arrays[tensor.name], tensor)
        if _fits(array.shape[1:], tensor.dims[1:]) and array.ndim == len(tensor.dims) and array.ndim:
            fixed.update(size for size in tensor.dims[:1] if size != -1)
        elif array.ndim == len(tensor.dims) + 1 and _fits(array.shape[1:], tensor.dims):
            whole.add(tensor.name)
        else:
            raise _invalid(_shape_message(tensor, array))
        read[tensor.name] = array
    rows = {name: len(array) for name, array in read.items()}
    if label is not None:
        rows[LABEL] = len(label) if label.ndim else 0
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise _invalid(f"the arrays of the dataset differ in their number of rows: {counts}")
    if len(fixed) > 1:
        raise _invalid(f"the model's inputs fix different numbers of rows, {sorted(fixed)}; no dataset can feed it")
    count = next(iter(rows.values()), 0)
    if not count:
        raise _invalid("the dataset has no rows")
    return Dataset(read, label, count, frozenset(whole), next(iter(fixed), None if batching else 1))


def _fits(shape: Sequence[int], dims: Sequence[int]) -> bool:
    return len(shape) == len(dims) and all(size in (-1, have) for have, size in zip(shape, dims, strict=True))


def _shape_message(tensor: Tensor, array: Array) -> str:
    expected = ["rows", *tensor.dims[1:]]
    text = ", ".join("any" if size == -1 else str(size) for size in expected)
    message = (
        f"array {tensor.name!r} of the dataset has the shape {list(array.shape)}; the input is {list(tensor.dims)}, "
        f"so [{text}] is expected"
    )
    wanted = prod(tensor.dims[1:])
    same = array.ndim > 0 and -1 not in tensor.dims[1:] and prod(array.shape[1:]) == wanted
    return f"{message}; reshape it" if same else message


def _fit_type(array: Array, tensor: Tensor) -> Array:
    """The same numbers in the type the input wants; raises Failure where that would change them."""
    kind = array.dtype.kind
    if tensor.data_type in _FLOATS and kind == "f":
        with np.errstate(over="ignore"):
            fitted = array.astype(_FLOATS[tensor.data_type], copy=False)
        if not np.array_equal(np.isfinite(fitted), np.isfinite(array)):
            raise _invalid(f"array {tensor.name!r} of the dataset holds numbers too large for {tensor.data_type}")
        return fitted
    if tensor.data_type in _INTEGERS and kind in "iu":
        limits = np.iinfo(_INTEGERS[tensor.data_type])
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            span = f"{array.min()} to {array.max()}"
            raise _invalid(f"array {tensor.name!r} of the dataset holds {span}, too large for {tensor.data_type}")
        return array.astype(_INTEGERS[tensor.data_type], copy=False)
    if tensor.data_type == "BOOL" and kind == "b":
        return array
    if tensor.data_type == "STRING" and kind in "US":
        return _texts(array, tensor)
    message = f"array {tensor.name!r} of the dataset is {array.dtype.name}, the input wants {tensor.data_type}"
    if tensor.data_type in _FLOATS and kind in "iub":
        message += "; convert it as it was for training, with the same scaling"
    raise _invalid(message)


def _texts(array: Array, tensor: Tensor) -> Array:
    texts = array.astype(object)
    try:
        for index in np.ndindex(texts.shape) if array.dtype.kind == "S" else ():
            texts[index] = bytes(texts[index]).decode()
    except UnicodeDecodeError as error:
        raise _invalid(f"array {tensor.name!r} of the dataset holds text that is not UTF-8: {error}") from error
    return texts


def _invalid(message: str) -> Failure:
    return Failure(Reason.DATA_INVALID, shorten(message, 600))
