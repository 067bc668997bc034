"""Whether everything fits into the memory that the agent may take, with the figures, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.engine.memory import MIB, MemoryLimit
from agent.engine.trial import Cost

SERVING_BYTES = 24 * MIB
"""What serving adds to the loaded process whatever it serves: MQTT client, spool and queues, threads, working memory
of the decoders. Measured: 19 MiB with one stream of 640x480 (docs/benchmarks.md)."""

FRAME_BYTES = 6 * MIB
"""A picture of 1080p, for a stream that does not state its size."""

FRAMES_A_STREAM = 3
"""One waiting, one in inference, one being read."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one model takes.

    Attributes:
        model: its name in the settings.
        costs: by variant, the model itself first; variants of one network share it and stand here once.
    """

    model: str
    costs: Mapping[str, Cost]

    @property
    def own(self) -> Cost:
        """Of the model itself."""
        return next(iter(self.costs.values()))


@dataclass(frozen=True, slots=True)
class Budget:
    """How the memory is divided.

    Attributes:
        limit: of the agent.
        own_bytes: resident before any model is loaded.
        serving_bytes: for sources, queues and delivery.
        needs: of the models.
        is_change: whether models and streams come to what serves already: `own_bytes` is then what is resident with
            all of that, and `serving_bytes` is for the streams that come.
    """

    limit: MemoryLimit
    own_bytes: int
    serving_bytes: int
    needs: tuple[Need, ...]
    is_change: bool = False

    @property
    def fixed_bytes(self) -> int:
        """What no choice of model changes."""
        return self.own_bytes + self.serving_bytes

    @property
    def arena_bytes(self) -> int:
        """The most that all sessions may take together: what is left of the limit."""
        return max(MIB, self.limit.limit_bytes - self.fixed_bytes)

    @property
    def holds_all(self) -> bool:
        """Whether every variant may stay loaded."""
        steady = sum(cost.steady_bytes for need in self.needs for cost in need.costs.values())
        peak = max(
            (cost.peak_bytes - cost.steady_bytes for need in self.needs for cost in need.costs.values()), default=0
        )
        return self.fixed_bytes + steady + max(0, peak) <= self.limit.limit_bytes

    def input_bytes_max(self, cost: Cost) -> int:
        """Return how large the inputs of a network may become: activations grow with them, at least in proportion."""
        if not cost.run_bytes:
            return cost.input_bytes
        loaded = [one for need in self.needs for one in (need.costs.values() if self.holds_all else [need.own])]
        others = sum(one.steady_bytes for one in loaded if one is not cost)
        left = self.limit.limit_bytes - self.fixed_bytes - others - cost.session_bytes
        return max(cost.input_bytes, int(cost.input_bytes * left / cost.run_bytes))

    @property
    def missing_bytes(self) -> int:
        """How much more than the limit is needed; 0 or less when it fits."""
        return self._needed([need.own for need in self.needs]) - self.limit.limit_bytes

    def refusal(self) -> list[str]:
        """Return why it does not fit and what would, as lines; empty when it fits."""
        if self.missing_bytes <= 0:
            return []
        needed = self.missing_bytes + self.limit.limit_bytes
        parts = [f"{_mib(self.own_bytes)} {'now' if self.is_change else 'for itself'}"]
        if self.serving_bytes:
            purpose = "for streams that come" if self.is_change else "to serve its streams"
            parts.append(f"{_mib(self.serving_bytes)} {purpose}")
        parts += [f"{need.model} {need.own}" for need in self.needs]
        raise_it = "raise it" if self.limit.source != "limits.memory_mb" else "set limits.memory_mb"
        return [
            f"memory: the agent would take {_mib(needed)} and may take {self.limit}: {', '.join(parts)}",
            f"  what would fit: {raise_it} to at least {-(-needed // MIB)} MiB",
            *(f"  what would fit: {text}" for text in self._lighter()),
        ]

    def _lighter(self) -> list[str]:
        """Return which single model's lighter variant would make the rest fit."""
        found = []
        for index, need in enumerate(self.needs):
            for name, cost in list(need.costs.items())[1:]:
                owns = [cost if place == index else other.own for place, other in enumerate(self.needs)]
                if (needed := self._needed(owns)) <= self.limit.limit_bytes:
                    found.append(f'set models.{need.model}.variant = "{name}": {_mib(needed)}')
        return found

    def _needed(self, costs: Sequence[Cost]) -> int:
        """Return the most that is taken at once: all of these, and the peak of the one that is loaded."""
        peak = max((cost.peak_bytes - cost.steady_bytes for cost in costs), default=0)
        return self.fixed_bytes + sum(cost.steady_bytes for cost in costs) + max(0, peak)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.0f} MiB"
