"""The arguments that targets take, from their source; by an import where that is unclear."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from dataclasses import dataclass, field, replace
from pathlib import Path

from nequip_core.documented_names import canonical_name
from nequip_core.errors import ConfigError, closest
from nequip_core.instantiate import import_object
from nequip_train.checking.annotations import kind_of_annotation, union
from nequip_train.checking.sources import Absent, Found, Module, Sources, Unclear, dotted
from nequip_train.checking.values import ANYTHING, Choice, Kind, Scalar
from nequip_train.construction import accepted_arguments

__all__ = ["Argument", "Signature", "Signatures"]

Function = ast.FunctionDef | ast.AsyncFunctionDef
_BUILDER = "nequip_model.builder.model_builder"
_EMPTY_BASES = {"object", "ABC", "Generic", "Protocol"}
_HARMLESS_DECORATORS = {
    "staticmethod",
    "classmethod",
    "override",
    "final",
    "abstractmethod",
    "no_grad",
    "total_ordering",
    "runtime_checkable",
    "deprecated",
    "rank_zero_only",
}
_LIBRARIES = ("nequip", "torch", "lightning", "torchmetrics", "allegro", "schedulefree")
OURS = ("nequip_core.", "nequip_model.", "nequip_train.", "nequip_package.", "nequip_compile.")


@dataclass(frozen=True)
class Argument:
    """An argument of a target.

    Attributes:
        kind: what it may be.
        is_required: whether it has no default.
    """

    kind: Kind = ANYTHING
    is_required: bool = False


# Arguments that every model builder takes besides its own.
_PROTOCOL = {
    "seed": Argument(Scalar("int"), is_required=True),
    "model_dtype": Argument(Choice(("float32", "float64")), is_required=True),
    "compile_mode": Argument(Choice(("eager", "compile"))),
}


@dataclass(frozen=True)
class Signature:
    """What a target takes.

    Attributes:
        label: what messages call the target.
        arguments: by name.
        is_open: whether it takes further arguments that cannot be known.
        docstring: of the target, "" where it was not read.
    """

    label: str
    arguments: dict[str, Argument] = field(default_factory=dict)
    is_open: bool = True
    docstring: str = ""


class _NotClearError(Exception):
    """The source does not tell; import the target instead."""


class Signatures:
    """The signatures of targets, each found once.

    Attributes:
        imported: targets of which the source was not enough.
    """

    def __init__(self, sources: Sources | None = None) -> None:
        self.sources = sources or Sources()
        self.imported: list[str] = []
        self._known: dict[str, Signature | ConfigError] = {}

    @property
    def count(self) -> int:
        """The number of targets that were asked for."""
        return len(self._known)

    def of(self, target: str) -> Signature:
        """Return the signature of what a ``_target_`` names.

        Raises:
            ConfigError: it names nothing; the message has the nearest valid name.
        """
        if target not in self._known:
            try:
                self._known[target] = self._find(target)
            except ConfigError as error:
                self._known[target] = error
        found = self._known[target]
        if isinstance(found, ConfigError):
            raise found
        return found

    def read(self, target: str) -> Signature | None:
        """Return the signature as the source tells it, None if only an import can tell."""
        path = canonical_name(target)
        answer = self.sources.find(path)
        if not isinstance(answer, Found):
            return None
        try:
            return self._of_node(answer, is_lenient=not path.startswith(OURS))
        except _NotClearError:
            return None

    def derives(self, target: str, base: str) -> bool | None:
        """Return whether a class is `base` or derived from it, None if its source leaves it open.

        Args:
            target: as in a config.
            base: full path of a class.
        """
        answer = self.sources.find(canonical_name(target))
        if not isinstance(answer, Found):
            return None
        if isinstance(answer.node, Function):
            return False
        try:
            classes = self._linearized(answer)
        except _NotClearError:
            return None
        paths = [f"{item.module.name}.{getattr(item.node, 'name', '')}" for item in classes]
        return base in paths

    def _find(self, target: str) -> Signature:
        path = canonical_name(target)
        if path == target and target.partition(".")[0] == "nequip":
            # Tells the nearest documented name, without importing anything.
            import_object(target)
        if not all(part.isidentifier() for part in path.split(".")):
            import_object(target)
        answer = self.sources.find(path)
        if isinstance(answer, Absent):
            raise ConfigError(_absent(target, answer))
        signature = self.read(target) if isinstance(answer, Found) else None
        return signature or self._imported(target)

    def _imported(self, target: str) -> Signature:
        self.imported.append(target)
        found = import_object(target)
        if not callable(found):
            raise ConfigError(f"'{target}' is not a class or function")
        names, required, is_open = accepted_arguments(found)
        arguments = {name: Argument(is_required=name in required) for name in names}
        doc = inspect.getdoc(found) or ""
        return Signature(getattr(found, "__name__", target), arguments, is_open, doc)

    def _of_node(self, found: Found, is_lenient: bool) -> Signature:
        if isinstance(found.node, ast.ClassDef):
            return self._of_class(found, is_lenient)
        if isinstance(found.node, Function):
            return self._of_function(found.node, found.module, is_lenient)
        raise _NotClearError

    def _of_function(self, node: Function, module: Module, is_lenient: bool) -> Signature:
        own, is_open = self._parameters(node, module, is_lenient, skip_first=False)
        doc = ast.get_docstring(node) or ""
        signature = Signature(node.name, own, is_open, doc)
        for decorator in node.decorator_list:
            signature = self._decorated(signature, decorator, module)
        if any(dotted(d).endswith("classmethod") for d in node.decorator_list):
            first = next(iter(signature.arguments), None)
            rest = {k: v for k, v in signature.arguments.items() if k != first}
            signature = replace(signature, arguments=rest)
        return signature

    def _of_class(self, found: Found, is_lenient: bool) -> Signature:
        node = found.node
        if not isinstance(node, ast.ClassDef):
            raise _NotClearError
        arguments: dict[str, Argument] = {}
        is_open, has_any = True, False
        for owner in self._linearized(found):
            if not isinstance(owner.node, ast.ClassDef):
                raise _NotClearError
            self._require_plain(owner.node, owner.module)
            methods = {item.name: item for item in owner.node.body if isinstance(item, Function)}
            if "__new__" in methods:
                raise _NotClearError
            if "__init__" not in methods:
                continue
            method = methods["__init__"]
            for decorator in method.decorator_list:
                self._decorated(Signature(node.name), decorator, owner.module)
            own, is_open = self._parameters(method, owner.module, is_lenient, skip_first=True)
            if has_any and not owner.module.name.startswith(OURS):
                # A class may itself give its base what that needs, under another name for example.
                own = {name: replace(value, is_required=False) for name, value in own.items()}
            arguments |= {name: value for name, value in own.items() if name not in arguments}
            has_any = True
            if not is_open:
                break
        doc = ast.get_docstring(node) or ""
        return Signature(node.name, arguments, is_open and has_any, doc)

    def _require_plain(self, node: ast.ClassDef, module: Module) -> None:
        """Raise `_NotClearError` for a class that is made or decorated in a way of its own."""
        for keyword in node.keywords:
            if keyword.arg != "metaclass" or dotted(keyword.value).rpartition(".")[2] != "ABCMeta":
                raise _NotClearError
        for decorator in node.decorator_list:
            name = dotted(getattr(decorator, "func", decorator)).rpartition(".")[2]
            if name not in _HARMLESS_DECORATORS:
                raise _NotClearError

    def _linearized(self, found: Found, depth: int = 0) -> list[Found]:
        """Return a class and its bases in the order of method resolution (C3)."""
        if not isinstance(found.node, ast.ClassDef) or depth > 30:
            raise _NotClearError
        bases: list[Found] = []
        for base in found.node.bases:
            name = dotted(base.value if isinstance(base, ast.Subscript) else base)
            if name.rpartition(".")[2] in _EMPTY_BASES:
                continue
            answer = self.sources.lookup(found.module, name) if name else Unclear()
            if isinstance(answer, Found) and isinstance(answer.node, ast.ClassDef):
                bases.append(answer)
            else:
                # Of this base and what comes after it nothing is known.
                raise _NotClearError
        sequences = [self._linearized(base, depth + 1) for base in bases] + [bases]
        return [found, *_merged(sequences)]

    def _parameters(
        self, node: Function, module: Module, is_lenient: bool, skip_first: bool
    ) -> tuple[dict[str, Argument], bool]:
        """Return the arguments of a function, and whether it takes further keyword arguments."""
        given = node.args
        positional = [*given.posonlyargs, *given.args]
        defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
        pairs = list(zip(positional, [*defaults, *given.defaults], strict=True))
        # A config gives arguments by name.
        pairs = pairs[max(len(given.posonlyargs), int(skip_first)) :]
        pairs += list(zip(given.kwonlyargs, given.kw_defaults, strict=True))
        arguments = {}
        for argument, default in pairs:
            kind = kind_of_annotation(argument.annotation, module, self.sources, is_lenient)
            if isinstance(default, ast.Constant) and default.value is None:
                kind = union([kind, Scalar("null")])
            arguments[argument.arg] = Argument(kind, default is None)
        return arguments, given.kwarg is not None

    def _decorated(self, signature: Signature, decorator: ast.expr, module: Module) -> Signature:
        """Return the signature that a decorator leaves of a function's own."""
        call = decorator if isinstance(decorator, ast.Call) else None
        name = dotted(call.func if call else decorator)
        if name.rpartition(".")[2] in _HARMLESS_DECORATORS:
            return signature
        origin = self._origin(module, name)
        if origin == _BUILDER:
            return self._builder(signature, call, module)
        answer = self.sources.find(origin) if origin else Unclear()
        if not isinstance(answer, Found) or not isinstance(answer.node, Function):
            raise _NotClearError
        for inner in ast.walk(answer.node):
            if isinstance(inner, Function) and inner is not answer.node:
                wrapping = (dotted(getattr(d, "func", d)) for d in inner.decorator_list)
                if any(text.rpartition(".")[2] == "wraps" for text in wrapping):
                    return signature
        raise _NotClearError

    def _origin(self, module: Module, name: str) -> str:
        """Return the full path of a name, documented names replaced by ours."""
        first, _, rest = name.partition(".")
        bound = module.bindings.get(first)
        if not isinstance(bound, tuple):
            return f"{module.name}.{name}"
        path = ".".join(part for part in (*bound, rest) if part)
        return canonical_name(path)

    def _builder(self, signature: Signature, call: ast.Call | None, module: Module) -> Signature:
        """Return the signature of a model builder, see `nequip_model.builder.model_builder`."""
        options = {k.arg: k.value for k in call.keywords} if call else {}
        arguments, is_open = dict(signature.arguments), signature.is_open
        if "extends" in options:
            path = self._origin(module, dotted(options["extends"]))
            extended = self.read(path)
            if extended is None:
                raise _NotClearError
            replaced = options.get("replaces", ast.Tuple([], ast.Load()))
            try:
                hidden = {*ast.literal_eval(replaced), *_PROTOCOL}
            except ValueError:
                raise _NotClearError from None
            passed_on = {k: v for k, v in extended.arguments.items() if k not in hidden}
            arguments = {**passed_on, **arguments}
            is_open = extended.is_open
        return replace(signature, arguments={**_PROTOCOL, **arguments}, is_open=is_open)


def _merged(sequences: list[list[Found]]) -> list[Found]:
    """Return the C3 merge of linearizations."""
    merged: list[Found] = []
    waiting = [list(sequence) for sequence in sequences if sequence]
    while waiting:
        for sequence in waiting:
            head = sequence[0]
            if not any(head.node is other.node for rest in waiting for other in rest[1:]):
                break
        else:
            raise _NotClearError
        merged.append(head)
        waiting = [[item for item in rest if item.node is not head.node] for rest in waiting]
        waiting = [rest for rest in waiting if rest]
    return merged


def _absent(target: str, answer: Absent) -> str:
    """Return the message for a target that names nothing."""
    if not answer.parent:
        text = f"'{target}' does not exist: there is no module '{answer.name}' installed"
        if Path(f"{answer.name}.py").exists() or Path(answer.name, "__init__.py").exists():
            return (
                f"{text}, but there is one in this folder: put the folder on the path of imports, "
                "PYTHONPATH=."
            )
        libraries = [name for name in _LIBRARIES if importlib.util.find_spec(name)]
        return text + closest(answer.name, libraries)
    near = closest(answer.name, list(answer.known))
    return f"'{target}' does not exist: {answer.parent} has no '{answer.name}'{near}"
