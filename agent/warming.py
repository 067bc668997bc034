"""What comes before the agent is put together: what the device gives to models, and the models, warm and verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2

from agent.clock import Clock
from agent.device.notify import ServiceManager
from agent.handover import Handover
from agent.interfaces import LoadedModel
from agent.loops.service import patience
from agent.marks import Marks
from agent.provision import Provision
from agent.settings import Settings
from agent.updating import Updates


@dataclass(frozen=True, slots=True, eq=False)
class Warm:
    """The models of a run, ready to serve.

    Attributes:
        started_ns: when their loading began.
        manager: was asked for patience meanwhile.
        marks: of models that hung.
        updates: knows from where each model was loaded.
        provision: what each of them was given.
        models: by name.
        left_out: for each model that is not loaded, what health says of it.
    """

    started_ns: int
    manager: ServiceManager
    marks: Marks
    updates: Updates
    provision: Provision
    models: dict[str, LoadedModel]
    left_out: dict[str, dict[str, Any]]


def warm_models(settings: Settings, clock: Clock, *, before: Handover | None = None, is_check: bool = False) -> Warm:
    """Load, warm and verify the models that the settings name. The main thread.

    Args:
        settings: valid.
        clock: the agent's.
        before: what the run left that this one replaces; it goes on without a model that cannot be loaded.
        is_check: whether nobody runs on this: nothing is written.

    Raises:
        ConfigError: a model, or what its updates are checked with, cannot be used as the settings say.
    """
    started_ns = clock.now_ns()
    # OpenCV's own pool would come on top of the inference threads.
    cv2.setNumThreads(1)
    is_named = "dir" in settings.state.model_fields_set
    carried, costs = (None, None) if before is None else (before.marks, before.costs)
    marks = Marks(settings.state.dir, carried, may_make=is_named)
    updates = Updates(settings, marks, clock, is_check=is_check)
    provision = Provision(settings, carried=costs, keeps=not is_check)
    manager = ServiceManager()
    with patience(manager, clock):
        models, left_out = updates.shelves.load(settings, provision, marks, clock, must_all_load=before is None)
    return Warm(started_ns, manager, marks, updates, provision, models, left_out)
