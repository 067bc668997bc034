"""The steps of a model's streams, as the settings of the moment say."""

from __future__ import annotations

from agent.core.steps.chain import Steps
from agent.frame import Frame
from agent.interfaces import Noticed
from agent.loops.inbox import Inbox
from agent.result import Payload


class StreamSteps:
    """Keeps the state of each stream's steps; other settings and another model begin with a new one.

    The inference thread calls everything.

    Args:
        inbox: knows each stream's settings.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._of: dict[str, Steps] = {}

    def has(self, stream: str) -> bool:
        """Return whether the last frame of a stream went through steps."""
        return stream in self._of

    def observe(self, frame: Frame, payload: Payload) -> tuple[Payload, list[Noticed]]:
        """Take a frame's payload, in time or not; return what is to be sent, and events."""
        settings = self._inbox.steps(frame.stream)
        steps, happened = self._of.get(frame.stream), []
        if steps is not None and steps.settings != settings:
            happened = self._of.pop(frame.stream).end()
            steps = None
        if settings is None:
            return payload, happened
        if steps is None:
            # Streams that are gone have no settings any more.
            self._of = {name: own for name, own in self._of.items() if self._inbox.steps(name) is not None}
            steps = self._of[frame.stream] = Steps(frame.stream, settings)
        height, width = frame.pixels.shape[:2]
        payload, more = steps.observe(payload, frame.captured_at_ns, width, height)
        return payload, happened + more

    def is_news(self, frame: Frame, payload: Payload) -> bool:
        """Return whether a payload from `observe` is to be sent; if so, it is taken as sent."""
        steps = self._of.get(frame.stream)
        if steps is None:
            return True
        height, width = frame.pixels.shape[:2]
        return steps.is_news(payload, frame.captured_at_ns, width, height)

    def reset(self) -> list[Noticed]:
        """Begin anew under another model; return events."""
        ended, self._of = list(self._of.values()), {}
        return [event for steps in ended for event in steps.end()]
