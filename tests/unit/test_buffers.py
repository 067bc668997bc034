"""Memory for large arrays that is used again."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest

from agent.buffers import LARGE_BYTES, SPARE_TAKES, Buffers, _Room

SHAPE = (256, 256, 3)


def address(array: npt.NDArray[np.uint8]) -> int:
    """Return where its memory begins."""
    return int(array.__array_interface__["data"][0])


def test_what_nobody_holds_is_used_again() -> None:
    """The second frame lies where the first one was."""
    buffers = Buffers()
    first = buffers.take(SHAPE, np.uint8)
    assert first.shape == SHAPE
    assert first.dtype.name == "uint8"
    assert first.flags.c_contiguous
    assert first.flags.writeable
    place = address(first)
    del first
    assert address(buffers.take((64, 64, 12), np.float32)) == place


@pytest.mark.parametrize("hold", [lambda array: array, lambda array: array[10:20], lambda array: array.view()[0].T])
def test_what_is_held_in_any_form_is_left_alone(hold: object) -> None:
    """A view of a frame, or of a view, keeps its memory; when it goes, the memory is free."""
    buffers = Buffers()
    array = buffers.take(SHAPE, np.uint8)
    place = address(array)
    array[:] = 7
    held = hold(array)  # type: ignore[operator]
    del array
    other = buffers.take(SHAPE, np.uint8)
    other[:] = 9
    assert address(other) != place
    assert (held == 7).all()
    del held
    assert address(buffers.take(SHAPE, np.uint8)) == place


def test_what_a_burst_needed_is_given_back() -> None:
    """Ten frames at a time, once; then one after the other."""
    buffers = Buffers()
    burst = [buffers.take(SHAPE, np.uint8) for _ in range(10)]
    assert len({address(array) for array in burst}) == 10
    del burst
    for _ in range(2 * SPARE_TAKES):
        buffers.take(SHAPE, np.uint8)
    held = [buffers.take(SHAPE, np.uint8)]
    assert len(buffers._rooms) == 1  # What is mapped shows nowhere else.
    held.append(buffers.take(SHAPE, np.uint8))
    assert address(held[0]) != address(held[1])


def test_frames_of_another_size_take_the_place_of_those_before() -> None:
    """A camera that changes its resolution leaves no memory behind."""
    buffers = Buffers()
    buffers.take((512, 512, 3), np.uint8)
    for _ in range(2 * SPARE_TAKES):
        buffers.take(SHAPE, np.uint8)
    assert [room.size for room in buffers._rooms] == [256 * 256 * 3]


def test_what_is_free_goes_back_on_request_and_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in use stays; whoever finds no room gets that of frames of another size."""
    buffers = Buffers()
    held = buffers.take(SHAPE, np.uint8)
    buffers.take((512, 512, 3), np.uint8)
    buffers.give_back()
    assert [room.size for room in buffers._rooms] == [held.nbytes]
    buffers.take((512, 512, 3), np.uint8)
    tight = 2

    class Tight(_Room):
        def __init__(self, size: int) -> None:
            if len(buffers._rooms) >= tight:
                raise MemoryError
            super().__init__(size)

    monkeypatch.setattr("agent.buffers._Room", Tight)
    assert buffers.take((300, 300, 3), np.uint8).shape == (300, 300, 3)
    assert [room.size for room in buffers._rooms] == [held.nbytes, 270_000]


def test_small_arrays_come_from_the_heap() -> None:
    """And so does one that holds nothing."""
    buffers = Buffers()
    assert buffers.take((LARGE_BYTES - 1,), np.uint8).flags.owndata
    assert buffers.take((0, 4), np.uint8).shape == (0, 4)
    assert not buffers.take((LARGE_BYTES,), np.uint8).flags.owndata


def test_what_the_system_does_not_have_is_a_memory_error() -> None:
    """As numpy says it: whoever asked names the frame."""
    with pytest.raises(MemoryError, match="no room for"):
        Buffers().take((1 << 50,), np.uint8)


def test_no_memory_is_given_out_twice() -> None:
    """Four threads write their number into what they got, and find nothing else in it."""
    buffers, wrong = Buffers(), []

    def work(number: int) -> None:
        for _ in range(300):
            array = buffers.take((LARGE_BYTES,), np.uint8)
            array[:] = number
            if (array != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
