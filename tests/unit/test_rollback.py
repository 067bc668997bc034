"""The command `rollback`: what it answers, and what it then asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from agent.core.commands import Address, CommandError, Request
from agent.loops.update_seams import WayBack
from agent.rollback import Rollback, RollbackCommand

NEWEST = WayBack("seen", "seen-7-0123456789ab", "seen-5-0123456789ab", "ada")


class Asked:
    """A pending command: keeps the answer, and does what follows when the test says so."""

    def __init__(self) -> None:
        self.request = Request("rollback", Address("desk", "1"), {}, "asked_by=ada")
        self.answer: Mapping[str, Any] = {}
        self.then: Callable[[], None] = lambda: None

    def done(self, figures: Mapping[str, Any], *, then: Callable[[], None] | None = None) -> None:
        self.answer = figures
        assert then is not None
        self.then = then

    def failed(self, error: CommandError) -> None:
        raise error


class Device:
    """Settings v3, which v2 was before, and a release on one of two models."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.settings: tuple[int, int] | None = (3, 2)
        self.newest: WayBack | None = NEWEST

    def ask(self, **arguments: Any) -> Asked:
        asked = Asked()
        RollbackCommand(_Settings(self), _Models(self)).run(asked, Rollback(**arguments))
        return asked


class _Settings:
    def __init__(self, device: Device) -> None:
        self._device = device

    def way_back(self) -> tuple[int, int] | None:
        return self._device.settings

    def give_up(self, version: int, asked_by: str) -> bool:
        self._device.done.append((version, asked_by))
        return True


class _Models:
    def __init__(self, device: Device) -> None:
        self._device = device

    def way_back(self, model: str, asked_by: str) -> WayBack | None:
        if model != "seen":
            raise KeyError("heard, seen")
        assert asked_by == "ada"
        return self._device.newest

    def give_up(self, way: WayBack) -> None:
        self._device.done.append(way)


def test_settings_go_back_after_the_answer() -> None:
    """The answer names both versions; what is asked for names the one that is meant."""
    device = Device()
    asked = device.ask(what="settings")
    assert asked.answer == {"what": "settings", "version": 3, "to_version": 2}
    assert device.done == []
    asked.then()
    assert device.done == [(3, "ada")]


def test_a_model_goes_back_after_the_answer() -> None:
    """Likewise, by `seq`."""
    device = Device()
    asked = device.ask(what="model", model="seen", version=7)
    assert asked.answer == {"what": "model", "model": "seen", "seq": 7, "to_seq": 5}
    asked.then()
    assert device.done == [NEWEST]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"what": "settings", "version": 2}, "not_in_force"),
        ({"what": "model", "model": "seen", "version": 6}, "not_in_force"),
        ({"what": "model", "model": "felt"}, "unknown_model"),
        ({"what": "model"}, "unknown_model"),
    ],
)
def test_what_is_not_there_is_not_given_up(arguments: dict[str, Any], code: str) -> None:
    """Two operators who both take v3 back take one step, not two."""
    device = Device()
    with pytest.raises(CommandError) as caught:
        device.ask(**arguments)
    assert caught.value.code == code
    assert device.done == []


@pytest.mark.parametrize("arguments", [{"what": "settings"}, {"what": "model", "model": "seen"}])
def test_there_may_be_nothing_to_go_back_from(arguments: dict[str, Any]) -> None:
    """A device on its own settings and models says so."""
    device = Device()
    device.settings = device.newest = None
    with pytest.raises(CommandError, match="already"):
        device.ask(**arguments)
