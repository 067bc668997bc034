"""The inference loop: one outcome for every frame, whatever the model does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agent.clock import NEVER_NS, NS_PER_MS, NS_PER_S, SystemClock
from agent.core.outbox import Message
from agent.core.policy import Overflow, StreamPolicy
from agent.errors import PermanentError
from agent.frame import Capture, Content, Frame, Tensor
from agent.interfaces import LoadedModel, Placement, TensorSpec
from agent.loops.abort import AbortTimer
from agent.loops.inbox import NO_PIXELS, Inbox
from agent.loops.inference import InferenceLoop
from agent.models.state import StateSpec, StateStore
from agent.result import Payload
from agent.settings.steps import StepsSettings
from tests.broker import wait_until
from tests.fakes import PICTURE, ManualClock, OneBox, ScriptedAbort, ScriptedEngine, fake_model, wait_for_abort

LIVE = StreamPolicy(250 * NS_PER_MS, 8, Overflow.DROP_OLDEST, session="fake")


class Bench:
    """An inference loop between an inbox and a list, with a real abort timer."""

    def __init__(
        self,
        body: Callable[[ScriptedAbort], None] = lambda abort: None,
        *,
        policy: StreamPolicy = LIVE,
        clock: Any = None,
        decoder: Any = None,
        keep_warm_ns: int = NEVER_NS,
    ) -> None:
        self.clock = clock or SystemClock()
        self.policy = policy
        self.inbox = Inbox({"s": policy}, self.clock)
        self.timer = AbortTimer(self.clock)
        self.emitted: list[Message] = []
        self.engine = ScriptedEngine(body)
        self.keep_warm_ns = keep_warm_ns
        self.loop = self.with_engines(self.engine, decoder=decoder)

    def with_engines(self, *engines: ScriptedEngine, decoder: Any = None) -> InferenceLoop:
        """Replace the loop by one whose model has these variants."""
        self.loop = InferenceLoop(
            model=fake_model(*engines, decoder=decoder),
            inbox=self.inbox,
            timer=self.timer,
            emit=self.emitted.append,
            show=lambda frame, payload: None,
            clock=self.clock,
            keep_warm_ns=self.keep_warm_ns,
        )
        return self.loop

    def capture(self, pixels: Any = PICTURE, age_ns: int = 0) -> None:
        """Offer one frame."""
        self.inbox.offer("s", Capture(self.clock.now_ns() - age_ns, pixels))

    def run(self) -> dict[str, int]:
        """Serve what waits, to the end, and return the ledger without its zeros."""
        thread = threading.Thread(target=self.timer.run)
        thread.start()
        self.inbox.end_stream("s")
        self.loop.run()
        self.timer.stop()
        thread.join()
        assert self.inbox.self_check() == {"s": 0}
        ledger = self.inbox.snapshot()["s"]["ledger"]
        assert ledger["captured"] == sum(ledger.values()) - ledger["captured"]
        return {name: count for name, count in ledger.items() if count}


def test_a_frame_in_time_is_published() -> None:
    """Its message carries what the receiver needs, and its deadline."""
    bench = Bench()
    bench.capture()
    assert bench.run() == {"captured": 1, "published": 1}
    (message,) = bench.emitted
    assert message.topic == "results/s"
    assert message.deadline_ns - message.captured_at_ns == 250 * NS_PER_MS
    assert message.body["frame"] == 1
    assert message.body["source"] == {"width": 8, "height": 8}
    assert message.body["classes"][0]["label"] == "thing"


def test_a_run_is_aborted_at_its_deadline() -> None:
    """A model that would run for ever is stopped; nothing is published, the next frame is served."""
    bench = Bench(wait_for_abort, policy=StreamPolicy(300 * NS_PER_MS, session="fake"))
    bench.capture()
    assert bench.run() == {"captured": 1, "aborted": 1}
    assert bench.emitted == []
    assert bench.loop.overshoot.count == 1


def test_a_run_that_ignores_its_abort_is_late() -> None:
    """One giant operator raises nothing: the clock discards its result."""
    clock = ManualClock()

    def ignore(abort: ScriptedAbort) -> None:
        clock.ns += NS_PER_S

    bench = Bench(ignore, clock=clock)
    bench.capture()
    assert bench.run() == {"captured": 1, "late": 1}
    assert bench.loop.overshoot.max_ns == NS_PER_S - (250 - 2) * NS_PER_MS
    assert bench.emitted == []


def test_a_marking_stream_publishes_late_results_marked() -> None:
    """on_late = "mark": late, counted as late, and said so."""
    clock = ManualClock()

    def slow(abort: ScriptedAbort) -> None:
        clock.ns += NS_PER_S

    bench = Bench(slow, clock=clock, policy=StreamPolicy(NS_PER_MS * 10, late_is_published=True, session="fake"))
    bench.capture()
    assert bench.run() == {"captured": 1, "late": 1}
    (message,) = bench.emitted
    assert message.body["late"] is True


def test_an_expired_frame_is_not_run() -> None:
    """It was already too old when its turn came."""
    bench = Bench()
    bench.capture(age_ns=NS_PER_S)
    assert bench.run() == {"captured": 1, "expired": 1}
    assert bench.engine.runs == 0


@pytest.mark.parametrize("pixels", [NO_PIXELS, np.empty((0, 5, 3), np.uint8)])
def test_a_frame_of_zero_size_fails_alone(pixels: Any) -> None:
    """The frames around it are published; the stage is counted."""
    bench = Bench()
    for item in (PICTURE, pixels, PICTURE):
        bench.capture(item)
    assert bench.run() == {"captured": 3, "published": 2, "failed": 1}
    assert bench.inbox.snapshot()["s"]["failures"] == {"preprocess": 1}


def test_a_frame_size_that_changes_in_mid_stream_is_served() -> None:
    """Each result names the size that its boxes refer to."""
    bench = Bench()
    bench.capture(np.zeros((10, 20, 3), np.uint8))
    bench.capture(np.zeros((30, 40, 3), np.uint8))
    assert bench.run() == {"captured": 2, "published": 2}
    assert [m.body["source"] for m in bench.emitted] == [{"width": 20, "height": 10}, {"width": 40, "height": 30}]


def test_a_failing_model_and_decoder_are_counted_by_stage() -> None:
    """Inference and decoding errors end one frame each, with their stage."""

    def fail(abort: ScriptedAbort) -> None:
        raise PermanentError("kernel failed")

    bench = Bench(fail)
    bench.capture()
    assert bench.run() == {"captured": 1, "failed": 1}
    assert bench.inbox.snapshot()["s"]["failures"] == {"run": 1}
    bench = Bench(decoder=OneBox(PermanentError("NaN")))
    bench.capture()
    assert bench.run() == {"captured": 1, "failed": 1}
    assert bench.inbox.snapshot()["s"]["failures"] == {"decode": 1}


def test_memory_exhaustion_costs_one_frame() -> None:
    """A frame too large for the memory left is counted; the thread lives."""

    def exhaust(abort: ScriptedAbort) -> None:
        raise MemoryError

    bench = Bench(exhaust)
    bench.capture()
    bench.capture()
    assert bench.run() == {"captured": 2, "failed": 2}


def test_shutdown_in_mid_inference_ends_its_frame() -> None:
    """The drain time is over: the run is stopped, the frame is counted as shutdown."""
    started = threading.Event()

    def block(abort: ScriptedAbort) -> None:
        started.set()
        wait_for_abort(abort)

    bench = Bench(block, policy=StreamPolicy(60 * NS_PER_S, session="fake"))
    bench.capture()
    thread = threading.Thread(target=bench.loop.run)
    thread.start()
    assert started.wait(10)
    bench.inbox.stop()
    bench.loop.abort_for_shutdown()
    thread.join(10)
    assert not thread.is_alive()
    assert bench.inbox.snapshot()["s"]["ledger"]["shutdown"] == 1


def test_a_run_that_fails_frees_its_session() -> None:
    """What raised is not learnt as a service time, and the next frame runs."""
    outcomes = iter([PermanentError("kernel failed"), None])

    def fail_once(abort: ScriptedAbort) -> None:
        if (error := next(outcomes)) is not None:
            raise error

    bench = Bench(fail_once)
    bench.capture()
    bench.capture()
    assert bench.run() == {"captured": 2, "published": 1, "failed": 1}


def test_another_variant_serves_from_the_next_frame_on() -> None:
    """The governor asks, the inference thread switches between two frames; results name the variant."""
    bench = Bench()
    small = ScriptedEngine()

    def ask_for_small(abort: ScriptedAbort) -> None:
        loop.select(1)

    loop = bench.with_engines(ScriptedEngine(ask_for_small), small)
    bench.capture()
    bench.capture()
    assert bench.run() == {"captured": 2, "published": 2}
    assert [message.body["variant"] for message in bench.emitted] == ["full", "small"]
    assert small.runs == 1


@pytest.mark.parametrize(("keeps_all", "released"), [(False, [1, 0]), (True, [0, 0])], ids=["one", "all"])
def test_a_variant_that_is_left_goes_where_memory_does_not_hold_all(keeps_all: bool, released: list[int]) -> None:
    """Before the other one is loaded for its first frame, whose run gives back what both had of the arena."""
    bench = Bench()
    small = ScriptedEngine()
    heavy = ScriptedEngine(lambda _: loop.select(1))
    small.is_loaded = False
    loop = bench.with_engines(heavy, small)
    loop.swap(replace(loop.model, keeps_all=keeps_all), 0.0)
    bench.capture()
    bench.capture()
    assert bench.run() == {"captured": 2, "published": 2}
    assert [heavy.released, small.released] == released
    assert heavy.is_loaded is keeps_all
    assert small.shrunk == (0 if keeps_all else 1)


def test_an_idle_model_is_kept_warm_and_gives_way_to_a_frame() -> None:
    """After the idle time it runs on its warm-up input; a frame that comes meanwhile stops that run."""
    warm, ran = threading.Event(), []

    def body(abort: ScriptedAbort) -> None:
        ran.append("warm" if not warm.is_set() else "frame")
        if not warm.is_set():
            warm.set()
            wait_for_abort(abort)

    bench = Bench(body, keep_warm_ns=20 * NS_PER_MS)
    threads = [threading.Thread(target=bench.loop.run), threading.Thread(target=bench.timer.run)]
    for thread in threads:
        thread.start()
    assert warm.wait(10)
    bench.capture()
    bench.inbox.end_stream("s")
    threads[0].join(10)
    bench.timer.stop()
    threads[1].join(10)
    assert ran[:2] == ["warm", "frame"]
    assert bench.inbox.snapshot()["s"]["ledger"]["published"] == 1


def test_what_keeps_a_model_warm_goes_the_whole_way_of_a_frame() -> None:
    """Pages of the code before and behind the network are pushed out as well."""
    bench = Bench(keep_warm_ns=NS_PER_MS)
    (variant,) = fake_model(bench.engine).variants
    steps: list[str] = []

    def preprocess(content: Content, captured_at_ns: int = 0, /) -> tuple[dict[str, Tensor], Placement]:
        steps.append("preprocess")
        return variant.preprocess(content, captured_at_ns)

    class Decoder(OneBox):
        def decode(self, outputs: list[Tensor], placement: Placement) -> Payload:
            steps.append("decode")
            return super().decode(outputs, placement)

    watched = replace(variant, preprocess=preprocess, decoder=Decoder())
    bench.loop.swap(LoadedModel("fake", "1", "classification", (watched,)), 0.0)
    thread = threading.Thread(target=bench.loop.run)
    thread.start()
    wait_until(lambda: bench.loop.warm_runs > 0, "it was kept warm")
    bench.inbox.end_stream("s")
    thread.join(10)
    assert steps[:2] == ["preprocess", "decode"]


@pytest.mark.parametrize("differences", [[], ["detections[0].score: expected 0.9 within 0.02, got 0.1"]])
def test_a_self_test_runs_between_frames_and_judges_the_golden_sample(differences: list[str]) -> None:
    """A frame that waits goes first; an idle loop is woken; the figures come from one run in its own thread."""
    bench = Bench()
    (variant,) = fake_model(bench.engine).variants
    judged = replace(variant, judge=lambda outputs: differences)
    bench.loop.swap(LoadedModel("fake", "1", "classification", (judged,)), 0.0)
    told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    bench.capture()
    bench.loop.self_test(told.put)
    thread = threading.Thread(target=bench.loop.run, daemon=True)
    thread.start()
    figures = told.get(timeout=10)
    assert figures["passed"] == (not differences)
    assert (figures["variant"], figures["differences"]) == ("full", differences)
    assert bench.engine.runs == 2
    bench.loop.self_test(told.put)
    assert told.get(timeout=10)["passed"] == (not differences)
    assert bench.run() == {"captured": 1, "published": 1}
    thread.join(10)


def test_a_self_test_that_fails_is_told_and_costs_no_frame() -> None:
    """A model that raises on its golden sample."""

    def fail(abort: ScriptedAbort) -> None:
        raise PermanentError("no such kernel")

    bench = Bench(fail)
    told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    bench.loop.self_test(told.put)
    bench.loop._test(told.put)
    figures = told.get(timeout=10)
    assert not figures["passed"]
    assert "no such kernel" in figures["differences"][0]
    assert bench.run() == {}


NEWS = StepsSettings.model_validate({"changes": {"keep_alive_s": 1}, "presence": {"appear_s": 0}})


def test_a_result_that_says_nothing_new_is_unchanged() -> None:
    """It was in time and is not sent; every frame has its one outcome, and events go out beside the results."""
    bench = Bench(clock=ManualClock(), policy=replace(LIVE, steps=NEWS))
    for age_ms in (130, 120, 110):
        bench.capture(age_ns=age_ms * NS_PER_MS)
    assert bench.run() == {"captured": 3, "published": 1, "unchanged": 2}
    assert [message.topic for message in bench.emitted] == ["results/s", "events/object_appeared"]
    assert bench.emitted[1].body == {"event": "object_appeared", "frame": 1, "stream": "s", "label": "thing"}
    assert bench.inbox.misses() == {"fake": (0, 3)}
    assert set(bench.inbox.snapshot()["s"]["stage_ms"]) == {"preprocess", "run", "decode", "steps"}


def test_late_results_that_say_nothing_new_stay_late() -> None:
    """A frame has the outcome of its time; what is marked late is sent only as news too."""
    clock = ManualClock()

    def slow(abort: ScriptedAbort) -> None:
        clock.ns += NS_PER_S // 4

    policy = StreamPolicy(NS_PER_MS * 10, 8, Overflow.DROP_OLDEST, late_is_published=True, session="fake", steps=NEWS)
    bench = Bench(slow, clock=clock, policy=policy)
    bench.capture()
    bench.capture()
    assert bench.run() == {"captured": 2, "late": 2}
    assert [message.kind for message in bench.emitted] == ["result", "event"]


class Counting:
    """A model with a state that counts the frames that it remembers; frame N may fail, hang or give NaN."""

    def __init__(self, on_gap: str, *, fails: int = 0, hangs: int = 0, breaks: int = 0) -> None:
        spec = StateSpec.model_validate({"tensors": {"h": "h_out"}, "on_gap": on_gap})
        known = TensorSpec("h", np.dtype(np.float32), (1,))
        self.memory = StateStore(spec, [known], [replace(known, name="h_out")], "m")
        self.seen: list[float] = []
        """The state that each run was given."""
        self.providers, self.is_loaded = ("CPUExecutionProvider",), True
        self._fails, self.hangs, self._breaks = fails, hangs, breaks

    def new_abort(self) -> ScriptedAbort:
        return ScriptedAbort()

    def run(self, inputs: dict[str, Any], abort: ScriptedAbort) -> list[Any]:
        self.seen.append(float(inputs["h"][0]))
        if len(self.seen) == self.hangs:
            wait_for_abort(abort)
        return [np.array([np.nan], np.float32) if len(self.seen) == self._breaks else inputs["h"] + 1]

    def decode(self, outputs: list[Any], placement: Any) -> Payload:
        if len(self.seen) == self._fails:
            raise PermanentError("scores are NaN")
        return {}


def count_states(model: Counting, *captures: Capture, lost: int = 0) -> tuple[list[float], dict[str, int]]:
    """Serve these captures and return the states that the runs were given, and the ledger."""
    budget_ns = NS_PER_S if model.hangs else 60 * NS_PER_S
    bench = Bench(policy=replace(LIVE, budget_ns=budget_ns, queue_frames=8 - lost))
    loaded = fake_model(model)
    (variant,) = loaded.variants
    variant = replace(variant, decoder=model, memory=model.memory)
    bench.loop = InferenceLoop(
        model=replace(loaded, variants=(variant,)),
        inbox=bench.inbox,
        timer=bench.timer,
        emit=bench.emitted.append,
        show=lambda frame, payload: None,
        clock=bench.clock,
    )
    for capture in captures:
        bench.inbox.offer("s", capture._replace(captured_at_ns=bench.clock.now_ns()))
    return model.seen, bench.run()


FRAME = Capture(0, PICTURE)
BEHIND_A_LOSS = Capture(0, PICTURE, follows=False)


@pytest.mark.parametrize(("on_gap", "after"), [("reset", 0), ("keep", 1)])
def test_a_frame_that_fails_leaves_no_state(on_gap: str, after: int) -> None:
    """In its decoder, after the run: the next one starts anew, or goes on from the one before it."""
    model = Counting(on_gap, fails=2)
    seen, ledger = count_states(model, FRAME, FRAME, FRAME, FRAME)
    assert ledger == {"captured": 4, "published": 3, "failed": 1}
    assert seen == [0, 1, after, after + 1]
    assert model.memory.resets == (on_gap == "reset")


@pytest.mark.parametrize(("on_gap", "after"), [("reset", 0), ("keep", 1)])
def test_an_aborted_run_leaves_no_state(on_gap: str, after: int) -> None:
    """As one that failed; the frames behind it are served."""
    model = Counting(on_gap, hangs=2)
    bench_seen, ledger = count_states(model, FRAME, FRAME)
    assert ledger == {"captured": 2, "published": 1, "aborted": 1}
    assert bench_seen == [0, 1]
    frame = Frame("s", 3, 0, NEVER_NS, PICTURE)
    assert model.memory.recall(frame)["h"][0] == after


@pytest.mark.parametrize(("on_gap", "after"), [("reset", 0), ("keep", 2)])
def test_a_source_that_was_lost_resets_the_state(on_gap: str, after: int) -> None:
    """The first frame behind the loss says so."""
    model = Counting(on_gap)
    seen, _ = count_states(model, FRAME, FRAME, BEHIND_A_LOSS, FRAME)
    assert seen == [0, 1, after, after + 1]
    assert model.memory.resets == (on_gap == "reset")


def test_a_dropped_frame_resets_the_state() -> None:
    """The oldest of a full queue is the first: what is left begins with a hole."""
    model = Counting("reset")
    model.memory.remember(Frame("s", 0, 0, NEVER_NS, PICTURE), [np.array([9], np.float32)])
    seen, ledger = count_states(model, FRAME, FRAME, FRAME, lost=6)
    assert ledger == {"captured": 3, "published": 2, "queue_full": 1}
    assert seen == [0, 1]
    assert model.memory.resets == 1


@pytest.mark.parametrize("on_gap", ["reset", "keep"])
def test_a_state_of_nan_does_not_stay(on_gap: str) -> None:
    """The frame that gave it was decoded well and is published; the next one starts from zeros."""
    model = Counting(on_gap, breaks=2)
    seen, ledger = count_states(model, FRAME, FRAME, FRAME, FRAME)
    assert ledger == {"captured": 4, "published": 4}
    assert seen == [0, 1, 0, 1]
    assert (model.memory.broken, model.memory.resets) == (1, 1)
