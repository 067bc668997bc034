"""`edgebeat settings`: show, schema and set, for one device or for a fleet in shares."""

from __future__ import annotations

import argparse
import getpass
import json
import socket
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agent.cli import exit_codes
from agent.cli.arguments import positive
from agent.cli.operator import Operator
from agent.cli.reports import Report, merged, problems
from agent.cli.rollout import Rollout, Step, progress, sizes_of
from agent.cli.watch import add_broker_arguments, broker_settings
from agent.clock import NS_PER_S, Clock, SystemClock
from agent.errors import ConfigError
from agent.layers import LISTS
from agent.settings import Settings
from agent.settings.scope import may_come_from_afar, section_inside, section_of

FLEET_SHARES = "1,10%,50%,100%"
"""One device finds the mistake, a tenth the device that is not like the others, half the broker's limit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="the settings in force on a device, as it reports them")
    _add_target(show, has_fleet=False)
    schema = actions.add_parser("schema", help="JSON Schema of the values that may be set from afar")
    schema.set_defaults(json=True)
    change = actions.add_parser("set", help="change values and wait until the device has proven them")
    change.add_argument("values", nargs="*", metavar="KEY=VALUE", help="such as streams.door.max_fps=5; JSON or text")
    change.add_argument("--file", type=Path, metavar="FILE", help="JSON object of values: the whole document")
    change.add_argument("--no-wait", action="store_true", help="end when the change is applied, before it is proven")
    _add_target(change, has_fleet=True)
    change.add_argument(
        "--shares",
        default=FLEET_SHARES,
        help="with --fleet: devices that have the change after each share (default: %(default)s)",
    )
    change.add_argument(
        "--rollback-failed-share",
        action="store_true",
        help="with --fleet: bring the whole share back in which a device failed",
    )
    change.add_argument(
        "--rollback-all", action="store_true", help="with --fleet: after a failure bring every device back"
    )


def _add_target(parser: argparse.ArgumentParser, *, has_fleet: bool) -> None:
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--device", metavar="ID", help="the device's id")
    if has_fleet:
        target.add_argument("--fleet", metavar="PREFIX/+", help="every device that is online below a prefix")
    add_broker_arguments(parser)
    parser.add_argument("--timeout", type=positive, default=30.0, metavar="S", help="for an answer (default: 30)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; 0 done, 1 refused, taken back or no answer, 78 for what cannot be asked."""
    if args.action == "schema":
        print(json.dumps(remote_schema(), indent=2))
        return exit_codes.DONE
    settings, clock = broker_settings(args), SystemClock()
    changes = _changes(args) if args.action == "set" else {}
    fleet = getattr(args, "fleet", None)
    if fleet is not None:
        settings = settings.model_copy(update={"topic_prefix": _prefix(fleet)})
    with Operator(settings, "+" if fleet else args.device, clock, asked_by=who(), say=say) as operator:
        if args.action == "show":
            return _show(operator, args)
        return _set(operator, args, changes, clock)


def remote_schema() -> dict[str, Any]:
    """Return the JSON Schema of a document's `values`: what may be set from afar, streams and models by name."""
    whole = Settings.model_json_schema()
    sections: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        model, is_list = section_of(field.annotation)
        if model is None:
            continue
        known = whole["$defs"][model.__name__]["properties"]
        remote = [key for key, inner in model.model_fields.items() if may_come_from_afar(inner)]
        fields = {key: _inlined(known[key], whole["$defs"]) for key in remote}
        if not fields:
            continue
        section = {"type": "object", "additionalProperties": False, "properties": fields}
        sections[name] = {"type": "object", "additionalProperties": section} if is_list else section
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": False,
        "properties": sections,
    }


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """Return a part of a schema with what it refers to in its place."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    named = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else {}
    whole = {**named, **{key: value for key, value in node.items() if key != "$ref"}}
    return {key: _inlined(value, definitions) for key, value in whole.items()}


def _show(operator: Operator, args: argparse.Namespace) -> int:
    if not operator.wait(lambda: args.device in operator.devices, args.timeout):
        say(f"{args.device}: no settings/reported within {args.timeout:g} s: is the device id right?")
        return exit_codes.FAILED
    report = operator.devices[args.device].report
    if args.json:
        print(json.dumps(report.body))
        return exit_codes.DONE
    values = _flat(report.values)
    width = max((len(path) for path in values), default=0)
    accepted = _flat(report.accepted)
    for path, value in values.items():
        origin = f"remote v{report.version}" if path in accepted else ""
        print(f"{path:<{width}}  {json.dumps(value):<24}  {origin}".rstrip())
    print(_state_line(report))
    for line in problems(report):
        print(line)
    return exit_codes.DONE


def _set(operator: Operator, args: argparse.Namespace, changes: dict[str, Any], clock: Clock) -> int:
    devices = operator.devices
    if args.fleet:
        operator.wait_until_quiet(args.timeout)
        devices = {name: known for name, known in sorted(operator.devices.items()) if operator.is_online(name)}
    else:
        operator.wait(lambda: args.device in operator.devices, args.timeout)
    for name in sorted(operator.devices.keys() - devices.keys()):
        say(f"{name}: is offline and left out")
    if not devices:
        say(f"{args.fleet or args.device}: no device has reported its settings within {args.timeout:g} s")
        return exit_codes.FAILED
    try:
        sizes = sizes_of(args.shares, len(devices)) if args.fleet else [1]
    except ValueError as error:
        raise ConfigError(f"--shares {error}") from None
    rollout = Rollout(
        devices,
        changes,
        sizes,
        timeout_ns=int(args.timeout * NS_PER_S),
        waits_for_proof=not args.no_wait,
        is_whole=args.file is not None,
    )
    begun_ns = clock.now_ns()
    _drive(operator, rollout, clock)
    back = _taken_back(rollout, args) if args.fleet else []
    if back:
        operator.send(rollout.take_back(back, clock.now_ns()))
        operator.wait(lambda: all(map(rollout.is_back, _back(rollout))), args.timeout)
    _tell(rollout, args, (clock.now_ns() - begun_ns) / NS_PER_S, operator.heard)
    return exit_codes.FAILED if rollout.failed else exit_codes.DONE


def _drive(operator: Operator, rollout: Rollout, clock: Clock) -> None:
    """Ask and listen until the roll-out is over, with a line for each change."""
    said = ""
    operator.on_report = rollout.heard
    while not rollout.is_over:
        operator.send(rollout.advance(clock.now_ns()))
        operator.pump()
        if (line := progress(rollout)) != said:
            said = line
            say(line)


def _taken_back(rollout: Rollout, args: argparse.Namespace) -> list[str]:
    """Return the devices that are to be brought back after a failure."""
    if not rollout.failed:
        return []
    if args.rollback_all:
        return [name for share in rollout.shares[: rollout.share + 1] for name in share]
    return rollout.shares[rollout.share] if args.rollback_failed_share else []


def _back(rollout: Rollout) -> list[str]:
    return [name for name, device in rollout.devices.items() if device.step is Step.TAKEN_BACK]


def _tell(rollout: Rollout, args: argparse.Namespace, seconds: float, heard: int) -> None:
    steps = {name: device.step.value for name, device in rollout.devices.items()}
    if args.json:
        reasons = {name: rollout.devices[name].reasons for name in rollout.failed}
        print(
            json.dumps(
                {
                    "devices": steps,
                    "failed": reasons,
                    "shares": rollout.shares,
                    "share": rollout.share + 1,
                    "seconds": round(seconds, 3),
                    "sent": rollout.asked,
                    "heard": heard,
                    "reports": {name: device.report.body for name, device in rollout.devices.items()}
                    if not args.fleet
                    else {},
                }
            )
        )
        return
    for name in rollout.failed:
        for reason in rollout.devices[name].reasons:
            print(f"{name}: {reason}")
    if not args.fleet:
        (device,) = rollout.devices.values()
        print(_state_line(device.report))
        return
    counts = ", ".join(f"{list(steps.values()).count(step)} {step}" for step in Step if step in steps.values())
    print(f"{len(steps)} devices in {rollout.share + 1} of {len(rollout.shares)} shares: {counts}")
    print(f"{seconds:.1f} s, {rollout.asked} documents sent, {heard} reports heard")


def _state_line(report: Report) -> str:
    proven = "proven" if report.proven else f"on probation for {report.probation_s:.0f} s"
    return f"v{report.version} {report.state}, {proven}; last asked for: v{report.seen_version}"


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the nested values that the command line gives.

    Raises:
        ConfigError: nothing to set, or not readable.
    """
    if (args.file is None) == (not args.values):
        raise ConfigError("give KEY=VALUE..., or --file FILE")
    if args.file is not None:
        try:
            values = json.loads(args.file.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"--file {args.file}: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"--file {args.file}: must hold a JSON object of sections")
        return values
    changes: dict[str, Any] = {}
    for text in args.values:
        key, separator, value = text.partition("=")
        path = _path(key)
        if not separator or path is None:
            example = "streams.door.max_fps=5 or health.period_s=10"
            raise ConfigError(f"{text!r}: write it as SECTION.FIELD=VALUE, such as {example}")
        nested: Any = _value(value)
        for part in reversed(path):
            nested = {part: nested}
        changes = merged(changes, nested)
    return changes


def _path(key: str) -> tuple[str, ...] | None:
    """Return section, name and fields; the name of a stream may hold dots."""
    section, _, rest = key.partition(".")
    path: tuple[str, ...] = (section, rest)
    if section in LISTS:
        parts = rest.split(".")
        model, _ = section_of(Settings.model_fields[section].annotation)
        places = range(1, len(parts))
        begins = [place for place in places if _is_field(model, parts[place:])]
        # What lies in `steps` and is no field there is for the device to refuse, with the names that it knows.
        begins += [place for place in places if _is_field(model, [parts[place], ""])]
        place = begins[0] if begins else len(parts) - 1
        path = (section, ".".join(parts[:place]), *parts[place:])
    return path if all(path) else None


def _is_field(model: type[BaseModel] | None, names: list[str]) -> bool:
    """Return whether names lead from a section to a field, through the sections inside it."""
    field = None if model is None else model.model_fields.get(names[0])
    if field is None or len(names) == 1:
        return field is not None
    inner = section_inside(field)
    return inner is not None and (not names[1] or _is_field(inner, names[1:]))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _prefix(fleet: str) -> str:
    prefix, _, last = fleet.rpartition("/")
    if last != "+" or not prefix or "+" in prefix or "#" in prefix:
        raise ConfigError(f"--fleet {fleet!r}: write it as PREFIX/+, such as edgebeat/v1/+")
    return prefix


def _flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = f"{path}.{key}" if path else key
        found |= _flat(value, inner) if isinstance(value, dict) else {inner: value}
    return found


def who() -> str:
    """Return who asks, as devices write it into their audit."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def say(text: str) -> None:
    """Show a line to the person; standard output is for results."""
    print(f"edgebeat: {text}", file=sys.stderr, flush=True)
