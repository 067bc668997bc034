"""Which release serves: committed, on trial, rolled back."""

from __future__ import annotations

from agent.core.shelf import STARTS_MAX, STARTS_MAX_COMMITTED, Ended, Shelf, folder_name, given_up, seq_of


def test_a_trial_serves_and_is_committed() -> None:
    """The one before stays as the way back."""
    first = Shelf("base").begin("m-1", 1, "d1")
    assert first.serving == "m-1"
    assert first.kept == {"m-1"}
    second = first.commit().begin("m-2", 2, "d2").commit()
    assert (second.serving, second.previous, second.seq_max) == ("m-2", "m-1", 2)
    assert second.kept == {"m-1", "m-2"}
    assert second.ended is not None
    assert second.ended.phase == "committed"


def test_a_trial_that_fails_leaves_what_was_before() -> None:
    """And is remembered, so that a retained manifest does not bring it again."""
    before = Shelf("base").begin("m-1", 1, "d1").commit()
    after = before.begin("m-2", 2, "d2").roll_back("on_time", "0.2 of 0.9")
    assert (after.serving, after.seq_max) == ("m-1", 1)
    assert after.ended is not None
    assert (after.ended.digest, after.ended.phase, after.ended.code) == ("d2", "rolled_back", "on_time")


def test_starts_of_a_trial_are_counted() -> None:
    """One that the agent does not survive is given up."""
    shelf = Shelf("base").begin("m-1", 1, "d1")
    for _ in range(STARTS_MAX):
        shelf = shelf.start()
        assert shelf.serving == "m-1"
    shelf = shelf.start()
    assert shelf.serving == ""
    assert shelf.ended is not None
    assert shelf.ended.code == "crash_loop"
    assert shelf.start() == shelf


def test_a_committed_release_on_which_no_run_lives_is_given_up_at_last() -> None:
    """Down to the settings' own, one after the other; a run that lived, or was ended on purpose, counts for it."""
    shelf = Shelf("base").begin("m-1", 1, "d1").commit().begin("m-2", 2, "d2").commit()
    for folder in ("m-2", "m-1"):
        for _ in range(STARTS_MAX_COMMITTED):
            shelf = shelf.start()
            assert shelf.serving == folder
        assert shelf.survived().start().starts == 1
    shelf = shelf.start()
    assert (shelf.serving, shelf.start()) == ("", shelf)
    assert shelf.ended is not None
    assert (shelf.ended.digest, shelf.ended.phase, shelf.ended.code) == ("d2", "rolled_back", "crash_loop")


def test_a_trial_that_somebody_interrupts_on_purpose_does_not_count_it() -> None:
    """Who restarts the service three times in two minutes has no bad release."""
    shelf = Shelf("base").begin("m-1", 1, "d1")
    for _ in range(2 * STARTS_MAX):
        shelf = shelf.start().survived()
    assert shelf.serving == "m-1"


def test_what_a_start_gave_up_is_told_by_its_own_number() -> None:
    """Also where the shelf remembers another one, which was refused since."""
    before = Shelf("base").begin(folder_name("m", 1, "d" * 64), 1, "d1").commit().reject(2, "d2", "crashes", "")
    after = before.revert("cannot_start", "damaged")
    told = given_up({"m": before, "n": before}, {"m": after, "n": before}, "cannot_start", "damaged")
    assert told == [("m", Ended("", 1, "rolled_back", "cannot_start", "damaged"))]


def test_going_back_by_hand_goes_down_to_the_settings_own() -> None:
    """What was given up is not the way back from the way back; a lower `seq` does not come in by itself."""
    shelf = Shelf("base").begin("m-1", 1, "d1").commit().begin("m-2", 2, "d2").commit().revert("operator", "ada")
    assert (shelf.serving, shelf.previous, shelf.seq_max) == ("m-1", "", 2)
    assert shelf.ended is not None
    assert (shelf.ended.digest, shelf.ended.phase, shelf.ended.code) == ("d2", "rolled_back", "operator")
    assert shelf.revert("operator", "ada").serving == ""


def test_going_back_keeps_in_mind_what_was_refused_since() -> None:
    """Its manifest is the one that the broker keeps: it must not be tried again."""
    shelf = Shelf("base").begin("m-1", 1, "d1").commit().reject(2, "d2", "crashes", "").revert("operator", "ada")
    assert shelf.serving == ""
    assert shelf.ended is not None
    assert (shelf.ended.digest, shelf.ended.phase) == ("d2", "rejected")


def test_a_folders_name_tells_its_seq() -> None:
    """Whatever the model's name holds."""
    assert seq_of(folder_name("a-1-b", 42, "0123456789abcdef")) == 42
    assert seq_of("") == 0


def test_the_release_in_service_committed_again_keeps_its_way_back() -> None:
    """As after a power cut between the commit and its report."""
    shelf = Shelf("base").begin("m-1", 1, "d1").commit().begin("m-1", 1, "d1").commit()
    assert (shelf.serving, shelf.previous) == ("m-1", "")
