"""The held-out samples as the original answers them: what int8 is compared with, and no more than memory holds."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

from agent.engine.memory import MIB
from agent.engine.session import OrtEngine
from agent.errors import ConfigError, PermanentError
from agent.fitting import build_memory, build_steps
from agent.interfaces import Preprocess
from agent.loading import WARM_UP_LIMIT_S, within
from agent.modeltools.material import Item, Material
from agent.modeltools.measure import Player, Sample, reads_outputs
from agent.modeltools.original import Original
from agent.modeltools.pictures import SET_MIN
from agent.modeltools.progress import Stage

KEPT_BYTES_MAX = 1024 * MIB
"""Of all samples together. The 100 that judge by default take 470 MiB at 640 x 640 in float32; with the outputs of a
segmentation, 512 x 512 x 21, there is room for 43."""

PAYLOAD_BYTES = 8
"""Of a character of a payload's JSON: a number of 4 characters takes 36 bytes in a list."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What was played by the original.

    Attributes:
        material: with the held-out items that were played, and no others.
        samples: one an item.
        sides_px: each one's longer side; the number of samples of a window.
        notes: that there were more than memory holds.
    """

    material: Material
    samples: list[Sample]
    sides_px: list[int]
    notes: tuple[str, ...]


def play_held_out(
    original: Original,
    material: Material,
    engine: OrtEngine,
    preprocess: Preprocess,
    kept: Collection[str],
    stage: Stage,
    bytes_max: int = KEPT_BYTES_MAX,
) -> HeldOut:
    """Run the original on the held-out items, on fewer of them where they would not fit.

    Args:
        original: the model.
        material: holds them.
        engine: the original's network.
        preprocess: the original's.
        kept: outputs that the int8 network will have; the others are not compared.
        stage: begins a stage of the progress.
        bytes_max: of all samples together.

    Raises:
        ConfigError: the original fails on one, or not even two fit.
    """
    compared = kept if reads_outputs(original.metric) else ()

    def play(player: Player, item: Item) -> Sample:
        try:
            run = partial(player.play, *preprocess(item.content), follows=item.follows)
            sample = within(WARM_UP_LIMIT_S, f"{original.file}: {item.file.name}", run)
        except PermanentError as error:
            raise ConfigError(f"{original.file}: fails on {item.file}: {error}") from error
        return replace(sample, outputs={name: sample.outputs[name] for name in compared})

    one_bytes = _bytes_of(play(player_of(original, engine), next(material.held_out())))
    fitting = bytes_max // one_bytes
    notes: tuple[str, ...] = ()
    if fitting < SET_MIN:
        raise ConfigError(
            f"{original.file}: one held-out sample takes {one_bytes / MIB:.0f} MiB with what is compared, and "
            f"{SET_MIN} must fit into {bytes_max / MIB:.0f} MiB: it is too large to be judged here"
        )
    if fitting < material.held_out_count:
        notes = (
            f"{fitting} of {material.held_out_count} held-out {material.kind} judge: each takes "
            f"{one_bytes / MIB:.1f} MiB, and {bytes_max / MIB:.0f} MiB is the limit",
        )
        material = material.with_held_out_max(fitting)
    samples, sides_px = [], []
    player = player_of(original, engine)
    advance = stage("original", material.held_out_count)
    for item in material.held_out():
        samples.append(play(player, item))
        sides_px.append(max(item.content.shape[:2]))
        advance()
    return HeldOut(material, samples, sides_px, notes)


def player_of(original: Original, engine: OrtEngine) -> Player:
    """Return what runs a network in order, with the original's decoder and a state of its own."""
    _, decoder = build_steps(original.folder, original.manifest, engine)
    return Player(engine, decoder, build_memory(original.folder, original.manifest, engine))


def _bytes_of(sample: Sample) -> int:
    """Return about what a sample takes, int8's payload included."""
    tensors = sum(tensor.nbytes for tensor in (*sample.inputs.values(), *sample.outputs.values()))
    return tensors + 2 * PAYLOAD_BYTES * len(json.dumps(sample.payload))
