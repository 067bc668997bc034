"""The device as Home Assistant wants it told: one document for all its entities (device discovery, since 2024.11).

The fields are those of https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload and of the platforms
sensor, image and update there; `scripts/check_home_assistant` validates them with Home Assistant's own schemas. Only
the standard library is imported, so that its Python can read this module.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

ORIGIN = "Edgebeat"

LABELLED_TASKS = {"detection": "detections", "classification": "classes"}
"""Tasks whose results name things, with the field that does."""


def config_topic(prefix: str, device: str) -> str:
    """Return where the document goes. Home Assistant takes letters, digits, - and _ alone in the object's id."""
    identity = re.sub(r"[^A-Za-z0-9_-]", "_", device)
    if identity != device:
        # Two devices must not meet in one place because they differ in a dot.
        identity += "_" + hashlib.sha256(device.encode()).hexdigest()[:8]
    return f"{prefix}/device/{identity}/config"


def document(
    *,
    base: str,
    device: str,
    version: str,
    streams: Mapping[str, str],
    models: Mapping[str, str],
    stale_after_s: float,
) -> dict[str, Any]:
    """Return the document.

    Args:
        base: the device's tree, `{prefix}/{device}`.
        device: its id.
        version: of Edgebeat.
        streams: the task of each stream's model, by the stream's name.
        models: the version of each model, by its name.
        stale_after_s: without a health message for so long, its figures are unknown.
    """
    identity = f"edgebeat_{device}"
    entities = _device_entities(base, int(stale_after_s) + 1)
    for stream, task in streams.items():
        entities |= _stream_entities(base, stream, task, int(stale_after_s) + 1)
    for model in models:
        entities |= _model_entities(base, model)
    return {
        "device": {
            "identifiers": [identity],
            "name": device,
            "manufacturer": ORIGIN,
            "model": "Edge inference agent",
            "sw_version": version,
        },
        "origin": {"name": ORIGIN, "sw_version": version},
        "availability_topic": f"{base}/status",
        "availability_template": "{{ value_json.state }}",
        "components": {key: {**entity, "unique_id": f"{identity}_{key}"} for key, entity in entities.items()},
    }


def is_ours(payload: bytes) -> bool:
    """Return whether a document is one of an Edgebeat, which may be taken away; anybody may have written it."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    origin = found.get("origin") if isinstance(found, dict) else None
    return isinstance(origin, dict) and origin.get("name") == ORIGIN


def _health_sensor(base: str, name: str, template: str, expire_after_s: int, **more: Any) -> dict[str, Any]:
    return {
        "platform": "sensor",
        "name": name,
        "state_topic": f"{base}/health",
        "value_template": template,
        "expire_after": expire_after_s,
        "entity_category": "diagnostic",
        **more,
    }


def _device_entities(base: str, expire_after_s: int) -> dict[str, Any]:
    def sensor(name: str, template: str, **more: Any) -> dict[str, Any]:
        return _health_sensor(base, name, template, expire_after_s, **more)

    return {
        "state": sensor(
            "State",
            "{{ 'degraded' if value_json.degradation.level else 'normal' }}",
            device_class="enum",
            options=["normal", "degraded"],
        ),
        "temperature": sensor(
            "Temperature",
            "{{ value_json.degradation.temperature_c }}",
            device_class="temperature",
            unit_of_measurement="°C",
            state_class="measurement",
        ),
        "memory": sensor(
            "Memory",
            "{{ value_json.process.rss_mb }}",
            device_class="data_size",
            unit_of_measurement="MiB",
            state_class="measurement",
        ),
        "dropped": sensor(
            "Messages dropped",
            "{{ value_json.delivery.dropped.values() | sum }}",
            state_class="total_increasing",
        ),
    }


def _stream_entities(base: str, stream: str, task: str, expire_after_s: int) -> dict[str, Any]:
    figures = f"value_json.streams[{_literal(stream)}]"

    def sensor(name: str, template: str, **more: Any) -> dict[str, Any]:
        return _health_sensor(base, f"{stream} {name}", f"{{{{ {template} }}}}", expire_after_s, **more)

    entities = {
        f"{stream}_fps": sensor(
            "rate", f"{figures}.published_fps", unit_of_measurement="fps", state_class="measurement"
        ),
        f"{stream}_age": sensor(
            "result age",
            f"{figures}.age_ms.p95",
            device_class="duration",
            unit_of_measurement="ms",
            state_class="measurement",
        ),
        f"{stream}_published": sensor("results", f"{figures}.ledger.published", state_class="total_increasing"),
        f"{stream}_image": {
            "platform": "image",
            "name": f"{stream} picture",
            "image_topic": f"{base}/image/{stream}",
            "content_type": "image/jpeg",
        },
    }
    if field := LABELLED_TASKS.get(task):
        results = {"platform": "sensor", "state_topic": f"{base}/results/{stream}"}
        first = f"value_json.{field}[0].label if value_json.{field} else this.state"
        entities[f"{stream}_last"] = {
            **results,
            "name": f"{stream} last object",
            "value_template": f"{{{{ {first} }}}}",
        }
        entities[f"{stream}_count"] = {
            **results,
            "name": f"{stream} objects",
            "value_template": f"{{{{ value_json.{field} | count }}}}",
            "state_class": "measurement",
        }
    return entities


def _model_entities(base: str, model: str) -> dict[str, Any]:
    figures = f"value_json.models[{_literal(model)}]"
    # A model that is left out has no version there; Home Assistant then keeps what it knows.
    versions = f"{{'installed_version': {figures}.version, 'latest_version': {figures}.version}}"
    return {
        f"{model}_model": {
            "platform": "update",
            "name": f"{model} model",
            "title": model,
            "state_topic": f"{base}/health",
            "value_template": f"{{% if {figures}.version is defined %}}{{{{ {versions} | to_json }}}}{{% endif %}}",
            "entity_category": "diagnostic",
        }
    }


def _literal(text: str) -> str:
    """Return a name as a string of a template: settings allow quotes and braces in it.

    Not as ASCII: what JSON writes beyond 16 bits is no escape of Jinja's.
    """
    return json.dumps(text, ensure_ascii=False)
