"""Writes a linear network as an ONNX file, byte by byte, so that tests need no onnx package."""

from pathlib import Path

import numpy as np


def write_linear_network(path: Path, weights: np.ndarray, bias: np.ndarray, size: int) -> Path:
    """Write y = weights @ x + bias for x f32 [1, 3, size, size]; weights are [n, 3 size^2]."""
    nodes = [_node("Flatten", ["input"], "flat")]
    nodes.append(_node("MatMul", ["flat", "weights"], "product"))
    nodes.append(_node("Add", ["product", "bias"], "output"))
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"linear")
    graph += _field(5, _tensor("weights", weights.T)) + _field(5, _tensor("bias", bias[None]))
    graph += _field(11, _value("input", (1, 3, size, size)))
    graph += _field(12, _value("output", (1, len(bias))))
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(2, 13)))
    return path


def _varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _field(number: int, value: int | bytes) -> bytes:
    """Encode one protobuf field: an integer, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _node(kind: str, inputs: list[str], output: str) -> bytes:
    named = b"".join(_field(1, name.encode()) for name in inputs)
    return (
        named + _field(2, output.encode()) + _field(3, output.encode()) + _field(4, kind.encode())
    )


def _tensor(name: str, values: np.ndarray) -> bytes:
    shape = b"".join(_field(1, n) for n in values.shape)
    data = np.ascontiguousarray(values, "<f4").tobytes()
    return shape + _field(2, 1) + _field(8, name.encode()) + _field(9, data)


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    dimensions = b"".join(_field(1, _field(1, n)) for n in shape)
    tensor_type = _field(1, 1) + _field(2, dimensions)
    return _field(1, name.encode()) + _field(2, _field(1, tensor_type))
