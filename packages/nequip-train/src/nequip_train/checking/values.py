"""Kinds of values in a config: whether a value is of one, what to call it, its JSON schema.

A kind says less than Python's annotations do: what it does not know is `ANYTHING`, so a value that
it refuses is wrong.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nequip_core.errors import ConfigError, closest
from nequip_core.instantiate import TARGET

__all__ = [
    "ANYTHING",
    "BUILT",
    "INTERPOLATION",
    "UNKNOWN",
    "Checked",
    "Choice",
    "Fault",
    "File",
    "Items",
    "Kind",
    "Object",
    "OneOf",
    "Scalar",
    "Table",
    "shown",
]

INTERPOLATION = {"type": "string", "pattern": "\\$\\{"}
"""JSON schema of a text that OmegaConf replaces: it may become anything."""
BUILT = {"$ref": "#/definitions/built"}
"""JSON schema of a config with ``_target_``, defined in the whole schema."""


class _Unknown:
    """Stands for a value that could not be resolved; a mistake is reported for it elsewhere."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = _Unknown()


@dataclass(frozen=True)
class Fault:
    """What is wrong with a value.

    Attributes:
        path: keys and indices that lead to it from the value.
        text: what was expected and found.
        is_key: whether the last key of the path should not be there.
    """

    path: tuple[str | int, ...]
    text: str
    is_key: bool = False


class Kind(abc.ABC):
    """A kind of values."""

    # Whether a config with _target_, of the result of which nothing is known, may stand for it.
    may_be_built = True

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What a message calls it, with its article."""

    def faults(self, value: Any) -> Iterator[Fault]:
        """Yield what is wrong with a plain value; nothing if it is of this kind."""
        is_config = isinstance(value, Mapping) and TARGET in value
        if value is not UNKNOWN and not (self.may_be_built and is_config):
            yield from self._faults(value)

    @abc.abstractmethod
    def _faults(self, value: Any) -> Iterator[Fault]:
        """Yield what is wrong with a value that is known."""

    @abc.abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values, interpolations left out."""

    def schema_in_config(self) -> dict[str, Any]:
        """Return the JSON schema of what a config may have in the place of such a value."""
        own = self.schema()
        if not own:
            return {"$ref": "#/definitions/anything"}
        if self.may_be_built and own != BUILT:
            own = {"if": {"type": "object", "required": [TARGET]}, "then": BUILT, "else": own}
        return {"if": INTERPOLATION, "else": own}

    def _wrong(self, value: Any, hint: str = "") -> Fault:
        return Fault((), f"expected {self.name}, found {shown(value)}{hint}")


def shown(value: Any) -> str:
    """Return a short text for a value, as a config has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(str, list(value)[:4])) or 'nothing'}"
    text = str(value)
    return text if len(text) < 60 else f"{text[:56]}..."


class _Anything(Kind):
    @property
    def name(self) -> str:
        return "anything"

    def _faults(self, value: Any) -> Iterator[Fault]:
        return iter(())

    def schema(self) -> dict[str, Any]:
        return {}


ANYTHING: Kind = _Anything()


@dataclass(frozen=True)
class Scalar(Kind):
    """Null, true or false, a number, or a text.

    Args:
        type: null, bool, int, float or str.
        is_lenient: take as a number, too, what Python code often does: digits in a text (those of
            an environment variable, say), and true.
    """

    type: str
    is_lenient: bool = False

    @property
    def name(self) -> str:
        """What a message calls it."""
        names = {"bool": "true or false", "int": "an integer", "float": "a number", "str": "a text"}
        return names.get(self.type, "null")

    def _faults(self, value: Any) -> Iterator[Fault]:
        if self._fits(value):
            return
        if self.type == "str" and isinstance(value, bool):
            hint = "; YAML reads yes, no, on and off as true and false: put it in quotes"
        else:
            hint = ""
        yield self._wrong(value, hint)

    def _fits(self, value: Any) -> bool:
        if self.type == "null":
            return value is None
        if self.type == "bool":
            return isinstance(value, int | float) and value in (0, 1)
        if self.type == "str":
            return isinstance(value, str | int | float) and not isinstance(value, bool)
        if isinstance(value, bool):
            return self.is_lenient
        if self.is_lenient and isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return False
        if self.type == "float":
            return isinstance(value, int | float)
        # 1e6 is how people write a large whole number.
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        types = {"null": "null", "bool": "boolean", "int": "integer", "float": "number"}
        return {"type": types.get(self.type, "string")}


@dataclass(frozen=True)
class Choice(Kind):
    """One of some values.

    Args:
        values: the values.
        ignores_case: whether capital letters may differ.
    """

    values: tuple[Any, ...]
    ignores_case: bool = False

    @property
    def name(self) -> str:
        """What a message calls it."""
        listed = list(dict.fromkeys(shown(value).strip("'") for value in self.values))
        return listed[0] if len(listed) == 1 else f"one of {', '.join(listed)}"

    def _faults(self, value: Any) -> Iterator[Fault]:
        # 1 is equal to true, but is another value in a config.
        known = [(type(choice), choice) for choice in self.values]
        if (type(value), value) in known if not isinstance(value, list | dict) else False:
            return
        texts = [choice for choice in self.values if isinstance(choice, str)]
        is_text = isinstance(value, str)
        if self.ignores_case and is_text and value.casefold() in map(str.casefold, texts):
            return
        near = closest(value, texts) if isinstance(value, str) else ""
        yield self._wrong(value, near)

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema; case is shown as documented."""
        if self.ignores_case:
            return {"type": "string", "examples": list(self.values)}
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Items(Kind):
    """A list.

    Args:
        item: what is in it.
        length: how many, if that is fixed.
    """

    item: Kind = ANYTHING
    length: int | None = None

    @property
    def name(self) -> str:
        """What a message calls it."""
        return "a list" if self.length is None else f"a list of {self.length} entries"

    def _faults(self, value: Any) -> Iterator[Fault]:
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        if not is_list or self.length not in (None, len(value)):
            yield self._wrong(value)
        else:
            for index, entry in enumerate(value):
                for fault in self.item.faults(entry):
                    yield Fault((index, *fault.path), fault.text, fault.is_key)

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        length = {} if self.length is None else {"minItems": self.length, "maxItems": self.length}
        item = self.item.schema_in_config()
        return {"type": "array", "items": item, **length}


@dataclass(frozen=True)
class Table(Kind):
    """A mapping.

    Args:
        value: what its values are, those of `keys` excepted.
        keys: what the values of known keys are.
        required: keys that must be there.
        is_open: whether there may be other keys than `keys`.
        may_be_built: whether it may be a config with ``_target_``, of which nothing is known.
    """

    value: Kind = ANYTHING
    keys: Mapping[str, Kind] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    is_open: bool = True
    may_be_built: bool = True

    @property
    def name(self) -> str:
        """What a message calls it."""
        return "a mapping"

    def _faults(self, value: Any) -> Iterator[Fault]:
        if not isinstance(value, Mapping):
            yield self._wrong(value)
            return
        names = list(self.keys)
        unknown = [] if self.is_open else [key for key in value if key not in self.keys]
        for key in unknown:
            near = closest(str(key), names) or f" (there are {', '.join(names)})"
            yield Fault((key,), f"there is no key '{key}' here{near}", is_key=True)
        for key in self.required:
            alike = any(closest(str(found), [key]) for found in unknown)
            if key not in value and not alike:
                yield Fault((), f"lacks the key '{key}'; it needs {', '.join(self.required)}")
        for key, entry in value.items():
            if key not in unknown:
                for fault in self.keys.get(key, self.value).faults(entry):
                    yield Fault((key, *fault.path), fault.text, fault.is_key)

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        other = self.value.schema_in_config()
        schema: dict[str, Any] = {"type": "object"}
        if self.keys:
            schema["properties"] = {k: kind.schema_in_config() for k, kind in self.keys.items()}
        if self.required:
            schema["required"] = list(self.required)
        if not self.is_open:
            schema["additionalProperties"] = False
        else:
            schema["additionalProperties"] = other
        return schema


@dataclass(frozen=True)
class Object(Kind):
    """What only code can make: in a config, a mapping with ``_target_``.

    Args:
        class_name: the class.
    """

    class_name: str

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"a mapping with {TARGET} ({self.class_name})"

    def _faults(self, value: Any) -> Iterator[Fault]:
        yield self._wrong(value)

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        return BUILT


@dataclass(frozen=True)
class File(Kind):
    """The path of a file that exists.

    Args:
        what: what kind of a file.
    """

    what: str = "file"

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"the path of a {self.what}"

    def _faults(self, value: Any) -> Iterator[Fault]:
        if not isinstance(value, str):
            yield self._wrong(value)
            return
        path = Path(value).expanduser()
        if path.exists():
            return
        folder = path.parent
        names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
        near = closest(path.name, names)
        if not near and not folder.is_dir():
            near = f"; there is no folder '{folder}'"
        yield Fault((), f"there is no {self.what} at '{value}'{near}")

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        return {"type": "string"}


@dataclass(frozen=True)
class Checked(Kind):
    """A value that a function accepts.

    Args:
        label: what messages call it.
        check: raises a `ConfigError` for other values.
        examples: values it accepts.
    """

    label: str
    check: Callable[[Any], object]
    examples: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """What a message calls it."""
        return self.label

    def _faults(self, value: Any) -> Iterator[Fault]:
        try:
            self.check(value)
        except ConfigError as error:
            # It begins with the name of the argument, and so does the message.
            yield Fault((), re.sub(r"^\w+: ", "", str(error)))

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        return {"examples": list(self.examples)} if self.examples else {}


@dataclass(frozen=True)
class OneOf(Kind):
    """A value of any of several kinds.

    Args:
        kinds: the kinds.
    """

    kinds: tuple[Kind, ...]

    @property
    def name(self) -> str:
        """What a message calls it."""
        names = list(dict.fromkeys(kind.name for kind in self.kinds))
        if "a number" in names and "an integer" in names:
            names.remove("an integer")
        if len(names) > 1 and "true or false" in names:
            place = names.index("true or false")
            names[place : place + 1] = ["true", "false"]
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"

    def _faults(self, value: Any) -> Iterator[Fault]:
        # Where one kind fits on the outside, what is wrong inside of it.
        found = [list(kind.faults(value)) for kind in self.kinds]
        if all(found):
            inside = [faults for faults in found if all(fault.path for fault in faults)]
            if inside:
                yield from inside[0]
                return
            texts = [text for kind in self.kinds for text in _texts(kind)]
            near = closest(value, texts) if isinstance(value, str) else ""
            yield self._wrong(value, near)

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        schemas = [kind.schema() for kind in self.kinds]
        unique = [schema for index, schema in enumerate(schemas) if schema not in schemas[:index]]
        if not all(schemas):
            return {}
        # Choosing by type, an editor tells what is wrong inside of a list or mapping.
        containers = [schema for schema in unique if schema.get("type") in ("array", "object")]
        others = [schema for schema in unique if schema not in containers]
        chosen: dict[str, Any] = others[0] if len(others) == 1 else {"anyOf": others}
        for kind in ("array", "object"):
            of_kind = [schema for schema in containers if schema["type"] == kind]
            if of_kind:
                then = of_kind[0] if len(of_kind) == 1 else {"anyOf": of_kind}
                chosen = {
                    "if": {"type": kind},
                    "then": then,
                    **({"else": chosen} if others else {}),
                }
                others = [chosen]
        return chosen


def _texts(kind: Kind) -> list[str]:
    if isinstance(kind, OneOf):
        return [text for inner in kind.kinds for text in _texts(inner)]
    if isinstance(kind, Choice):
        return [value for value in kind.values if isinstance(value, str)]
    return []
