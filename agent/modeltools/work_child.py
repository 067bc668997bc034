"""The child's side of `work`: infers shapes, counts what they tell, and writes it to standard output, a line a try.

python -m agent.modeltools.work_child

The package onnx infers them in C++, which a network can bring to take gigabytes, never to end, or to crash.
"""

from __future__ import annotations

import base64
import json
import resource
import sys

from onnx import ModelProto

from agent.engine.memory import MIB, data_bytes, lower_limit
from agent.modeltools.work import count_layers, infer

DATA_BYTES_MAX = 1024 * MIB
"""A network arrives here without its weights: those of 100 MB take 20 MiB."""

CPU_S_MAX = 8
"""Networks of 5,000 nodes take a second."""


def main() -> None:
    """Do one job: first without the numbers that shapes are made from, then with them where that may tell more."""
    job = json.loads(sys.stdin.buffer.read())
    lower_limit(resource.RLIMIT_CORE, 0)
    lower_limit(resource.RLIMIT_CPU, CPU_S_MAX)
    lower_limit(resource.RLIMIT_DATA, data_bytes() + DATA_BYTES_MAX)
    proto = ModelProto.FromString(base64.b64decode(job["model"]))
    for is_deep in (False, True):
        shapes = infer(proto, job["sizes"], is_deep=is_deep)
        if shapes is None:
            continue
        macs, unknown = count_layers(proto, shapes)
        outputs = {output.name: shapes.get(output.name) for output in proto.graph.output}
        sys.stdout.write(json.dumps({"macs": macs, "unknown": unknown, "outputs": outputs}) + "\n")
        sys.stdout.flush()
        if not unknown and None not in outputs.values():
            break


if __name__ == "__main__":
    main()
