"""The manifest that a guess amounts to, for a network without model.toml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.errors import ConfigError
from agent.models.clues import Guess
from agent.models.manifest import Manifest
from agent.toml_file import describe_error, errors_of

LICENSE_UNKNOWN = "LicenseRef-unknown"
LABELS_NAME = "labels.txt"


def draft_manifest(
    file: Path,
    sha256: str,
    guessed: Guess,
    properties: Mapping[str, str],
    external: Mapping[str, str],
    *,
    labels_are_inline: bool = False,
) -> Manifest:
    """Return the manifest that a guess amounts to.

    Args:
        file: the network.
        sha256: of it.
        guessed: what it seems to be.
        properties: the exporter's metadata.
        external: digests of its files of weights, by name.
        labels_are_inline: whether the labels are in it, and not in a file beside it.

    Raises:
        ConfigError: no manifest can describe this network.
    """
    if guessed.input is None:
        raise ConfigError([f"{file}: {text}" for text in guessed.obstacles])
    values: dict[str, Any] = {
        "schema": 1,
        "name": file.stem[:64] or "model",
        "version": (properties.get("version") or "0")[:64],
        "task": guessed.task,
        "license": properties.get("license") or LICENSE_UNKNOWN,
        "model": {"path": file.name, "sha256": sha256, "external_data": external},
        "input": guessed.input,
        "decoder": guessed.decoder,
    }
    values |= {"constants": guessed.constants, "sizes": guessed.sizes}
    if guessed.classes is not None:
        values["labels"] = {"names": labels_of(guessed)} if labels_are_inline else {"path": LABELS_NAME}
        if guessed.first_id:
            values["labels"]["first_id"] = guessed.first_id
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise ConfigError([describe_error(entry, str(file), Manifest) for entry in errors_of(error)]) from error


def labels_of(guessed: Guess) -> list[str]:
    """Return the names of the classes, numbers where they have none."""
    return guessed.labels or [f"class {index}" for index in range(guessed.classes or 0)]


def names_beside(file: Path) -> list[str] | None:
    """Return the lines of `{stem}.txt` or `labels.txt` beside a network; None where there is neither.

    Raises:
        ConfigError: there is one that cannot be read.
    """
    for name in (file.with_suffix(".txt"), file.with_name(LABELS_NAME)):
        if name.is_file():
            try:
                return [line.strip() for line in name.read_text(encoding="utf-8").splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{name}: labels cannot be read: {error}") from error
    return None
