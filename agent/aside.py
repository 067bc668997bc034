"""Models that go before their successors come, where memory does not hold both."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence

from agent.clock import NS_PER_MS, NS_PER_S, Clock
from agent.engine.process import give_back
from agent.errors import ConfigError, PermanentError
from agent.loops.inbox import Inbox
from agent.loops.inference import InferenceLoop

log = logging.getLogger(__name__)

RUN_ENDS_IN_NS = 10 * NS_PER_S
"""How long a running inference may take to end; a deadline, where there is one, aborts it sooner."""
LOOK_NS = 5 * NS_PER_MS


@contextlib.contextmanager
def set_aside(loops: Sequence[InferenceLoop], inbox: Inbox, clock: Clock) -> Iterator[int]:
    """Keep models out of memory for the length of the block, and serve none of their frames. The control thread.

    Frames wait meanwhile, and are replaced or expire as in a long run. Where the block raises, the models are loaded
    again before they serve.

    Yields:
        Since when nothing was served, `Clock.now_ns`.

    Raises:
        ConfigError: one of them does not end its run.
    """
    since_ns = clock.now_ns()
    try:
        for loop in loops:
            inbox.pause(loop.model.name)
        for loop in loops:
            _wait_for_the_end(loop, inbox, since_ns + RUN_ENDS_IN_NS, clock)
        variants = [variant for loop in loops for variant in loop.model.variants]
        before = [loop.variant for loop in loops]
        for variant in variants:
            variant.engine.release()
        give_back()
        try:
            yield since_ns
        except BaseException:
            for variant in before:
                try:
                    variant.engine.run(variant.warm_inputs, variant.engine.new_abort())
                except PermanentError as error:
                    log.error("%s", error)  # The next frame tries again.
            raise
    finally:
        for loop in loops:
            inbox.resume(loop.model.name)


def _wait_for_the_end(loop: InferenceLoop, inbox: Inbox, by_ns: int, clock: Clock) -> None:
    never = threading.Event()
    # A frame that was just taken is not the loop's current one yet, and would load the model again.
    while inbox.is_busy(loop.model.name) or loop.current is not None:
        if clock.now_ns() > by_ns:
            raise ConfigError(f"{loop.model.name}: still serves a frame after {RUN_ENDS_IN_NS // NS_PER_S} s")
        clock.wait(never, LOOK_NS)
