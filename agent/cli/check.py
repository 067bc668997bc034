"""`edgebeat check`: validates the settings and says where each value came from."""

from __future__ import annotations

import argparse
import json

from agent.cli import exit_codes
from agent.cli.changes import flatten
from agent.cli.load import load_settings
from agent.cli.run import add_settings_arguments, config_file, overrides
from agent.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_settings_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print values and origins as JSON")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of the settings and end")
    parser.add_argument("--load", action="store_true", help="also load each model and check its golden sample")


def run(args: argparse.Namespace) -> int:
    """Print every value with its origin; ConfigError carries what is wrong."""
    if args.schema:
        print(json.dumps(Settings.model_json_schema(), indent=2))
        return exit_codes.DONE
    loaded = load_settings(config_file(args), overrides(args))
    if args.load:
        from agent.daemon import Daemon  # Loads models and opens what the settings name, without starting.

        Daemon(loaded.settings, output="stdout")
    values = flatten(loaded.settings.model_dump(mode="json"))
    if args.json:
        print(json.dumps({key: {"value": value, "origin": loaded.origins[key]} for key, value in values.items()}))
        return exit_codes.DONE
    width = max(len(key) for key in values)
    for key, value in values.items():
        print(f"{key:<{width}}  {json.dumps(value):<32}  {loaded.origins[key]}")
    print("settings are valid" if args.load else "settings are valid; --load would also try the models and sources")
    return exit_codes.DONE
