"""Writes docs/settings.md from the settings models, so that the reference cannot drift from the code.

python -m tools.settings_reference
"""

from __future__ import annotations

import inspect
import json
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from agent.models.manifest import Manifest
from agent.settings import Settings
from agent.settings.scope import Scope, scope_of, section_of

DOCS = Path(__file__).resolve().parent.parent / "docs"

HEAD = """\
# {title}

<!-- Written by `python -m tools.settings_reference`; a test compares it with the code. -->

{introduction}
"""

SETTINGS_INTRODUCTION = """\
Settings are TOML. Every key can also come from the environment (`EDGEBEAT_MQTT__URL`, and
`EDGEBEAT_STREAMS__0__MAX_FPS` for the first stream). The command line wins over the environment, the environment over
the file, the file over the default. `edgebeat check --config FILE` validates and prints where each value came from.
Relative paths start at the working folder of the process.

`from afar` tells whether a field may be changed over MQTT (docs/remote.md), and when that takes effect: `live` from
the next frame on; `reload` after the sources and models that it concerns were opened and loaded again; `restart` from
the agent's next start on; `never`: it belongs to the device. Accepted remote settings come between the environment
and the file.
"""

MANIFEST_INTRODUCTION = """\
A model is a folder: the network, `model.toml`, its labels, its licence and a golden sample. docs/models.md tells how
to write one; this page lists every key.
"""


def settings_page() -> str:
    """Return the whole of docs/settings.md."""
    return _page("Settings", SETTINGS_INTRODUCTION, Settings, has_scopes=True)


def manifest_page() -> str:
    """Return the whole of docs/model-toml.md."""
    return _page("model.toml", MANIFEST_INTRODUCTION, Manifest)


def _page(title: str, introduction: str, model: type[BaseModel], *, has_scopes: bool = False) -> str:
    parts = [HEAD.format(title=title, introduction=introduction)]
    top, sections = [], []
    for name, field in model.model_fields.items():
        section, is_list = section_of(field.annotation)
        if section is None:
            top.append((field.alias or name, field))
        else:
            heading = f"[[{name}]]" if is_list else f"[{name}]"
            text = inspect.getdoc(section) or ""
            table = _table(list(section.model_fields.items()), has_scopes=has_scopes)
            sections.append(f"\n## `{heading}`\n\n{text}\n\n{table}")
    if top:
        parts.append(_table(top, has_scopes=has_scopes))
    return "\n".join(parts).rstrip() + "\n" + "".join(sections)


def _table(fields: list[tuple[str, typing.Any]], *, has_scopes: bool) -> str:
    rows = ["| key | default | from afar | what |", "|---|---|---|---|"]
    if not has_scopes:
        rows = ["| key | default | what |", "|---|---|---|"]
    for name, field in fields:
        if field.default_factory is not None:
            default = "computed"
        elif field.default is PydanticUndefined:
            default = "required"
        elif field.default is None:
            default = "none"
        else:
            value = field.default
            default = f"`{json.dumps(value, default=str)}`"
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        scope = scope_of(field)
        mark = f" {'never' if scope is Scope.LOCAL_ONLY else scope} |" if has_scopes else ""
        rows.append(f"| `{field.alias or name}` | {default} |{mark} {text} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write both pages."""
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    (DOCS / "model-toml.md").write_text(manifest_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
