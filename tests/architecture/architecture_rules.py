"""The house rules as functions from sources to violations. Knows no file of this project: tests plant bad ones.

A source is parsed once (`Module`); each rule walks its tree and yields `Violation`s. What is checked is never imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = "tunesmith"
FOUNDATION = ("errors", "types", "optional")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
# The loop reads top to bottom in one place.
LONG_FUNCTIONS = {("train.loop", "fit")}

PICKLES = {"pickle", "_pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "compile": "runs text as code",
    "__import__": "use an import statement, or optional.need for optional packages",
    "os.system": "starts a shell; use subprocess.run with a list",
    "os.popen": "starts a shell; use subprocess.run with a list",
    "torch.load": "unpickles; use safetensors",
    "torch.save": "pickles; use safetensors",
    "yaml.load": "builds objects; use yaml.safe_load",
    "yaml.load_all": "builds objects; use yaml.safe_load_all",
    "yaml.full_load": "builds objects; use yaml.safe_load",
    "yaml.unsafe_load": "builds objects; use yaml.safe_load",
}
ERRORS = {"SettingsError", "DataError", "TrainingError", "ResourceError", "Stopped", "GateFailed"}
# Keyword arguments that may only be written with this value.
HELD_ARGUMENTS = {"trust_remote_code": False, "shell": False, "allow_pickle": False, "weights_only": True}


@dataclass(frozen=True, slots=True)
class Module:
    """One source file. `name` is dotted below the package: "data.read", "data" for its __init__, "" for the root's."""

    name: str
    source: str
    tree: ast.Module
    is_package: bool

    @property
    def part(self) -> str:
        return self.name.split(".")[0]

    @property
    def exported(self) -> frozenset[str]:
        """The literal `__all__`."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
            ):
                return frozenset(ast.literal_eval(node.value))
        return frozenset()


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """What is wrong, and where."""

    module: str
    line: int
    message: str

    def __str__(self) -> str:
        name = f"{ROOT}.{self.module}" if self.module else ROOT
        return f"{name}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class Import:
    """`import target` has no names; `from target import names` has. `target` is absolute."""

    target: str
    names: tuple[str, ...]
    line: int


def parse(sources: Mapping[str, str]) -> dict[str, Module]:
    """{"data/read.py": source} -> {"data.read": Module}."""
    modules = {}
    for path, source in sources.items():
        stem = path.removesuffix(".py").replace("/", ".")
        is_package = stem == "__init__" or stem.endswith(".__init__")
        name = stem.removesuffix("__init__").rstrip(".")
        modules[name] = Module(name, source, ast.parse(source), is_package)
    return modules


def read_package(folder: Path) -> dict[str, Module]:
    """Every Python file below the package's folder."""
    return parse(
        {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*.py"))}
    )


def imports(module: Module) -> Iterator[Import]:
    """Every import, those inside functions, under TYPE_CHECKING and in importlib.import_module("...") included."""
    package = f"{ROOT}.{module.name}".rstrip(".").split(".")
    if not module.is_package:
        package = package[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            yield Import(target, tuple(alias.name for alias in node.names), node.lineno)
        elif isinstance(node, ast.Call) and _dotted(node.func).endswith("import_module") and node.args:
            target = _module_name(node.args[0], module)
            if target:
                yield Import(target, (), node.lineno)


def _module_name(argument: ast.expr, module: Module) -> str:
    """What import_module is given: a constant, "" for f"{__name__}.x" (a package's lazy names), "?" for the rest."""
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    if isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.FormattedValue) and module.is_package:
        head, dot = argument.values[0].value, argument.values[1] if len(argument.values) > 1 else None
        if _dotted(head) == "__name__" and isinstance(dot, ast.Constant) and str(dot.value).startswith("."):
            return ""
    return "?"


def layer_violations(modules: Mapping[str, Module], table: Mapping[str, Iterable[str]]) -> Iterator[Violation]:
    """A part imports the parts that the table gives it, as parts: never upward, never an inner file."""
    for module in modules.values():
        if module.part not in {*table, *FOUNDATION, "", "__main__"}:
            yield Violation(module.name, 1, f"part {module.part!r} is not in the table of layers")
            continue
        for found in imports(module):
            for part, inner, name in _inside(found, modules):
                if part == module.part:
                    continue
                if part not in _allowed(module, table):
                    yield Violation(module.name, found.line, f"{module.part or ROOT!r} may not import {part!r}")
                elif inner:
                    yield Violation(
                        module.name, found.line, f"import the part: from {ROOT}.{part} import ..., not {inner}"
                    )
                elif name and part in modules and modules[part].is_package and name not in modules[part].exported:
                    yield Violation(module.name, found.line, f"{name!r} is not in __all__ of {ROOT}.{part}")


def _allowed(module: Module, table: Mapping[str, Iterable[str]]) -> set[str]:
    if module.name == "":
        return {"api", "config", *FOUNDATION}  # the root re-exports what users take from these
    if module.name == "__main__":
        return {"cli"}
    if module.part in FOUNDATION:
        return {"errors"} if module.part != "errors" else set()
    return {*table[module.part], *FOUNDATION}


def _inside(found: Import, modules: Mapping[str, Module]) -> Iterator[tuple[str, str, str]]:
    """(part, dotted inner file or "", name or "") for each thing that an import takes from this package."""
    path = found.target.split(".")
    if path[0] != ROOT:
        return
    if len(path) == 1:
        for name in found.names or ("",):
            if name == "__version__":
                continue
            known = any(other == name or other.startswith(f"{name}.") for other in modules if name)
            yield (name if known else "api", "", "")  # `from tunesmith import train` takes the part, if it is one
        return
    part = path[1]
    for name in found.names or ("",):
        yield part, found.target if len(path) > 2 else "", name


def cycle_violations(modules: Mapping[str, Module]) -> Iterator[Violation]:
    """Inside a part the files can be put in an order in which each imports only earlier ones."""
    edges: dict[str, dict[str, int]] = {name: {} for name in modules}
    for module in modules.values():
        for found in imports(module):
            path = found.target.split(".")
            if path[0] != ROOT:
                continue
            target = ".".join(path[1:])
            for name in found.names or ("",):
                submodule = f"{target}.{name}".strip(".")
                exported = target in modules and name in modules[target].exported
                end = submodule if submodule in modules and not exported else target
                if end in modules and modules[end].part == module.part:
                    edges[module.name][end] = found.line
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> Iterator[Violation]:
        for target, line in edges[name].items():
            if target in trail:
                ring = " -> ".join([*trail[trail.index(target) :], target])
                yield Violation(name, line, f"import cycle: {ring}")
            elif target not in done:
                yield from visit(target, (*trail, target))
        done.add(name)

    for name in modules:
        if name not in done:
            yield from visit(name, (name,))


def lazy_name_violations(modules: Mapping[str, Module]) -> Iterator[Violation]:
    """A name that a package resolves in __getattr__ must not be a file of it: importing the file binds it."""
    for module in modules.values():
        body = module.tree.body
        if not any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in body):
            continue
        bound = {a.asname or a.name for node in body if isinstance(node, ast.ImportFrom) for a in node.names}
        for name in sorted(module.exported - bound):
            if f"{module.name}.{name}".strip(".") in modules:
                yield Violation(module.name, 1, f"{name!r} would be the file {name}.py, not what it defines")


def package_violations(modules: Mapping[str, Module], base_packages: Iterable[str]) -> Iterator[Violation]:
    """Third-party imports are base dependencies; everything else goes through optional.need."""
    known = {ROOT, *sys.stdlib_module_names, *base_packages}
    for module in modules.values():
        if module.name == "optional":
            continue
        for found in imports(module):
            top = found.target.split(".")[0]
            if (
                top == "?" and module.name == ""
            ):  # its lazy re-exports, which layer_violations sees as imports for typing
                continue
            if top not in known:
                what = "an import by a computed name" if top == "?" else f"{top!r} is no base dependency"
                yield Violation(module.name, found.line, f"{what}: only optional.need imports optional packages")


def forbidden_violations(modules: Mapping[str, Module]) -> Iterator[Violation]:
    """No pickle, no remote code, no text run as code, no shell, no error swallowed whole."""
    for module in modules.values():
        for found in imports(module):
            if found.target.split(".")[0] in PICKLES:
                yield Violation(
                    module.name, found.line, f"{found.target}: pickle can run code; use safetensors or JSON"
                )
        aliases = _aliases(module.tree)
        for node in ast.walk(module.tree):
            for message in _forbidden(node, aliases):
                yield Violation(module.name, getattr(node, "lineno", 1), message)


def _forbidden(node: ast.AST, aliases: Mapping[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
        name = _dotted(node)
        head, _, rest = name.partition(".")
        full = f"{aliases.get(head, head)}.{rest}" if rest else aliases.get(head, head)
        if full in FORBIDDEN_CALLS:
            yield f"{full}: {FORBIDDEN_CALLS[full]}"
    pairs: list[tuple[str | None, ast.expr]] = []
    if isinstance(node, ast.Call):
        pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        swallowed = {"Exception", "BaseException"} & {_dotted(argument) for argument in node.args}
        if _dotted(node.func).endswith("suppress") and swallowed:
            yield f"suppress({swallowed.pop()}) hides every fault: name the one that is expected"
    elif isinstance(node, ast.Dict):
        entries = zip(node.keys, node.values, strict=True)
        pairs = [(k.value, v) for k, v in entries if isinstance(k, ast.Constant) and k.value == "trust_remote_code"]
    for name, value in pairs:
        if name in HELD_ARGUMENTS and not (isinstance(value, ast.Constant) and value.value is HELD_ARGUMENTS[name]):
            yield f"{name} may only be {HELD_ARGUMENTS[name]}"
    if isinstance(node, ast.ExceptHandler) and _catches_all(node) and all(map(_does_nothing, node.body)):
        yield "an except for everything that does nothing hides every fault"


def _catches_all(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or _dotted(kind) in {"Exception", "BaseException"} for kind in caught)


def _does_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass | ast.Continue) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Local name -> full name, so that `import torch as t; t.load` and `from torch import load` are seen."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def budget_violations(modules: Mapping[str, Module]) -> Iterator[Violation]:
    """Lines of a file and of a function (docstring included), parameters of a function (self and cls aside)."""
    for module in modules.values():
        lines = len(module.source.splitlines())
        if lines > MAX_FILE_LINES:
            yield Violation(module.name, lines, f"the file has {lines} lines, {MAX_FILE_LINES} are allowed")
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            may_be_long = (module.name, node.name) in LONG_FUNCTIONS
            if lines > MAX_FUNCTION_LINES and not may_be_long:
                yield Violation(
                    module.name, node.lineno, f"{node.name} has {lines} lines, {MAX_FUNCTION_LINES} are allowed"
                )
            count = _parameter_count(node)
            if count > MAX_PARAMETERS:
                yield Violation(
                    module.name, node.lineno, f"{node.name} has {count} parameters, {MAX_PARAMETERS} are allowed"
                )


def docstring_violations(modules: Mapping[str, Module]) -> Iterator[Violation]:
    """Every file says what its job is."""
    for module in modules.values():
        if not ast.get_docstring(module.tree):
            yield Violation(module.name, 1, "the file has no docstring")


def error_violations(modules: Mapping[str, Module]) -> Iterator[Violation]:
    """Every error that a user can meet says what to change, or names several problems that do."""
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and _dotted(node.func) in ERRORS:
                given = {keyword.arg for keyword in node.keywords}
                if not given & {"fix", "problems", None}:  # None: **more
                    yield Violation(module.name, node.lineno, f"{_dotted(node.func)} without a fix: what to change?")


def _parameter_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    extra = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return len([argument for argument in named if argument.arg not in {"self", "cls"}]) + len(extra)


def _dotted(node: ast.AST | None) -> str:
    """`a.b.c` of a name or an attribute chain; a call or subscript inside it gives "" at that place."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


Rule = Callable[[Mapping[str, Module]], Iterable[Violation]]
RULES: dict[str, Rule] = {
    "no import cycle inside a part": cycle_violations,
    "no lazy name hidden by a file": lazy_name_violations,
    "nothing forbidden": forbidden_violations,
    "budgets": budget_violations,
    "errors say what to change": error_violations,
    "every file has a docstring": docstring_violations,
}
