"""Networks that are tried in a child process: what they cost, and what becomes of hostile ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from onnx import ModelProto, TensorProto
from onnx.helper import make_node

from agent.clock import NS_PER_S
from agent.engine.cache import NETWORK_NAME, WEIGHTS_NAME
from agent.engine.memory import MIB
from agent.engine.session import OrtEngine, SessionSetup
from agent.engine.trial import EXTRAS_BYTES_MAX, Cost, Extras, TensorShape, Trial, compile_network, ending, measure
from agent.engine.trial_child import LEANER_BYTES, NICE_BESIDE, RUNS, _is_leaner_with_pattern, _run
from agent.errors import ConfigError
from agent.provision import Provision
from agent.settings import Settings
from tests.fakes import ManualClock
from tests.paths import CLIP, COCO_SSD, MODELS, REPOSITORY
from tests.unit.modeltools.networks import PICTURE, Port, classifier, goes_round, network, round_again, saved

COCO = Trial(COCO_SSD / "model.onnx", SessionSetup(threads=1), (TensorShape("images", "uint8", (1, 300, 300, 3)),))


def trial(file: Path) -> Trial:
    """Try a network of 32 x 32 pixels."""
    return Trial(file, SessionSetup(threads=1), (TensorShape("images", "float32", (1, 3, 32, 32)),))


def mean_and(
    *nodes: object,
    inputs: Sequence[Port] = (PICTURE,),
    outputs: Sequence[Port] = (("y", TensorProto.FLOAT, None),),
    **weights: object,
) -> ModelProto:
    """Return a network that makes `m`, the mean of its input, and then goes on."""
    first = make_node("ReduceMean", ["images"], ["m"], keepdims=0)
    return network([first, *nodes], outputs, inputs=inputs, weights=weights)  # type: ignore[list-item]


def gigabytes() -> ModelProto:
    """202 bytes that ask for 28 GiB."""
    return mean_and(
        make_node("ConstantOfShape", ["shape"], ["zeros"]),
        make_node("Add", ["zeros", "m"], ["y"]),
        shape=np.array([2, 60_000, 60_000]),
    )


def endless() -> ModelProto:
    """A Loop whose condition is always true."""
    return mean_and(make_node("Loop", ["", "true", "m"], ["y"], body=round_again()), true=True)


def unknown_operator() -> ModelProto:
    """An operator that no library was named for."""
    return network(
        [make_node("Frobnicate", ["images"], ["y"], domain="my.ops")], [("y", 1, None)], domains={"my.ops": 1}
    )


def beside() -> ModelProto:
    """A network that makes a tensor of a shape that it is given."""
    nodes = [
        make_node("ConstantOfShape", ["shape"], ["zeros"]),
        make_node("Add", ["zeros", "m"], ["filled"]),
        make_node("ReduceSum", ["filled"], ["y"]),
    ]
    return mean_and(*nodes, inputs=[PICTURE, ("shape", TensorProto.INT64, [2])])


def test_a_network_is_tried_with_the_constants_that_it_will_be_given(tmp_path: Path) -> None:
    """With zeros for its scales this one fails, and is a good one."""
    resize = network(
        [make_node("Resize", ["images", "", "scales"], ["y"])],
        [("y", TensorProto.FLOAT, None)],
        inputs=[PICTURE, ("scales", TensorProto.FLOAT, [4])],
    )
    scaled = replace(trial(saved(resize, tmp_path / "m.onnx")), extras=Extras({"scales": (1, 1, 2.0, 2)}))
    assert measure(scaled, limit_bytes=256 * MIB).run_bytes > 0
    compile_network(scaled, tmp_path, limit_bytes=256 * MIB)


def test_what_constants_and_sizes_cost_is_measured(tmp_path: Path) -> None:
    """A network whose activations have the size that an input tells; `Add` cannot write over its input here."""
    one = trial(saved(beside(), tmp_path / "m.onnx"))
    told = replace(one, extras=Extras({"shape": (4096, 4096)}))
    (shape,) = one.inputs
    sized = replace(one, inputs=(replace(shape, sizes={"shape": (4096, 4096)}),))
    for known in (told, sized):
        assert measure(known, limit_bytes=512 * MIB).peak_bytes > 64 * MIB
    assert measure(one, limit_bytes=512 * MIB).peak_bytes < 32 * MIB


def test_a_loop_that_a_constant_makes_endless_ends_in_the_child(tmp_path: Path) -> None:
    """With a trip count of zero it would be over at once."""
    told = replace(trial(saved(goes_round(), tmp_path / "m.onnx")), extras=Extras({"trip": (1 << 60,)}))
    with pytest.raises(ConfigError, match="the network may hold an endless loop") as caught:
        measure(told, limit_bytes=256 * MIB, limit_s=4)
    assert caught.value.harm == "hangs"


def test_a_state_is_fed_back_while_a_network_is_tried(tmp_path: Path) -> None:
    """This one has 4 bytes, then 2 KiB, then 1 MiB, then more than there is."""
    grows = mean_and(
        make_node("Identity", ["m"], ["y"]),
        make_node("Tile", ["h", "times"], ["h_out"]),
        inputs=[PICTURE, ("h", TensorProto.FLOAT, ["n"])],
        outputs=[("y", TensorProto.FLOAT, None), ("h_out", TensorProto.FLOAT, ["more"])],
        times=np.array([512]),
    )
    one = trial(saved(grows, tmp_path / "m.onnx"))
    measure(one, limit_bytes=256 * MIB)
    with pytest.raises(ConfigError) as caught:
        measure(replace(one, extras=Extras(states={"h": "h_out"})), limit_bytes=256 * MIB)
    assert caught.value.harm == "too_big"


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_a_state_that_is_no_number_is_forgotten_as_in_the_agent(tmp_path: Path, fault: float) -> None:
    """It is no fault of the network that the trial would have to tell."""
    breaks = mean_and(
        make_node("Identity", ["m"], ["y"]),
        make_node("Add", ["h", "fault"], ["h_out"]),
        inputs=[PICTURE, ("h", TensorProto.FLOAT, [2])],
        outputs=[("y", TensorProto.FLOAT, None), ("h_out", TensorProto.FLOAT, [2])],
        fault=np.float32(fault),
    )
    one = trial(saved(breaks, tmp_path / "m.onnx"))
    measure(replace(one, extras=Extras(states={"h": "h_out"})), limit_bytes=256 * MIB)


def test_constants_that_do_not_fit_are_left_to_the_agent(tmp_path: Path) -> None:
    """It names the line of the manifest; the child goes on with zeros."""
    one = trial(saved(beside(), tmp_path / "m.onnx"))
    for values in ((1, 2, 3), ("text", "text"), (0.5, 0.5), (1 << 70, 1)):
        measure(replace(one, extras=Extras({"shape": values})), limit_bytes=256 * MIB)


def test_constants_beyond_what_a_manifest_holds_are_refused(tmp_path: Path) -> None:
    """What the child is given is bounded."""
    one = trial(saved(beside(), tmp_path / "m.onnx"))
    with pytest.raises(ConfigError, match=f"more than {EXTRAS_BYTES_MAX}"):
        measure(replace(one, extras=Extras({"shape": (1e15,) * (1 << 18)})), limit_bytes=256 * MIB)


def test_the_cost_of_the_default_model() -> None:
    """Weights of 5 MB and activations of some; the peak is no less than what stays."""
    cost = measure(COCO, limit_bytes=512 * MIB)
    assert 5 * MIB < cost.session_bytes < 60 * MIB
    assert 1 * MIB < cost.run_bytes < 60 * MIB
    assert cost.peak_bytes >= cost.steady_bytes - MIB
    assert cost.input_bytes == 300 * 300 * 3


@pytest.mark.parametrize(
    ("make", "said", "harm"),
    [
        (gigabytes, "it asks for more than the 256 MiB that it may have here: use a smaller network", "too_big"),
        (endless, "did not end within 2 s: the network may hold an endless loop", "hangs"),
        (unknown_operator, "name their library in engine.custom_ops", None),
    ],
)
def test_a_hostile_network_is_one_clear_error(
    tmp_path: Path, make: Callable[[], ModelProto], said: str, harm: str | None
) -> None:
    """Whatever it does, it does it to the child; what it did is a word for programs."""
    file = saved(make(), tmp_path / "model.onnx")
    with pytest.raises(ConfigError) as caught:
        measure(trial(file), limit_bytes=256 * MIB, limit_s=2 if make is endless else 60)
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)
    assert caught.value.harm == harm


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is no network", (COCO_SSD / "model.onnx").read_bytes()[:9999]]
)
def test_what_is_no_network_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, something else, truncated."""
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{file}: ONNX Runtime .* refuses it"):
        measure(trial(file), limit_bytes=256 * MIB)


def test_a_crash_is_told_as_such(tmp_path: Path) -> None:
    """A child that ends without a reply, as after SIGSEGV: the file is named, and how it ended."""
    file = saved(classifier(), tmp_path / "model.onnx")
    broken = Trial(file, SessionSetup(threads=1), (TensorShape("images", "no type", (1, 3, 32, 32)),))
    with pytest.raises(ConfigError, match=r"the process that tried it ended with 1"):
        measure(broken, limit_bytes=256 * MIB)


@pytest.mark.parametrize(
    ("code", "why", "harm"),
    [
        (1, "ended with 1", "crashes"),
        (-signal.SIGSEGV, "crashed (SIGSEGV)", "crashes"),
        (-signal.SIGABRT, "crashed (SIGABRT)", "crashes"),
        (-signal.SIGXCPU, "had no CPU time left (SIGXCPU)", "hangs"),
        (-signal.SIGKILL, "was killed (SIGKILL), as the kernel does for want of memory", "too_big"),
        (-(signal.SIGRTMIN + 1), f"crashed (signal {signal.SIGRTMIN + 1})", "crashes"),
    ],
)
def test_an_end_is_told_by_its_signal(code: int, why: str, harm: str) -> None:
    """For people by its name, for programs by what it says of the network."""
    assert ending(code) == (why, harm)


def test_the_compiled_form_gives_the_same_bits(tmp_path: Path) -> None:
    """The default model, optimised, with its weights outside, where they are mapped."""
    compile_network(COCO, tmp_path, limit_bytes=512 * MIB)
    assert (tmp_path / WEIGHTS_NAME).stat().st_size > 4 * MIB
    plain = OrtEngine(COCO.file, threads=1, sha256=None)
    compiled = OrtEngine(COCO.file, threads=1, sha256=None, compiled=tmp_path / NETWORK_NAME)
    picture = {"images": np.random.default_rng(1).integers(0, 256, (1, 300, 300, 3), np.uint8)}
    outputs = [engine.run(picture, engine.new_abort()) for engine in (plain, compiled)]
    assert all(np.array_equal(one, other) for one, other in zip(*outputs, strict=True))


def test_a_compiled_form_is_measured_in_the_agents_arena(tmp_path: Path) -> None:
    """Of the size that it may have; measured again, it is found to be the same."""
    shared = replace(COCO, setup=SessionSetup(threads=1, uses_shared_arena=True))
    cost = compile_network(shared, tmp_path, limit_bytes=512 * MIB)
    compiled = replace(shared, file=tmp_path / NETWORK_NAME, is_compiled=True)
    again = measure(compiled, limit_bytes=512 * MIB)
    assert again.has_memory_pattern is cost.has_memory_pattern
    assert again.run_bytes == pytest.approx(cost.run_bytes, abs=2 * MIB)


def test_the_shape_that_takes_the_most_is_what_counts() -> None:
    """Whatever comes after it: the smaller one's runs give back what the larger one took."""
    sizes = (320, 80)
    shapes = tuple(TensorShape("images", "uint8", (1, 3, size, size)) for size in sizes)
    ladder = Trial(MODELS / "ladder/model.onnx", SessionSetup(threads=1, uses_shared_arena=True), shapes)
    both, large = (measure(one, limit_bytes=512 * MIB) for one in (ladder, replace(ladder, inputs=shapes[:1])))
    assert both.input_bytes == large.input_bytes == 3 * 320 * 320
    assert both.run_bytes == pytest.approx(large.run_bytes, rel=0.2)


@pytest.mark.parametrize(("run_s", "runs"), [(0.3, RUNS), (0.9, RUNS), (1.1, 1)])
def test_a_slow_network_runs_once_and_never_ends_with_nothing_held(
    monkeypatch: pytest.MonkeyPatch, run_s: float, runs: int
) -> None:
    """The run that gives activations back is followed by one that takes them again."""
    clock = ManualClock()
    monkeypatch.setattr("agent.engine.trial_child.SystemClock", lambda: clock)
    told: list[str] = []

    class Engine:
        def run(self, _inputs: object, _abort: object) -> None:
            clock.ns += int(run_s * NS_PER_S)
            told.append("run")

        def new_abort(self) -> None:
            """Give none."""

        def shrink(self) -> None:
            told.append("shrink")

    assert _run(cast(OrtEngine, Engine()), {}, {}) is (runs > 1)
    assert told == ["run", *(["shrink"] + ["run"] * (RUNS - 1) if runs > 1 else [])]


@pytest.mark.parametrize(
    ("held", "has_pattern"),
    [
        ((20 * MIB, 16 * MIB), False),
        ((16 * MIB, 20 * MIB), True),
        ((20 * MIB, 20 * MIB - LEANER_BYTES), True),  # Such figures vary by as much.
        ((None, 16 * MIB), True),  # Too slow, or it failed: that is told when it is measured.
        ((20 * MIB, -signal.SIGSEGV), True),  # It crashed in a way in which it is then not run.
        ((20 * MIB, 0), True),  # No process more could be made.
        ((20 * MIB, None), True),
    ],
)
def test_the_way_that_holds_less_memory_is_taken(
    monkeypatch: pytest.MonkeyPatch, held: tuple[int | None, int | None], has_pattern: bool
) -> None:
    """Each of the two in a process of its own."""
    by_pattern = dict(zip((True, False), held, strict=True))

    def in_fork(_body: object, job: dict[str, Any]) -> dict[str, Any]:
        found = by_pattern[job["setup"]["has_memory_pattern"]]
        if found is None:
            return {"error": "no"}
        if found == 0:
            raise BlockingIOError
        return {"ended_by": -found} if found < 0 else {"held_bytes": found}

    monkeypatch.setattr("agent.engine.trial_child._in_fork", in_fork)
    assert _is_leaner_with_pattern({"setup": asdict(SessionSetup())}) is has_pattern


def test_the_end_of_a_forked_process_is_told_by_its_signal() -> None:
    """Whoever compiles passes it on; whoever only compares two ways goes on with the other one."""
    code = (
        "import json, os, signal; from agent.engine.trial_child import _in_fork\n"
        "print(json.dumps([_in_fork(lambda job: job, {'told': 5}),"
        " _in_fork(lambda _: os.kill(os.getpid(), signal.SIGKILL), {})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert json.loads(done.stdout) == [{"told": 5}, {"ended_by": signal.SIGKILL}]


def test_a_form_that_cannot_be_written_is_no_fault_of_the_network(tmp_path: Path) -> None:
    """A disk that is full or absent: the caller goes on without."""
    with pytest.raises(OSError, match="its compiled form"):
        compile_network(COCO, tmp_path / "absent", limit_bytes=512 * MIB)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_noticed_though_the_runtime_takes_no_notice(tmp_path: Path) -> None:
    """ONNX Runtime reports success; what it wrote is loaded and compared before it is believed."""
    (tmp_path / WEIGHTS_NAME).symlink_to("/dev/full")
    with pytest.raises(OSError, match="its compiled form"):
        compile_network(COCO, tmp_path, limit_bytes=512 * MIB)


def test_beside_a_serving_model_the_child_stays_on_one_cpu_and_lets_others_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked where and how it runs by its own limits, which are set before anything is loaded."""
    job = {"is_beside": True, "file_bytes_max": 1 << 30, "limit_bytes": 1 << 30}
    code = (
        "import os, json; from agent.engine.trial_child import _limit; _limit(json.loads(os.environ['JOB']));"
        "print(os.nice(0), len(os.sched_getaffinity(0)))"
    )
    for is_beside, wanted in ((True, f"{NICE_BESIDE} 1"), (False, f"0 {len(os.sched_getaffinity(0))}")):
        monkeypatch.setenv("JOB", json.dumps({**job, "is_beside": is_beside}))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
        )
        assert done.stdout.strip() == wanted


def test_what_is_tried_beside_a_serving_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the start, when there is nobody to disturb."""
    seen: list[bool] = []

    def run_child(_module: str, job: dict[str, Any], _limit_s: float) -> tuple[dict[str, Any], int]:
        seen.append(job["is_beside"])
        return asdict(Cost(1, 1, 2, 1)), 0

    monkeypatch.setattr("agent.engine.trial.run_child", run_child)
    first = Provision(tiny())
    first.survey(tiny().models[0])
    first.fit()
    assert seen == [False]
    workshop = first.follow(tiny()).workshop
    workshop._costs.clear()
    second = first.follow(tiny())
    second.survey(tiny().models[0])
    assert seen == [False, True]


def tiny() -> Settings:
    """Return settings with one small model."""
    return Settings.model_validate(
        {
            "models": [{"name": "seen", "path": MODELS / "tiny"}],
            "streams": [{"name": "door", "source": str(CLIP), "model": "seen"}],
        }
    )
