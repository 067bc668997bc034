"""A frame becomes a model's input, vectorised, in the order that was measured to be the fastest."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from agent.buffers import BUFFERS
from agent.errors import PermanentError
from agent.frame import PIXELS_MAX, Content, Pixels, Tensor
from agent.interfaces import Placement, Preprocess
from agent.models.extra_inputs import Extra, Stamp
from agent.models.manifest import InputSpec


def build_preprocess(spec: InputSpec, extras: Sequence[Extra] = (), stamp: Stamp | None = None) -> Preprocess:
    """Return the way from a frame to `spec`'s input and those beside it.

    For float32 NCHW it splits the channels and maps each through a table of 256 values: 0.8 ms for 640x640,
    where textbook numpy takes 21 and cv2.dnn.blobFromImage 2.4. The order of the colours costs nothing there: the
    planes are taken in turned order.
    """
    tables = None if spec.dtype == "uint8" else _tables(spec)

    def preprocess(pixels: Content, captured_at_ns: int = 0) -> tuple[dict[str, Tensor], Placement]:
        if pixels.ndim not in (2, 3) or pixels.size == 0 or pixels.dtype != np.uint8:
            raise PermanentError(f"frame is {pixels.dtype}{list(pixels.shape)}, wanted uint8[H,W,3] or uint8[H,W]")
        if pixels.ndim == 3 and pixels.shape[2] != 3:
            raise PermanentError(f"frame has {pixels.shape[2]} channels, wanted 3 (BGR) or a grey uint8[H,W]")
        if pixels.shape[0] * pixels.shape[1] > PIXELS_MAX:
            raise PermanentError(f"frame is {pixels.shape[1]}x{pixels.shape[0]}, more than {PIXELS_MAX} pixels")
        try:
            fitted, placement = _fit(pixels, spec)
            inputs = {spec.name: _to_tensor(fitted, spec, tables)}
        except (cv2.error, MemoryError) as error:
            raise PermanentError(f"preprocess: {' '.join(str(error).split())[:200]}") from error
        for extra in extras:
            inputs[extra.spec.name] = extra.tensor(placement)
        if stamp is not None:
            inputs |= stamp(captured_at_ns)
        return inputs, placement

    return preprocess


def _fit(pixels: Pixels, spec: InputSpec) -> tuple[Pixels, Placement]:
    height, width = pixels.shape[:2]
    if spec.resize == "stretch":
        new_width, new_height, left, top = spec.width, spec.height, 0, 0
    else:
        ratio = min(spec.width / width, spec.height / height)
        new_width = max(1, min(spec.width, round(width * ratio)))
        new_height = max(1, min(spec.height, round(height * ratio)))
        left, top = (spec.width - new_width) // 2, (spec.height - new_height) // 2
        if spec.align == "start":
            left = top = 0
    placement = Placement(
        scale_x=new_width / width,
        scale_y=new_height / height,
        offset_x=left,
        offset_y=top,
        input_width=spec.width,
        input_height=spec.height,
        source_width=width,
        source_height=height,
    )
    if (new_width, new_height) != (width, height):
        # Linear, not area: 1.5 ms against 8.4 from 1080p to 640, and the models were trained with it.
        resized = BUFFERS.take((new_height, new_width, *pixels.shape[2:]), np.uint8)
        pixels = cv2.resize(pixels, (new_width, new_height), resized, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    if (new_width, new_height) != (spec.width, spec.height):
        right, bottom = spec.width - new_width - left, spec.height - new_height - top
        grey = (spec.pad,) * 3
        padded = BUFFERS.take((spec.height, spec.width, *pixels.shape[2:]), np.uint8)
        pixels = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, padded, grey)  # type: ignore[assignment]
    return pixels, placement


def _recolor(pixels: Pixels, color: str) -> Pixels:
    is_grey = pixels.ndim == 2
    code: int | None = None
    if color == "GRAY":
        code = None if is_grey else cv2.COLOR_BGR2GRAY
    elif is_grey:
        code = cv2.COLOR_GRAY2RGB
    elif color == "RGB":
        code = cv2.COLOR_BGR2RGB
    if code is None:
        return pixels
    shape = pixels.shape[:2] if color == "GRAY" else (*pixels.shape[:2], 3)
    return cv2.cvtColor(pixels, code, BUFFERS.take(shape, np.uint8))  # type: ignore[return-value]


def _tables(spec: InputSpec) -> Tensor:
    """Return [channels, 256] in the model's dtype: each channel's value for each pixel level."""
    channels = 1 if spec.color == "GRAY" else 3
    levels = np.arange(256, dtype=np.float64) * spec.scale
    mean = np.broadcast_to(np.asarray(spec.mean), (channels,))[:, None]
    std = np.broadcast_to(np.asarray(spec.std), (channels,))[:, None]
    values = (levels - mean) / std
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "i":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), float(limits.min), float(limits.max))
    elif dtype.kind == "b":
        values = values >= 0.5
    return np.ascontiguousarray(values.astype(dtype))


_CARRIERS = {1: np.uint8, 2: np.int16, 4: np.float32, 8: np.float64}
"""What OpenCV looks a table up as: it copies elements of that many bytes and does not ask what they mean."""


def _to_tensor(pixels: Pixels, spec: InputSpec, tables: Tensor | None) -> Tensor:
    """Return [1, H, W, C] or [1, C, H, W] in the model's dtype."""
    if spec.layout == "NHWC":
        ordered = _recolor(pixels, spec.color).reshape(spec.height, spec.width, -1)
        if tables is None:
            return ordered[None]
        carrier = tables.view(_CARRIERS[tables.itemsize]).T.reshape(1, 256, -1)
        tensor = BUFFERS.take((1, *ordered.shape), tables.dtype)
        cv2.LUT(ordered, np.ascontiguousarray(carrier), tensor[0].view(carrier.dtype))
        return tensor
    planes = _planes(pixels, spec.color)
    if tables is None:
        return np.stack(planes, out=BUFFERS.take((len(planes), spec.height, spec.width), np.uint8))[None]
    tensor = BUFFERS.take((len(tables), spec.height, spec.width), tables.dtype)
    carriers = tables.view(_CARRIERS[tables.itemsize]), tensor.view(_CARRIERS[tables.itemsize])
    for plane, table, out in zip(planes, *carriers, strict=True):
        cv2.LUT(plane, table, dst=out)
    return tensor[None]


def _planes(pixels: Pixels, color: str) -> list[Pixels]:
    """Return the channels in the model's order, uint8 [H, W] each."""
    if color == "GRAY":
        return [_recolor(pixels, color)]
    if pixels.ndim == 2:
        return [pixels] * 3
    planes = list(cv2.split(pixels, [BUFFERS.take(pixels.shape[:2], np.uint8) for _ in range(3)]))
    return planes[::-1] if color == "RGB" else planes  # type: ignore[return-value]
