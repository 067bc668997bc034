"""Reads the discovery document as Home Assistant does. Run by scripts/check_home_assistant, with its Python.

Every entity goes through the schema of its platform; a key that the schema would silently leave out is an error here.
Every template is rendered with Home Assistant's own engine on a health message and a result of the agent.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.core.discovery import config_topic, document

HEALTH = {
    "degradation": {"level": 1, "temperature_c": 51.5},
    "process": {"rss_mb": 92.1},
    "delivery": {"dropped": {"queue_full": 2, "too_old": 1}},
}
FIGURES = {"published_fps": 9.8, "age_ms": {"p95": 31.4}, "ledger": {"published": 12}}
RESULT = {"detections": [{"label": "cat"}, {"label": "cup"}], "classes": [{"label": "day"}]}
NAMES = ["door", "a'b\"c", "x}}y{{", "%}z", "tür😀", "back\\slash"]
STATES = {"cat", "day", "2", "1", "9.8", "31.4", "12", "51.5", "92.1", "3", "degraded"}


async def main() -> int:
    """Check documents of plain and of odd names; return 1 when something is wrong."""
    import homeassistant.const
    from homeassistant.components.mqtt import discovery
    from homeassistant.core import HomeAssistant
    from homeassistant.helpers import frame

    home = HomeAssistant(tempfile.gettempdir())  # Nothing is read or written there.
    frame.async_setup(home)
    problems: list[str] = []
    entities = 0
    for device in ["porch", "a.b", "tür😀"]:
        if not re.fullmatch(discovery.TOPIC_MATCHER, config_topic("homeassistant", device).partition("/")[2]):
            problems.append(f"{device}: {config_topic('homeassistant', device)} is no discovery topic")
        told = json.loads(
            json.dumps(
                document(
                    base=f"edgebeat/v1/{device}",
                    device=device,
                    version="0.1.0",
                    streams=dict(zip(NAMES, ["detection", "classification", "raw"] * 2, strict=True)),
                    models=dict.fromkeys(NAMES, "1.0.0"),
                    stale_after_s=65.0,
                )
            )
        )
        entities += len(told["components"])
        problems += [f"{device}: {problem}" for problem in check(home, told)]
    print(f"Home Assistant {homeassistant.const.__version__}: {entities} entities checked, {len(problems)} problems")
    print("\n".join(problems))
    return 1 if problems else 0


def check(home: Any, told: dict[str, Any]) -> Iterator[str]:
    """Return what is wrong with one document."""
    import voluptuous
    from homeassistant.components.mqtt.schemas import DEVICE_DISCOVERY_SCHEMA

    try:
        DEVICE_DISCOVERY_SCHEMA(told)
    except voluptuous.Invalid as error:
        yield f"the document: {error}"
        return
    shared = {key: told[key] for key in ("availability_topic", "availability_template", "device", "origin")}
    if (found := render(home, told["availability_template"], {"state": "online"})) != "online":
        yield f"availability_template gives {found!r}"
    for key, entity in told["components"].items():
        config = dict(entity)
        platform = importlib.import_module(f"homeassistant.components.mqtt.{config.pop('platform')}")
        try:
            taken = platform.DISCOVERY_SCHEMA({**config, **shared})
        except voluptuous.Invalid as error:
            yield f"{key}: {error}"
            continue
        for ignored in sorted({**config, **shared}.keys() - taken.keys()):
            yield f"{key}: {ignored} is ignored"
        if "value_template" in config:
            yield from check_template(home, key, entity)


def check_template(home: Any, key: str, entity: dict[str, Any]) -> Iterator[str]:
    """Render an entity's template on what the agent sends; return what is wrong."""
    streams, models = dict.fromkeys(NAMES, FIGURES), {name: {"version": "1.0.0"} for name in NAMES}
    is_health = entity["state_topic"].endswith("/health")
    value = {**HEALTH, "streams": streams, "models": models} if is_health else RESULT
    found = render(home, entity["value_template"], value)
    if entity["platform"] == "update":
        from homeassistant.components.mqtt.update import MQTT_JSON_UPDATE_SCHEMA

        MQTT_JSON_UPDATE_SCHEMA(json.loads(found))
    elif found not in STATES:
        yield f"{key}: its template gives {found!r}"
    if "options" in entity and found not in entity["options"]:
        yield f"{key}: {found!r} is none of its options"


def render(home: Any, template: str, value: dict[str, Any]) -> str:
    """Return what Home Assistant makes of a payload by a template."""
    from homeassistant.helpers.template import Template

    engine = Template(template, home)
    variables = {"this": {"state": "before"}}
    return str(engine.async_render_with_possible_json_value(json.dumps(value), None, variables=variables))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
