"""Parts that stand still."""

from __future__ import annotations

from agent.core.pulse import Pulse, PulseCheck


def test_only_a_part_that_has_something_to_do_can_stand_still() -> None:
    """An idle part has no beats and needs none; one that is due is given its patience."""
    check = PulseCheck({"idle": 2, "busy": 2, "stuck": 2})
    found = [
        check.look({"idle": Pulse(7, False), "busy": Pulse(look, True), "stuck": Pulse(7, True)}) for look in range(6)
    ]
    assert found == [[], [], [], ["stuck"], ["stuck"], ["stuck"]]


def test_one_beat_is_enough() -> None:
    """What goes on starts anew."""
    check = PulseCheck({"egress": 1})
    beats = [1, 1, 1, 2, 2, 2, 2]
    assert [bool(check.look({"egress": Pulse(count, True)})) for count in beats] == [
        False,
        False,
        True,
        False,
        False,
        True,
        True,
    ]


def test_looks_are_counted_and_not_time() -> None:
    """A suspend of hours between two looks is one look."""
    check = PulseCheck({"infer": 1})
    assert check.look({"infer": Pulse(1, True)}) == []
    assert check.look({"infer": Pulse(1, True)}) == []
