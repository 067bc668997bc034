"""The ONNX Runtime session: threads, validation, abort."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from agent.engine.session import OrtEngine
from agent.errors import ConfigError, InferenceAbortedError, PermanentError
from tests.paths import MODELS, REPOSITORY
from tests.unit.modeltools.networks import network, saved


def engine(name: str) -> OrtEngine:
    """Open a fixture on one thread."""
    return OrtEngine(MODELS / name / "model.onnx", threads=1, sha256=None)


def pixels(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return an input for the fixtures."""
    return np.full(shape, 100, np.uint8)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), r"model input is images uint8\[1,32,32,3\], got float32"),
        (np.zeros((1, 3, 32, 32), np.uint8), "got uint8"),
        (np.zeros((1, 32, 32), np.uint8), "got uint8"),
        (np.zeros((0, 32, 32, 3), np.uint8), "got uint8"),
    ],
)
def test_a_wrong_input_is_refused_before_the_kernels(tensor: np.ndarray, said: str) -> None:
    """dtype, axes, rank and emptiness, each named beside what was wanted; the session stays usable."""
    session = engine("tiny")
    with pytest.raises(PermanentError, match=said):
        session.run({"images": tensor}, session.new_abort())
    assert session.run({"images": pixels((1, 32, 32, 3))}, session.new_abort())


def test_big_endian_and_non_finite_inputs_are_refused() -> None:
    """ORT reads a big-endian array as little-endian without a word, and spreads NaN through the model."""
    session = engine("letterbox")
    good = np.zeros((1, 3, 64, 64), np.float32)
    with pytest.raises(PermanentError, match="got >f4"):
        session.run({"images": good.astype(">f4")}, session.new_abort())
    for value in (np.nan, np.inf):
        bad = good.copy()
        bad[0, 0, 0, 0] = value
        with pytest.raises(PermanentError, match="NaN or infinity"):
            session.run({"images": bad}, session.new_abort())


def test_wrong_names_are_refused() -> None:
    """A missing or misspelt input is named."""
    session = engine("tiny")
    with pytest.raises(PermanentError, match=r"model inputs are \['images'\], got \['image'\]"):
        session.run({"image": pixels((1, 32, 32, 3))}, session.new_abort())


def test_a_running_inference_is_aborted_and_the_session_stays_bit_identical() -> None:
    """Termination is honoured between operators; the next run gives the same bits."""
    session = engine("slow")
    inputs = {"images": pixels((1, 3, 160, 160))}
    before = session.run(inputs, session.new_abort())
    for delay_s in (0.005, 0.02, 0.05):
        abort = session.new_abort()
        timer = threading.Timer(delay_s, abort.set)
        timer.start()
        with pytest.raises(InferenceAbortedError):
            session.run(inputs, abort)
        timer.join()
    after = session.run(inputs, session.new_abort())
    np.testing.assert_array_equal(before[0], after[0])


def test_an_abort_before_the_run_counts() -> None:
    """The deadline may pass during preprocessing."""
    session = engine("slow")
    abort = session.new_abort()
    abort.set()
    with pytest.raises(InferenceAbortedError):
        session.run({"images": pixels((1, 3, 160, 160))}, abort)


def test_symbolic_dimensions_take_any_size() -> None:
    """Free dimensions are not compared."""
    session = engine("dynamic")
    for side in (32, 48):
        assert session.run({"images": np.zeros((1, 3, side, side), np.float32)}, session.new_abort())


def test_an_input_with_a_dimension_of_zero_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime loads it, and then refuses whatever it is given."""
    relu = make_node("Relu", ["x"], ["y"])
    shape = [1, 0, 3, None]
    model = network([relu], [("y", TensorProto.FLOAT, shape)], inputs=[("x", TensorProto.FLOAT, shape)])
    file = saved(model, tmp_path / "m.onnx")
    with pytest.raises(ConfigError) as caught:
        OrtEngine(file, threads=1, sha256=None)
    assert str(caught.value) == f"{file}: input x is float32[1, 0, 3, ?]: a dimension of 0 holds nothing"


@pytest.mark.parametrize("size", ["batch", None, -1])
def test_a_dimension_without_a_number_is_open(tmp_path: Path, size: str | int | None) -> None:
    """By name, by nothing, and by Paddle's -1."""
    relu, shape = make_node("Relu", ["x"], ["y"]), [size, 3]
    model = network([relu], [("y", TensorProto.FLOAT, shape)], inputs=[("x", TensorProto.FLOAT, shape)])
    session = OrtEngine(saved(model, tmp_path / "m.onnx"), threads=1, sha256=None)
    assert [spec.shape for spec in (*session.inputs, *session.outputs)] == [(None, 3), (None, 3)]
    assert session.run({"x": np.zeros((2, 3), np.float32)}, session.new_abort())


def test_an_output_may_be_empty(tmp_path: Path) -> None:
    """Only what must be given has to hold something."""
    model = network(
        [make_node("Slice", ["x", "start", "start", "axis"], ["none"]), make_node("Relu", ["x"], ["y"])],
        [("none", TensorProto.FLOAT, [1, 0]), ("y", TensorProto.FLOAT, [1, 3])],
        inputs=[("x", TensorProto.FLOAT, [1, 3])],
        weights={"start": np.array([0]), "axis": np.array([1])},
    )
    session = OrtEngine(saved(model, tmp_path / "m.onnx"), threads=1, sha256=None)
    none, _ = session.run({"x": np.zeros((1, 3), np.float32)}, session.new_abort())
    assert none.shape == (1, 0)


def test_inference_threads_stay_inside_the_budget_and_do_not_spin() -> None:
    """Two threads asked for are one more than the caller's, and waiting ones sleep."""
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    session = OrtEngine(MODELS / "slow" / "model.onnx", threads=2, sha256=None)
    session.run({"images": pixels((1, 3, 160, 160))}, session.new_abort())
    assert len(list(tasks.iterdir())) - before <= 1
    assert session._session is not None
    options = session._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_telemetry_is_off_before_the_first_import() -> None:
    """The variable stands when onnxruntime is imported, whoever imports the engine."""
    code = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
import agent.engine.session
"""
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout.split() == ["1"]


def test_a_frame_that_would_grow_the_arena_past_its_room_is_refused_by_its_size() -> None:
    """A network with open dimensions keeps for good what its largest frame needed."""
    session = OrtEngine(MODELS / "ladder/model.onnx", threads=1, sha256=None, input_bytes_max=3 * 160 * 160)
    session.run({"images": pixels((1, 3, 160, 160))}, session.new_abort())
    with pytest.raises(PermanentError, match=r"images \[1, 3, 320, 320\] has 307200 bytes.*leaves room for 76800"):
        session.run({"images": pixels((1, 3, 320, 320))}, session.new_abort())
    assert session.run({"images": pixels((1, 3, 80, 80))}, session.new_abort())


def test_a_released_network_is_loaded_again_by_the_next_run() -> None:
    """The same results, to the bit."""
    session = engine("ladder")
    picture = {"images": pixels((1, 3, 160, 160))}
    before = session.run(picture, session.new_abort())
    session.release()
    assert not session.is_loaded
    after = session.run(picture, session.new_abort())
    assert session.is_loaded
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_what_was_replaced_while_it_was_released_is_not_loaded(tmp_path: Path) -> None:
    """That frame fails with the reason; the file that was verified serves again."""
    file = tmp_path / "model.onnx"
    content = (MODELS / "ladder/model.onnx").read_bytes()
    file.write_bytes(content)
    session = OrtEngine(file, threads=1, sha256=None)
    session.release()
    file.write_bytes((MODELS / "tiny/model.onnx").read_bytes())
    picture = {"images": pixels((1, 3, 160, 160))}
    with pytest.raises(PermanentError, match=r"cannot be loaded again: .*was replaced"):
        session.run(picture, session.new_abort())
    file.write_bytes(content)
    assert session.run(picture, session.new_abort())


ARENA = """
import sys
from pathlib import Path
import numpy as np
from agent.engine.session import OrtEngine, SessionSetup, share_arena
from agent.errors import PermanentError

share_arena(64 << 20)
file = Path("tests/assets/models/ladder/model.onnx")
engine = OrtEngine(file, sha256=None, setup=SessionSetup(uses_shared_arena=True))

def run(side):
    return engine.run({"images": np.full((1, 3, side, side), 100, np.uint8)}, engine.new_abort())

def data_mb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) >> 10

before = run(160)
try:
    run(1600)
except PermanentError as error:
    print("failed" if "emory" in str(error) else error)
print(all(np.array_equal(one, other) for one, other in zip(before, run(160))))
run(320)
grown = data_mb()
engine.shrink()
run(80)
print(data_mb() < grown)
"""


SUCCESSOR = """
import gc
from pathlib import Path
import numpy as np
from agent.engine.memory import MIB, resident_bytes
from agent.engine.process import give_back
from agent.engine.session import OrtEngine, SessionSetup, share_arena
from agent.errors import PermanentError

file = Path("tests/assets/models/ladder/model.onnx")

def make(arena_mb):
    share_arena(arena_mb << 20)
    return OrtEngine(file, sha256=None, setup=SessionSetup(uses_shared_arena=True))

def run(engine, side):
    return engine.run({"images": np.full((1, 3, side, side), 100, np.uint8)}, engine.new_abort())

old = make(64)
before = [output.copy() for output in run(old, 320)]  # What a run returns lies in the arena.
new = make(1)
try:
    run(new, 320)
except PermanentError as error:
    print("failed" if "emory" in str(error) else error)
print(all(np.array_equal(one, other) for one, other in zip(before, run(old, 320))))
new = make(64)
print(all(np.array_equal(one, other) for one, other in zip(before, run(new, 320))))
give_back()
with_old = resident_bytes()
del old
gc.collect()
give_back()
print(resident_bytes() < with_old - MIB)
"""


def test_an_arena_holds_for_the_sessions_that_were_made_after_it() -> None:
    """Those before it keep theirs, which goes with the last of them."""
    done = subprocess.run(
        [sys.executable, "-c", SUCCESSOR], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout.split() == ["failed", "True", "True", "True"]


def test_the_shared_arena_is_capped_and_shrinks() -> None:
    """A run that needs more than there is fails alone; what one large run left is given back on request."""
    done = subprocess.run([sys.executable, "-c", ARENA], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split() == ["failed", "True", "True"]
    assert done.stderr == ""
