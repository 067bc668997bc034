"""`edgebeat check`: validates the settings and says where each value came from."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from agent.cli import exit_codes
from agent.cli.load import read_layers
from agent.cli.run import add_settings_arguments, config_file, overrides
from agent.clock import SystemClock
from agent.core.desired import Document, InvalidDocumentError
from agent.desired.file_trial import open_file_trials
from agent.desired.start import FILE_STAYS, open_store
from agent.desired.values import load_document
from agent.errors import ConfigError
from agent.layers import Layers, Loaded
from agent.settings import Settings
from agent.settings.documentation import document


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_settings_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print values and origins as JSON")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of the settings and end")
    parser.add_argument("--load", action="store_true", help="also load each model and check its golden sample")


def run(args: argparse.Namespace) -> int:
    """Print every value with its origin; ConfigError carries what is wrong."""
    if args.schema:
        print(json.dumps(document(Settings).model_json_schema(), indent=2))
        return exit_codes.DONE
    layers = _as_started(read_layers(config_file(args), overrides(args)))
    loaded = layers.load()
    record = open_store(loaded.settings).load(sets_aside=False)
    if loaded.settings.remote.settings and record.current is not None:
        loaded = _with_remote(layers, record.current)
    if args.load:
        # Loads models and opens what the settings name, without starting.
        from agent.daemon import Daemon
        from agent.warming import warm_models

        clock = SystemClock()
        warm = warm_models(loaded.settings, clock, is_check=True)
        Daemon(loaded.settings, warm, output="stdout", clock=clock)
    values = _flatten(loaded.settings.model_dump(mode="json"))
    if args.json:
        print(json.dumps({key: {"value": value, "origin": loaded.origins[key]} for key, value in values.items()}))
        return exit_codes.DONE
    width = max(len(key) for key in values)
    for key, value in values.items():
        print(f"{key:<{width}}  {json.dumps(value):<32}  {loaded.origins[key]}")
    print("settings are valid" if args.load else "settings are valid; --load would also try the models and sources")
    return exit_codes.DONE


def _as_started(layers: Layers) -> Layers:
    """Return the device's layers as the agent would start on them: a file that was given up is not used."""
    trial = open_file_trials(layers.load().settings).load(layers, sets_aside=False)
    if trial is None or not trial.holds_for(layers) or not (begun := trial.begun()).is_given_up:
        return layers
    told = f"was given up: {begun.check}: {dict(begun.figures)}; {FILE_STAYS}"
    print(f"edgebeat: {layers.place}: {told}", file=sys.stderr)
    return trial.before(layers)


def _with_remote(layers: Layers, document: Document) -> Loaded:
    """Return the settings with what was accepted from afar, as the agent would start on them."""
    try:
        return load_document(layers, document)
    except InvalidDocumentError as error:
        texts = [f"remote v{document.version}: {found.path}: {found.message}" for found in error.errors]
        raise ConfigError([*texts, "the agent would go back to the settings before it"]) from None


def _flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Return nested settings by dotted path, `streams.0.max_fps`."""
    if isinstance(values, dict) and values:
        items = values.items()
    elif isinstance(values, list) and values and isinstance(values[0], dict):
        items = enumerate(values)  # type: ignore[assignment]
    else:
        return {path: values}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat.update(_flatten(value, f"{path}.{key}" if path else str(key)))
    return flat
