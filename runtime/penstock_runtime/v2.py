"""The v2 inference protocol over HTTP/1.1 with binary tensors: requests as bytes, and answers from bytes.

The binary extension as Triton has it: a JSON head whose length stands in `Inference-Header-Content-Length`, then each
tensor's bytes in C order and little endian; text as a 4-byte length and its bytes.
"""

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .data import Array, Arrays
from .finding import Tensor

__all__ = ["Answer", "InferenceError", "ask", "encode_get", "encode_request", "read_answer", "take_answer"]

_TYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_HEAD_END = b"\r\n\r\n"
_LARGEST_HEAD = 64 << 10
_LARGEST_BODY = 1 << 30


class InferenceError(Exception):
    """The server does not answer, or with an error; the message is its own."""


@dataclass(frozen=True)
class Answer:
    """One HTTP answer: status, length of the JSON part (None: all of the body), body."""

    status: int
    json_length: int | None
    body: bytes

    def error(self) -> str:
        """What the server says against the request; empty when nothing."""
        if self.status == 200:
            return ""
        try:
            return f"status {self.status}: {json.loads(self.body)['error']}"
        except (ValueError, KeyError, TypeError):
            return f"status {self.status}: {self.body[:200].decode(errors='replace')}"


def encode_request(model: str, arrays: Arrays, inputs: Mapping[str, Tensor]) -> bytes:
    """The whole HTTP request for one inference, all outputs in binary."""
    parts, described = [], []
    for name, array in arrays.items():
        data_type = inputs[name].data_type
        data = _encode(array, data_type)
        described.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": "BYTES" if data_type == "STRING" else data_type,
                "parameters": {"binary_data_size": len(data)},
            }
        )
        parts.append(data)
    head = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
    length = len(head) + sum(map(len, parts))
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {length}",
    )
    return b"".join([*(f"{line}\r\n".encode() for line in lines), b"\r\n", head, *parts])


def encode_get(path: str) -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def take_answer(data: bytearray) -> Answer | None:
    """The answer at the start of what was received, removed from it; None while it is not whole. Raises ValueError."""
    end = data.find(_HEAD_END)
    if end < 0:
        if len(data) > _LARGEST_HEAD:
            raise ValueError("the server's answer has an endless head")
        return None
    status, headers = _head(bytes(data[:end]))
    length = int(headers.get("content-length", -1))
    if not 0 <= length <= _LARGEST_BODY:
        raise ValueError(f"the server's answer has Content-Length {headers.get('content-length')}")
    whole = end + len(_HEAD_END) + length
    if len(data) < whole:
        return None
    body = bytes(data[whole - length : whole])
    del data[:whole]
    json_length = headers.get("inference-header-content-length")
    return Answer(status, int(json_length) if json_length else None, body)


def read_answer(answer: Answer) -> dict[str, Array]:
    """The outputs by name; raises InferenceError."""
    if answer.status != 200:
        raise InferenceError(answer.error())
    try:
        size = len(answer.body) if answer.json_length is None else answer.json_length
        described = json.loads(answer.body[:size])["outputs"]
        outputs, at = {}, size
        for item in described:
            length = int(item["parameters"]["binary_data_size"])
            outputs[str(item["name"])] = _decode(answer.body[at : at + length], item["datatype"], item["shape"])
            at += length
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise InferenceError(f"the server's answer cannot be read: {error}") from error
    return outputs


def ask(connection: socket.socket, message: bytes) -> Answer:
    """Send one request over a connection and wait for its answer; raises InferenceError."""
    data = bytearray()
    try:
        connection.sendall(message)
        while True:
            answer = take_answer(data)
            if answer is not None:
                return answer
            piece = connection.recv(1 << 18)
            if not piece:
                raise InferenceError("the server closed the connection before its answer was whole")
            data += piece
    except (OSError, ValueError) as error:
        raise InferenceError(f"the server does not answer: {error}") from error


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ", 2)[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


def _encode(array: Array, data_type: str) -> bytes:
    if data_type == "STRING":
        texts = (str(item).encode() for item in array.reshape(-1))
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    if data_type == "BF16":
        return (np.ascontiguousarray(array, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return np.ascontiguousarray(array, _TYPES[data_type]).tobytes()


def _decode(data: bytes, data_type: str, shape: list[int]) -> Array:
    if data_type == "BYTES":
        return _decode_text(data, shape)
    if data_type == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(data, np.dtype(_TYPES[data_type])).reshape(shape)


def _decode_text(data: bytes, shape: list[int]) -> Array:
    texts: list[Any] = []
    at = 0
    while at < len(data) and len(texts) < prod(shape):
        (length,) = struct.unpack_from("<I", data, at)
        texts.append(data[at + 4 : at + 4 + length].decode(errors="replace"))
        at += 4 + length
    return np.array(texts, dtype=object).reshape(shape)
