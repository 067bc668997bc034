"""Reads an .onnx file that nobody vouches for: what is wrong with it is one clear error, and nothing of it is run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from agent.errors import ConfigError

FILE_BYTES_MAX = 2**31 - 1
"""Protobuf's own limit. Larger networks keep their weights in external files, which are not read."""

KEPT_TENSOR_BYTES = 4096
"""Constants up to this size stay in memory: shapes and axes, which shape inference reads. Weights are dropped."""

STANDARD_DOMAINS = {"": "", "ai.onnx": "", "ai.onnx.ml": "ai.onnx.ml"}
"""As networks name them, and as the onnx package does."""

RANK_MAX = 64
"""Dimensions of one tensor: numpy has no more, and the product of 200,000 is not done within a minute."""

OPSET_MAX = 1000
"""ONNX has one or two a year and is at 28. Its C++ crashes on some versions that are far from any."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a network.

    Attributes:
        name: as in the graph.
        dtype: numpy's name, or `not a tensor`.
        shape: numbers, names of symbolic dimensions, None for one that nothing is known of; None without any shape.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        inside = (
            "no shape" if self.shape is None else ",".join("?" if size is None else str(size) for size in self.shape)
        )
        return f"{self.name} {self.dtype}[{inside}]"


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A parsed network without its weights.

    Attributes:
        proto: the model; large constants have lost their content.
        sha256: of the file itself; external data has none.
        file_bytes: size of the file.
        external: external files by name with their sizes in bytes, all inside the folder.
        inputs: without those that initializers fill.
        outputs: in the graph's order.
    """

    file: Path
    proto: ModelProto
    sha256: str
    file_bytes: int
    external: dict[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def read_network(file: Path) -> Network:
    """Parse and check an .onnx file.

    Raises:
        ConfigError: unreadable, not ONNX, truncated, or external data that is absolute, leaves the folder, is a
            symbolic link, is absent or too short.
    """
    content = _read(file)
    proto = ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, RecursionError, ValueError) as error:
        # Protobuf itself refuses messages that are nested more than 100 deep.
        raise ConfigError(f"{file}: is not an ONNX file, is truncated or is nested too deeply: {error}") from error
    _check_text(file, proto)
    if proto.ir_version < 1 or not proto.opset_import or not proto.graph.output:
        raise ConfigError(f"{file}: is not a complete ONNX file: it has no {_missing(proto)}")
    _check_opsets(file, proto)
    external = _check_tensors(file, proto)
    for value in (*proto.graph.input, *proto.graph.output):
        _check_rank(file, value.name, len(value.type.tensor_type.shape.dim))
    initialized = {tensor.name for tensor in proto.graph.initializer}
    return Network(
        file=file,
        proto=proto,
        sha256=hashlib.sha256(content).hexdigest(),
        file_bytes=len(content),
        external=external,
        inputs=tuple(_port(value) for value in proto.graph.input if value.name not in initialized),
        outputs=tuple(_port(value) for value in proto.graph.output),
    )


def all_nodes(proto: ModelProto) -> Iterator[NodeProto]:
    """Yield every node: of the graph, of the bodies of If, Loop and Scan, and of local functions."""
    for body in (proto.graph, *reversed(proto.functions)):
        yield from nodes_of(body)


def nodes_of(body: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """Yield every node of a graph or a function, and of the bodies of If, Loop and Scan in it."""
    waiting: list[Any] = [body]
    while waiting:
        for node in waiting.pop().node:
            yield node
            waiting += subgraphs(node)


def _check_opsets(file: Path, proto: ModelProto) -> None:
    for body in (proto, *proto.functions):
        for entry in body.opset_import:
            if entry.domain in STANDARD_DOMAINS and not 1 <= entry.version <= OPSET_MAX:
                domain = entry.domain or "ai.onnx"
                raise ConfigError(
                    f"{file}: opset {entry.version} of {domain} is none: they count from 1, and ONNX "
                    f"{onnx.__version__} knows them up to {newest_opset(entry.domain)}"
                )


def _check_rank(file: Path, name: str, rank: int) -> None:
    if rank > RANK_MAX:
        raise ConfigError(f"{file}: tensor {name!r} has {rank} dimensions, of {RANK_MAX} that are possible")


def newest_opset(domain: str) -> int:
    """Return the newest version that the package onnx knows of one of STANDARD_DOMAINS."""
    is_ml = STANDARD_DOMAINS[domain] == "ai.onnx.ml"
    return int(onnx.defs.onnx_ml_opset_version() if is_ml else onnx.defs.onnx_opset_version())


def _read(file: Path) -> bytes:
    try:
        if not file.is_file():
            raise ConfigError(f"{file}: is no file" if file.exists() else f"{file}: there is no such file")
        if file.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(
                f"{file}: is larger than 2 GiB, which no ONNX file can be: keep weights in external data"
            )
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error


def _check_text(file: Path, proto: ModelProto) -> None:
    """Refuse names that are not UTF-8: protobuf hands them over as bytes, which nothing expects."""
    waiting: list[Message] = [proto]
    while waiting:
        for descriptor, value in waiting.pop().ListFields():
            values = [value] if isinstance(value, str | bytes | Message) else value
            if descriptor.type == FieldDescriptor.TYPE_MESSAGE:
                waiting += values
            elif descriptor.type == FieldDescriptor.TYPE_STRING and any(isinstance(text, bytes) for text in values):
                raise ConfigError(f"{file}: is damaged: a {descriptor.name} in it is not UTF-8 text")


def _missing(proto: ModelProto) -> str:
    if proto.ir_version < 1:
        return "IR version"
    return "opset" if not proto.opset_import else "outputs"


def _check_tensors(file: Path, proto: ModelProto) -> dict[str, int]:
    """Check that every constant is all there, drop the content of large ones, return the external files' sizes."""
    external: dict[str, int] = {}
    for tensor in _all_tensors(proto):
        _check_rank(file, tensor.name, len(tensor.dims))
        if any(size < 0 for size in tensor.dims):
            raise ConfigError(f"{file}: constant {tensor.name!r} has a negative dimension")
        if tensor.data_location == TensorProto.EXTERNAL:
            name, size = _check_external(file, tensor)
            external[name] = size
            continue
        if tensor.HasField("raw_data"):
            wanted = _raw_bytes(tensor)
            if wanted is not None and len(tensor.raw_data) != wanted:
                raise ConfigError(
                    f"{file}: constant {tensor.name!r} has {len(tensor.raw_data)} bytes where its shape "
                    f"{list(tensor.dims)} asks for {wanted}: the file is truncated or was made wrongly"
                )
        elif math.prod(tensor.dims) > 0 and not any(len(getattr(tensor, field)) for field in _TYPED_FIELDS):
            raise ConfigError(f"{file}: constant {tensor.name!r} of shape {list(tensor.dims)} has no content")
        if tensor.ByteSize() > KEPT_TENSOR_BYTES:
            for field in ("raw_data", *_TYPED_FIELDS):
                tensor.ClearField(field)
    return external


_TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def _raw_bytes(tensor: TensorProto) -> int | None:
    """Return the bytes that a constant's shape asks for; None for types of less than a byte."""
    if tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return None
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, TypeError, ValueError):
        return None
    is_packed = "int4" in str(dtype) or "int2" in str(dtype) or "float4" in str(dtype)
    return None if is_packed else math.prod(tensor.dims) * int(dtype.itemsize)


def _check_external(file: Path, tensor: TensorProto) -> tuple[str, int]:
    """Return name and size of a constant's file, which must be a plain file inside the model's folder.

    ONNX Runtime follows what stands there: a model from afar could map any file of the device into its outputs.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    place = f"{file}: external data {location!r} of constant {tensor.name!r}"
    path = PurePosixPath(location.replace("\\", "/"))
    if not location or path.is_absolute() or ".." in path.parts or "\0" in location:
        raise ConfigError(f"{place}: must be a file in the model's own folder")
    target = file.parent
    for part in path.parts:
        target /= part
        if target.is_symlink():
            raise ConfigError(f"{place}: is a symbolic link: put the file itself there")
    if location != path.name:
        beside = f"{file.name}.data"
        raise ConfigError(
            f"{place}: must lie beside the network: onnx.save(onnx.load({file.name!r}), {file.name!r}, "
            f"save_as_external_data=True, location={beside!r}) in Python, in the network's folder, puts it there"
        )
    wanted = _raw_bytes(tensor)
    try:
        size = target.stat().st_size if target.is_file() else None
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", "0")) or wanted or 0
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place}: cannot be used: {error}") from error
    if size is None:
        raise ConfigError(f"{place}: is not there")
    if offset < 0:
        raise ConfigError(f"{place}: begins at byte {offset}, which no file has")
    if length < 0 or wanted not in (None, length):
        raise ConfigError(f"{place}: has {length} bytes where the shape {list(tensor.dims)} asks for {wanted}")
    if offset + length > size:
        raise ConfigError(f"{place}: ends at byte {offset + length}, the file has {size}: it is truncated")
    return location, size


def _all_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    waiting: list[Any] = [*proto.functions, proto.graph]
    while waiting:
        body = waiting.pop()
        if isinstance(body, GraphProto):
            yield from body.initializer
            for sparse in body.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in body.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
            waiting += subgraphs(node)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the bodies of If, Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _port(value: Any) -> Port:
    if not value.type.HasField("tensor_type"):
        return Port(value.name, "not a tensor", None)
    tensor = value.type.tensor_type
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, TypeError, ValueError):
        dtype = f"type {tensor.elem_type}"
    if tensor.elem_type == TensorProto.STRING:
        dtype = "string"
    if not tensor.HasField("shape"):
        return Port(value.name, dtype, None)
    return Port(value.name, dtype, tuple(_dimension(dim) for dim in tensor.shape.dim))


def _dimension(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        # Paddle writes -1 for a batch of any size, and ONNX Runtime takes it so.
        return int(dim.dim_value) if dim.dim_value >= 0 else str(dim.dim_value)
    return str(dim.dim_param) if dim.HasField("dim_param") and dim.dim_param else None
