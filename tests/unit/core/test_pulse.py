"""Parts that stand still."""

from __future__ import annotations

from agent.core.pulse import Pulse, PulseCheck


def test_only_a_part_that_has_something_to_do_can_stand_still() -> None:
    """An idle part has no beats and needs none; one that is due is given its patience."""
    check, patience = PulseCheck(), {"idle": 2, "busy": 2, "stuck": 2}
    found = [
        check.look({"idle": Pulse(7, False), "busy": Pulse(look, True), "stuck": Pulse(7, True)}, patience)
        for look in range(6)
    ]
    assert found == [[], [], [], ["stuck"], ["stuck"], ["stuck"]]


def test_one_beat_is_enough() -> None:
    """What goes on starts anew."""
    check = PulseCheck()
    beats = [1, 1, 1, 2, 2, 2, 2]
    assert [bool(check.look({"egress": Pulse(count, True)}, {"egress": 1})) for count in beats] == [
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
    check = PulseCheck()
    assert check.look({"infer": Pulse(1, True)}, {"infer": 1}) == []
    assert check.look({"infer": Pulse(1, True)}, {"infer": 1}) == []


def test_a_part_that_is_gone_is_forgotten() -> None:
    """A stream was taken away and comes again under its name."""
    check, one = PulseCheck(), {"capture-door": Pulse(1, True)}
    patience = {"capture-door": 0}
    assert check.look(one, patience) == []
    assert check.look(one, patience) == ["capture-door"]
    assert check.look({}, {}) == []
    assert check.look(one, patience) == []
