"""Whether the disk has room: ONNX Runtime writes files without looking whether it can."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_room(folder: Path, model_bytes: int) -> None:
    """Raise OSError when the disk of a folder, or the one of temporary files, is full.

    What ONNX Runtime could not write whole it fails to read again, with "wire format was corrupt".

    Args:
        folder: that it writes to.
        model_bytes: of the network that it works on.
    """
    for place in (folder, Path(tempfile.gettempdir())):
        with tempfile.NamedTemporaryFile(dir=place) as probe:
            try:
                probe.write(bytes(2 * model_bytes + (1 << 16)))
                probe.flush()
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(place)) from error
