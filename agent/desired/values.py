"""Values of a document become the remote layer of the settings, or errors by path; and settings become values.

From afar a stream or a model is addressed by its name: `{"streams": {"door": {"max_fps": 5}}}`. An index would mean
another camera as soon as somebody edits the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from agent.core.desired import Document, InvalidDocumentError
from agent.core.field_errors import FieldError, cut, field_error, masked
from agent.layers import LISTS, InvalidSettingsError, Layers, Leaf, Loaded
from agent.settings import Settings
from agent.settings.scope import Scope, may_come_from_afar, scope_of, section_inside, section_of
from agent.toml_file import KeyPath, closest, dotted

NEEDED_TO_ADD = ("source", "model")
"""What a stream that the device does not know must bring; a name without them is a misspelling."""
CHANGES_MAX = 100
"""Changed values that an event and a line of the audit tell, with 2 x 200 characters each: 40 kB."""
SHOWN_CHARS_MAX = 200


def load_document(layers: Layers, document: Document | None) -> Loaded:
    """Return the settings with a document as their remote layer; None for the device's own.

    Raises:
        InvalidDocumentError: with every error of every value.
        InvalidSettingsError: without a document: the device's own settings are wrong.
    """
    if document is None:
        return layers.load()
    reader = _Reader(layers, f"remote v{document.version}")
    reader.read(document.values)
    errors = {error.path: error for error in reader.errors}
    loaded: Loaded | None = None
    try:
        loaded = layers.load(reader.leaves)
    except InvalidSettingsError as error:
        for fault in error.faults:
            path = ("values", *_by_name(fault.path, reader.names))
            found = field_error(path, _code(fault.kind), _sentence(fault.message), fault.got)
            errors.setdefault(found.path, found)
        if not errors:
            errors[""] = field_error((), "invalid_value", "; ".join(error.problems))
    if errors or loaded is None:
        raise InvalidDocumentError(list(errors.values()), document.version)
    return loaded


def overridden(loaded: Loaded, document: Document | None, layers: Layers) -> dict[str, str]:
    """Return the values of a document that have no effect, by path, with what overrides them on the device."""
    if document is None:
        return {}
    reader = _Reader(layers, f"remote v{document.version}")
    reader.read(document.values)
    return {
        dotted(_by_name(leaf.path, reader.names)): origin
        for leaf in reader.leaves
        if (origin := loaded.origins.get(dotted(leaf.path), leaf.origin)) != leaf.origin
    }


def effective(settings: Settings) -> dict[str, Any]:
    """Return every value that may be changed from afar, streams and models by name, passwords masked."""
    masked_ones: dict[str, Any] = masked_values(_effective(settings))
    return masked_ones


def _effective(settings: Settings, sections: Iterable[str] = Settings.model_fields) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for section in sections:
        model, is_list = section_of(Settings.model_fields[section].annotation)
        if model is None:
            continue
        found = getattr(settings, section)
        if is_list:
            items = {item.name: fields for item in found if (fields := _remote_fields(item))}
            values |= {section: items} if items else {}
        elif fields := _remote_fields(found):
            values[section] = fields
    return values


def masked_values(values: Any) -> Any:
    """Return nested values with passwords in URLs replaced."""
    if isinstance(values, Mapping):
        return {key: masked_values(value) for key, value in values.items()}
    if isinstance(values, list):
        return [masked_values(value) for value in values]
    return masked(values) if isinstance(values, str) else values


def changes(before: Settings, after: Settings) -> dict[str, list[Any]]:
    """Return what differs, as [before, after] by dotted path; the first 100."""
    found = list(_differences(before, after).items())[:CHANGES_MAX]
    return {dotted(path): [shown_value(old), shown_value(new)] for path, (old, new) in found}


def changed_scopes(before: Settings, after: Settings) -> dict[str, Scope]:
    """Return the mark of every value that differs, by dotted path."""
    return {dotted(path): _scope(path) for path in _differences(before, after)}


def running(settings: Settings) -> frozenset[str]:
    """Return the streams that are to deliver."""
    return frozenset(stream.name for stream in settings.streams if stream.enabled)


def touched_streams(before: Settings, after: Settings) -> set[str]:
    """Return the streams whose source is opened anew, or for the first time."""
    old = {stream.name: stream for stream in before.streams}
    reopened = {
        str(path[1]) for path in _differences(before, after) if path[0] == "streams" and _scope(path) is Scope.RELOAD
    }
    started = {s.name for s in after.streams if s.enabled and (s.name not in old or not old[s.name].enabled)}
    return reopened | started


def _differences(before: Settings, after: Settings) -> dict[KeyPath, tuple[Any, Any]]:
    """Return what differs; None stands also for what is not there. Only sections that differ are dumped."""
    differ = [name for name in Settings.model_fields if getattr(before, name) != getattr(after, name)]
    old, new = _flat(_effective(before, differ)), _flat(_effective(after, differ))
    return {
        path: (old.get(path), new.get(path))
        for path in {**old, **new}
        if old.get(path) != new.get(path) or (path in old) != (path in new)
    }


def _flat(values: Mapping[str, Any], above: KeyPath = ()) -> dict[KeyPath, Any]:
    """Return nested values by path."""
    found: dict[KeyPath, Any] = {}
    for key, value in values.items():
        path = (*above, key)
        found |= _flat(value, path) if isinstance(value, Mapping) else {path: value}
    return found


def _scope(path: KeyPath) -> Scope:
    """Return the mark of the value at a path of `_flat`, which may go on inside of it."""
    section = str(path[0])
    model: type[BaseModel] | None = _model(section)
    for name in path[2:] if section in LISTS else path[1:]:
        assert model is not None
        field = model.model_fields[str(name)]
        if (model := section_inside(field)) is None:
            return scope_of(field)
    raise AssertionError(f"{dotted(path)} is no value")


def shown_value(value: Any) -> Any:
    """Return a value as it is told: without passwords in URLs, and cut."""
    if isinstance(value, str):
        return cut(masked(value), SHOWN_CHARS_MAX)
    text = json.dumps(value) if isinstance(value, list | tuple | dict) else ""
    return cut(masked(text), SHOWN_CHARS_MAX) if len(text) > SHOWN_CHARS_MAX else value


def _remote_fields(section: BaseModel) -> dict[str, Any]:
    """Return what may come from afar; a section inside that is not there is left out."""
    plain, inner = _parts(type(section))
    dumped = section.model_dump(mode="json", include=plain)
    found = {name: getattr(section, name) for name in inner}
    return dumped | {name: _remote_fields(part) for name, part in found.items() if part is not None}


@cache
def _parts(model: type[BaseModel]) -> tuple[set[str], list[str]]:
    """Return the names of the values of a section that may come from afar, and of the sections inside it that do."""
    remote = _remote_names(model)
    inner = [name for name in remote if section_inside(model.model_fields[name]) is not None]
    return set(remote) - set(inner), inner


def _model(section: str) -> type[BaseModel]:
    """Return the class of a section, or of one of its items."""
    model, _ = section_of(Settings.model_fields[section].annotation)
    assert model is not None
    return model


class _Reader:
    """Walks the values of one document. What is right becomes leaves, all else errors."""

    def __init__(self, layers: Layers, origin: str) -> None:
        self.names = {section: layers.names(section) for section in LISTS}
        self.leaves: list[Leaf] = []
        self.errors: list[FieldError] = []
        self._layers = layers
        self._origin = origin

    def read(self, values: Mapping[str, Any]) -> None:
        """Take in a whole document."""
        for section, content in values.items():
            if section not in Settings.model_fields:
                known = [name for name in Settings.model_fields if _remote_names(_model(name))]
                self._error((section,), "unknown_key", f"is not a setting{closest(section, known)}", content)
            elif not isinstance(content, dict):
                form = '{"name": {"field": value}}' if section in LISTS else '{"field": value}'
                self._error((section,), "wrong_type", f"must be an object: {form}", content)
            elif section in LISTS:
                for name, entry in content.items():
                    self._read_item(section, name, entry)
            else:
                self._read_section(_model(section), (section,), (section,), content)

    def _read_item(self, section: str, name: str, entry: Any) -> None:
        path = (section, name)
        if not isinstance(entry, dict):
            self._error(path, "wrong_type", 'must be an object: {"field": value}', entry)
            return
        names = self.names[section]
        if name not in names:
            if section != "streams" or not all(key in entry for key in NEEDED_TO_ADD):
                hint = "; a new stream needs source and model" if section == "streams" else ""
                text = f"is no name under {section} on this device{closest(name, names)}{hint}"
                self._error(path, "unknown_name", text)
                return
            self.leaves.append(Leaf((section, len(names), "name"), name, self._origin))
            names.append(name)
        self._read_section(_model(section), path, (section, names.index(name)), entry)

    def _read_section(self, model: type[BaseModel], path: KeyPath, place: KeyPath, entry: Mapping[str, Any]) -> None:
        """Read fields: `path` is theirs in the document, `place` in the settings."""
        wanted: dict[str, Any] = {}
        for name, value in entry.items():
            field = model.model_fields.get(name)
            if field is None:
                text = f"is not a setting{closest(name, _remote_names(model))}"
                self._error((*path, name), "unknown_key", text, value)
            elif not may_come_from_afar(field):
                self._error((*path, name), "local_only", "can be changed on the device alone", value)
            elif (inner := section_inside(field)) is not None and value is not None:
                self._read_inner(inner, (*path, name), (*place, name), value)
            else:
                wanted[name] = value
        wrong = self._check_types(model, path, wanted)
        self.leaves += [
            Leaf((*place, name), value, self._origin) for name, value in wanted.items() if name not in wrong
        ]

    def _read_inner(self, model: type[BaseModel], path: KeyPath, place: KeyPath, entry: Any) -> None:
        """Read the fields of a section inside another one; what the device says of the others stays."""
        if not isinstance(entry, dict):
            self._error(path, "wrong_type", 'must be an object: {"field": value}', entry)
            return
        if not entry and not self._layers.has(place):
            self.leaves.append(Leaf(place, {}, self._origin))  # It is asked for, with its defaults.
        self._read_section(model, path, place, entry)

    def _check_types(self, model: type[BaseModel], path: KeyPath, wanted: Mapping[str, Any]) -> set[str]:
        """Validate fields strictly: a file may say "5" for 5, a program may not."""
        try:
            model.model_validate(_with_tuples(wanted), strict=True)
        except ValidationError as error:
            found = [entry for entry in error.errors() if entry["loc"] and entry["loc"][0] in wanted]
        else:
            return set()
        for entry in found:
            message = _SENTENCES.get(entry["type"]) or _sentence(entry["msg"])
            self._error((*path, *entry["loc"]), _code(entry["type"]), message, entry["input"])
        return {str(entry["loc"][0]) for entry in found}

    def _error(self, path: KeyPath, code: str, message: str, got: Any = None) -> None:
        self.errors.append(field_error(("values", *path), code, message, got))


def _with_tuples(value: Any) -> Any:
    """Return JSON with its arrays as tuples: a validator that runs before sees lists, which no strict tuple takes."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _remote_names(model: type[BaseModel]) -> list[str]:
    """Return the fields of a section that may be changed from afar, or hold some."""
    return [name for name, field in model.model_fields.items() if may_come_from_afar(field)]


def _by_name(path: KeyPath, names: Mapping[str, Sequence[str]]) -> KeyPath:
    """Return a path with the name of a list's item in the place of its index."""
    if len(path) > 1 and path[0] in LISTS and isinstance(path[1], int):
        known = names[str(path[0])]
        name: str | int = known[path[1]] if path[1] < len(known) else path[1]
        return (path[0], name, *path[2:])
    return path


_CODES = {
    "extra_forbidden": "unknown_key",
    "missing": "missing",
    "bool_as_number": "wrong_type",
    "int_from_float": "wrong_type",
    "literal_error": "not_a_choice",
    "reference": "unknown_name",
    "finite_number": "out_of_range",
}


_SENTENCES = {"tuple_type": "must be a list", "model_type": "must be an object", "dict_type": "must be an object"}
"""In the words of JSON, where pydantic has those of Python."""


def _code(kind: str) -> str:
    """Return our word for one of pydantic's, whose names may change with its versions."""
    if kind in _CODES:
        return _CODES[kind]
    if kind.endswith(("_type", "_parsing")):
        return "wrong_type"
    if kind.startswith(("greater_than", "less_than", "too_", "string_too_")):
        return "out_of_range"
    return "invalid_value"


def _sentence(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return text[0].lower() + text[1:]
