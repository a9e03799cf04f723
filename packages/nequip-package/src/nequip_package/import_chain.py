"""Which code a packaged model needs: every import followed, and the chain shown where one breaks.

The sources are read, not run. A module that needs a library which this machine lacks is followed
like any other.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import PackagingError
from nequip_package.documented_imports import DocumentedImports, is_documented
from nequip_package.import_statements import ImportStatement, import_statements
from nequip_package.sources import Source, SourceFinder, demangled, is_mangled

if TYPE_CHECKING:
    from torch.package import PackagingError as TorchPackagingError

__all__ = ["WAY_OUT", "CodeWalk", "Problem", "broken_imports", "walk_code"]

WAY_OUT = (
    "every import of packaged code must be internal, external or mock. The distribution that owns "
    "the code declares it: own code as an entry point of group 'nequip.extension', a library as "
    "external in an entry point of group 'nequip.packaging' or by "
    "register_libraries_as_external_for_packaging; docs/package/extensions.md shows how"
)

# What torch.package writes for a mocked module.
_STAND_IN = "from _mock import MockedObject"


@dataclass(frozen=True)
class Problem:
    """Why one module cannot be packaged.

    Attributes:
        module: dotted name.
        reason: what is wrong and what to do.
        chain: the imports that lead to it, from what is pickled.
    """

    module: str
    reason: str
    chain: tuple[str, ...]


@dataclass
class CodeWalk:
    """What following every import of the pickled classes found.

    Attributes:
        sources: internal modules, baked ones included.
        external: modules that the code imports from its environment.
        mock: modules that are replaced by stand-ins.
        imports: internal module -> its import statements.
        on_load: internal modules that are imported for certain when the model is loaded.
        problems: what stops the writer.
        skipped: optional imports that nobody declares and that are not installed: module -> where.
    """

    sources: dict[str, Source] = field(default_factory=dict)
    external: set[str] = field(default_factory=set)
    mock: set[str] = field(default_factory=set)
    imports: dict[str, list[ImportStatement]] = field(default_factory=dict)
    on_load: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def require_packageable(self, what: str) -> None:
        """Check that nothing stops the writer.

        Raises:
            PackagingError: something does; each module with the imports that lead to it.
        """
        if not self.problems:
            return
        lines = [f"the code of {what} cannot be archived:"]
        for problem in self.problems:
            lines.append(f"  {problem.module}: {problem.reason}")
            lines.append(f"    imported by {' -> '.join(problem.chain)}")
        raise PackagingError("\n".join([*lines, WAY_OUT]))


def walk_code(
    roots: Mapping[str, str], rules: PackagingRules, finder: SourceFinder | None = None
) -> CodeWalk:
    """Follow every import, also those in functions, of the modules that a pickle names.

    Args:
        roots: module of a pickled class (as its ``__module__`` says) -> what holds it.
        rules: the packaging rules in force.
        finder: finds sources; the default looks into this environment only.
    """
    walk = _Walk(rules, finder or SourceFinder())
    for module in sorted(roots):
        walk.start(module, roots[module])
    return walk.finish()


class _Walk:
    def __init__(self, rules: PackagingRules, finder: SourceFinder) -> None:
        self.rules = rules
        self.finder = finder
        self.found = CodeWalk()
        self.documented = DocumentedImports(finder)
        self.parents: dict[str, str] = {}
        self.waiting: deque[str] = deque()
        self.certain: dict[str, set[str]] = {}
        self.roots: set[str] = set()

    def start(self, module: str, holder: str) -> None:
        name = demangled(module)
        if not is_mangled(module):
            self._refuse_two_versions(name, holder)
        self.roots.add(name)
        self._reach(name, f"<{holder}>", certain=True)

    def finish(self) -> CodeWalk:
        while self.waiting:
            self._read(self.waiting.popleft())
        self.found.sources.update(self.documented.sources())
        self._mark_what_loading_imports()
        return self.found

    def _refuse_two_versions(self, module: str, holder: str) -> None:
        packaged, installed = self.finder.in_base(module), self.finder.installed(module)
        if packaged and installed and packaged.text != installed.text:
            self._problem(
                module,
                f"<{holder}>",
                "is used both as the base package holds it and as it is installed, and the two "
                "differ; build the model from one of them",
            )

    def _reach(self, module: str, parent: str, certain: bool) -> None:
        """Note that `parent` imports `module`; read it later if it is internal."""
        if certain:
            self.certain.setdefault(parent, set()).add(module)
        if module in self.parents:
            return
        self.parents[module] = parent
        category = self._category(module)
        if category == "internal":
            self.waiting.append(module)
        elif category == "external":
            self.found.external.add(module)
        elif category == "mock":
            self.found.mock.add(module)
        else:
            self._problem(module, parent, "is declared neither internal nor external nor mock")

    def _category(self, module: str) -> str | None:
        top = module.partition(".")[0]
        if module in ("_mock", "torch_package_importer") or module in self.finder.base_externals:
            return "external"  # torch.package provides the first two itself
        in_base = self.finder.in_base(module)
        if in_base:
            return "mock" if _STAND_IN in in_base.text else "internal"
        for category in ("internal", "external", "mock"):
            if any(
                module == name or module.startswith(f"{name}.")
                for name in getattr(self.rules, category)
            ):
                return category
        if top == "torch" or top in sys.stdlib_module_names:
            return "external"
        return None

    def _read(self, module: str) -> None:
        source = self.finder.in_base(module) or self.finder.installed(module)
        if source is None:
            self._problem(
                module,
                self.parents[module],
                "is compiled code, which cannot be copied; declare it external"
                if self.finder.is_module(module)
                else "does not exist here",
            )
            return
        try:
            tree = ast.parse(source.text)
        except SyntaxError as error:
            self._problem(module, self.parents[module], f"is not valid Python: {error}")
            return
        self.found.sources[module] = source
        package = module if source.is_package else module.rpartition(".")[0]
        statements = list(import_statements(tree, package))
        self.found.imports[module] = statements
        for statement in statements:
            self._follow(module, statement, source, tree)

    def _follow(
        self, module: str, statement: ImportStatement, source: Source, tree: ast.Module
    ) -> None:
        certain = statement.on_load and not statement.conditional
        if source.from_base:
            target = self._target_in_base(statement)
            if target is not None:
                self._reach(target, module, certain)
            return
        if is_documented(statement.module) and self._category(statement.module) is None:
            self.parents.setdefault(statement.module, module)
            targets, reasons = self.documented.add(statement, tree, certain)
            for reason in reasons:
                self._problem(statement.module, module, reason)
            for target, sure in targets:
                self._reach(target, statement.module, sure)
            if certain:
                self.certain.setdefault(module, set()).add(statement.module)
            return
        self._require_name_in_base(module, statement)
        target = self._target(statement)
        if self._may_be_left_out(target, statement):
            self.found.skipped.setdefault(target, f"{module}, line {statement.line}")
            return
        self._reach(target, module, certain)

    def _require_name_in_base(self, module: str, statement: ImportStatement) -> None:
        """Check that documented names which the base package has baked in hold this one too."""
        base = self.finder.in_base(statement.module)
        if base is None or not is_documented(statement.module):
            return
        if statement.name and not re.search(rf"\b{re.escape(statement.name)}\b", base.text):
            self._problem(
                statement.module,
                module,
                f"is the base package's, which has no '{statement.name}'; build the model from one "
                "kind of code",
            )

    def _target_in_base(self, statement: ImportStatement) -> str | None:
        """Return what a statement in the base package's code needs; None: that is not there.

        The code of a package ran without it, and never takes from the environment what belongs to
        a library that the package brings.
        """
        names = [f"{statement.module}.{statement.name}"] if statement.name else []
        for target in [*names, statement.module]:
            if self.finder.in_base(target) or target in self.finder.base_externals:
                return target
        if statement.module.partition(".")[0] in self.finder.base_tops:
            return None
        target = self._target(statement)
        return target if self._category(target) in ("external", "mock") else None

    def _target(self, statement: ImportStatement) -> str:
        """Return the module that a statement needs: the submodule if it names one."""
        if statement.name and statement.name != "*":
            submodule = f"{statement.module}.{statement.name}"
            if self.finder.is_module(submodule):
                return submodule
        return statement.module

    def _may_be_left_out(self, target: str, statement: ImportStatement) -> bool:
        """Return whether the code runs as it does here without this import."""
        declared = self._category(target) == "external"
        return statement.optional and not declared and not self.finder.is_module(target)

    def _problem(self, module: str, parent: str, reason: str) -> None:
        chain = [module]
        while parent in self.parents and parent not in chain:
            chain.append(parent)
            parent = self.parents[parent]
        chain.append(parent)
        self.found.problems.append(Problem(module, reason, tuple(reversed(chain))))

    def _mark_what_loading_imports(self) -> None:
        waiting = list(self.roots)
        while waiting:
            module = waiting.pop()
            if module in self.found.on_load:
                continue
            self.found.on_load.add(module)
            waiting += self.certain.get(module, ())


def broken_imports(error: TorchPackagingError) -> str:
    """Return what torch.package objects to: each module, why, and the imports that lead to it."""
    graph = error.dependency_graph
    lines = ["the model's code cannot be archived:"]
    for module, attributes in graph.nodes.items():
        reason = attributes.get("error")
        if reason is None:
            continue
        context = attributes.get("error_context")
        lines.append(f"  {module}: {reason.value}{f' ({context})' if context else ''}")
        lines.append(f"    imported by {' -> '.join(graph.first_path(module))}")
    return "\n".join([*lines, WAY_OUT])
