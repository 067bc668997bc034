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
"""

MANIFEST_INTRODUCTION = """\
A model is a folder: the network, `model.toml`, its labels, its licence and a golden sample. docs/models.md tells how
to write one; this page lists every key.
"""


def settings_page() -> str:
    """Return the whole of docs/settings.md."""
    return _page("Settings", SETTINGS_INTRODUCTION, Settings)


def manifest_page() -> str:
    """Return the whole of docs/model-toml.md."""
    return _page("model.toml", MANIFEST_INTRODUCTION, Manifest)


def _page(title: str, introduction: str, model: type[BaseModel]) -> str:
    parts = [HEAD.format(title=title, introduction=introduction)]
    top, sections = [], []
    for name, field in model.model_fields.items():
        section, is_list = _section_of(field.annotation)
        if section is None:
            top.append((field.alias or name, field))
        else:
            sections.append(_section(f"[[{name}]]" if is_list else f"[{name}]", section))
            sections += [
                _section(f"[{name}.{inner}]", nested)
                for inner, inner_field in section.model_fields.items()
                if (nested := _section_of(inner_field.annotation)[0]) is not None
            ]
    if top:
        parts.append(_table(top))
    return "\n".join(parts).rstrip() + "\n" + "".join(sections)


def _section(heading: str, section: type[BaseModel]) -> str:
    text = inspect.getdoc(section) or ""
    return f"\n## `{heading}`\n\n{text}\n\n{_table(list(section.model_fields.items()))}"


def _section_of(annotation: object) -> tuple[type[BaseModel] | None, bool]:
    """Return the section's model behind a field, and whether there may be several; None for a plain value."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate, candidate is not annotation and typing.get_origin(annotation) is tuple
    return None, False


def _table(fields: list[tuple[str, typing.Any]]) -> str:
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
        rows.append(f"| `{field.alias or name}` | {default} | {text} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write both pages."""
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    (DOCS / "model-toml.md").write_text(manifest_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
