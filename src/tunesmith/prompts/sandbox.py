"""Runs the Jinja source of a chat template within bounds of time and memory: it comes with a model, from anywhere.

Jinja's sandbox keeps a template away from files and from the insides of Python, not from computing for ever or from
filling the memory. Here whatever makes a text or a list is paid for out of a budget, beforehand where the result can be
longer than what it is made of. Rounds of loops, calls and outputs pay as well, and the clock is read now and then.
Not interrupted is a single operation on what was paid for, such as comparing two lists that are nested dozens deep.

A template finds what transformers' `apply_chat_template` gives it, less the filters and methods that pad, lay out,
write HTML or draw at random. Knows no tokenizer and no messages.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import string
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from jinja2 import Environment, Template, TemplateError, filters, nodes, pass_environment, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

# Of one rendering, which takes less than a thousandth of either. Seconds are the processor's: sleep is free.
SECONDS = 2.0
CHARACTERS = 2**26
_BITS = 4096  # of a whole number
_WIDTH = 64  # of what a text is padded or indented with
_PAYMENTS_A_LOOK = 32  # at the clock, which takes longer than a payment
_PER_ITEM = 16  # characters that an item of a list counts for beside its own

# Filters whose results are at most a few times as long as what they are made of: those that look at items as they are,
# and those that make a text of whatever they get.
_ITEM_FILTERS = (
    *("abs", "attr", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last"),
    *("length", "list", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr"),
    *("sort", "unique"),
)
_TEXT_FILTERS = (
    *("capitalize", "e", "escape", "lower", "safe", "string", "striptags", "title", "trim", "truncate", "upper"),
    *("urlencode", "wordcount"),
)
_PADDING_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "to_bytes", "translate", "zfill"})
_WIDE = re.compile(r"%(?:\([^)]*\))?[-#0 +.\d]*(?:\*|\d{3})")


def render_source(source: str, **values: object) -> str:
    """The text that a Jinja source writes with `values`, and no tools and documents; compiled once for each source.

    Raises:
        jinja2.TemplateError: it is no Jinja, raises by itself, or goes over one of the bounds (SecurityError).
        TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError: what Python says of an
            operation in it.
    """
    _SANDBOX.begin()
    return _compiled(source).render({"tools": None, "documents": None, **values})


class _Budget(threading.local):
    """What is left to the rendering of this thread."""

    characters = CHARACTERS
    payments = 0
    until = 0.0


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        self._budget = _Budget()
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, finalize=self.measured, extensions=[loopcontrols, _Generation]
        )
        self.filters = {
            **{name: self._paid(self.filters[name], as_text=False) for name in _ITEM_FILTERS},
            **{name: self._paid(self.filters[name], as_text=True) for name in _TEXT_FILTERS},
            "format": self._format,
            "indent": self._indent,
            "join": self._join,
            "replace": self._replace,
            "sum": self._sum,
            "tojson": self._tojson,
        }
        self.globals |= {
            "dict": _Dict(),
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": lambda format: datetime.datetime.now().strftime(format),
        }
        del self.globals["lipsum"]

    def begin(self) -> None:
        """A new budget for this thread."""
        self._budget.characters, self._budget.until = CHARACTERS, time.thread_time() + SECONDS

    def spend(self, characters: int) -> None:
        """Pay for so many characters, and look at the clock now and then.

        Raises:
            SecurityError: there is not enough left.
        """
        budget = self._budget
        budget.characters -= characters
        if budget.characters < 0:
            raise SecurityError(f"it makes more than {CHARACTERS:,} characters")
        budget.payments += 1
        if budget.payments % _PAYMENTS_A_LOOK == 0 and time.thread_time() > budget.until:
            raise SecurityError(f"it computes for more than {SECONDS:g} seconds")

    def measured(self, value: Any) -> Any:
        """The value as it is, its text paid for: every item as often as it is in there."""
        if isinstance(value, str):
            self.spend(len(value))
            return value
        waiting = [value]
        while waiting:
            one = waiting.pop()
            self.spend(_length(one))
            if isinstance(one, Mapping):
                waiting += [*one.keys(), *one.values()]
            elif isinstance(one, (list, tuple)):
                waiting += one
        return value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            self.spend(_length(left) + _length(right))
        elif operator == "%" and isinstance(left, str):
            values = right if isinstance(right, tuple) else [*right.values()] if isinstance(right, Mapping) else [right]
            self._pay_for_format(left, values)
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(0, right) if operator == "**" else left.bit_length() + right.bit_length()
            if operator != "%" and bits > _BITS:
                raise SecurityError(f"it computes a number of more than {_BITS:,} bits")
        elif operator == "*":
            for one, times in ((left, right), (right, left)):
                self.spend(_length(one) * max(0, times) if isinstance(times, int) else 0)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        name, text = getattr(__obj, "__name__", ""), getattr(__obj, "__self__", None)
        if isinstance(text, (str, bytes)) and args:
            if name == "join":
                args = (__self._pay_for_join(args[0], text),)
            elif name == "replace":
                __self._pay_for_replace(text, *args[:2])
        return __self.made(super().call(__context, __obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _PADDING_METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        plain = super().wrap_str_format(value)
        if plain is None:
            return None
        text = str(value.__self__)

        def format(*args: Any, **kwargs: Any) -> str:
            if any(re.search(r"\{|\d{3}", spec or "") for _, _, spec, _ in string.Formatter().parse(text)):
                raise SecurityError(f"it formats {text[:40]!r} with a width over 99 or one that is computed")
            self._pay_for_places(text, text.count("{"), (*args, *kwargs.values()))
            return plain(*args, **kwargs)

        return format

    def made(self, value: Any) -> Any:
        """A new value as it is, paid for without its items, which were there before."""
        self.spend(_length(value))
        return value

    def _paid(self, plain: Callable[..., Any], *, as_text: bool) -> Callable[..., Any]:
        @functools.wraps(plain)  # with the mark that says what Jinja passes first
        def paid(*args: Any, **kwargs: Any) -> Any:
            for value in args if as_text else ():
                self.measured(value)
            return self.made(plain(*args, **kwargs))

        return paid

    def _format(self, value: object, *args: Any, **kwargs: Any) -> str:
        text = str(self.measured(value))
        self._pay_for_format(text, (*args, *kwargs.values()))
        return filters.do_format(text, *args, **kwargs)

    def _indent(self, text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        lines = str(self.measured(text)).count("\n") + 1
        self.spend(lines * (len(width) if isinstance(width, str) else width))
        return filters.do_indent(text, width, first, blank)

    @pass_eval_context
    def _join(self, context: EvalContext, items: Iterable[Any], d: str = "", attribute: Any = None) -> str:
        return filters.sync_do_join(context, self._pay_for_join(items, d), d, attribute)

    @pass_eval_context
    def _replace(self, context: EvalContext, text: str, old: str, new: str, count: int | None = None) -> str:
        self._pay_for_replace(str(self.measured(text)), str(old), str(new))
        return filters.do_replace(context, text, old, new, count)

    @pass_environment
    def _sum(self, environment: Environment, items: Iterable[Any], attribute: Any = None) -> Any:
        """Of numbers: lists, which Jinja's adds up too, would grow with every one."""
        return filters.sync_do_sum(environment, items, attribute)

    def _tojson(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """As transformers writes it: without Jinja's escapes for HTML."""
        if isinstance(indent, int) and indent > _WIDTH:
            raise SecurityError(f"it indents JSON by {indent}, over {_WIDTH}")
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return "".join(map(self.made, encoder.iterencode(value)))

    def _pay_for_format(self, text: str, values: Iterable[object]) -> None:
        if _WIDE.search(text):
            raise SecurityError(f"it formats {text[:40]!r} with a width over 99 or one that is computed")
        self._pay_for_places(text, text.count("%"), values)

    def _pay_for_places(self, text: str, places: int, values: Iterable[object]) -> None:
        longest = max((len(str(self.measured(value))) for value in values), default=0)
        self.spend(len(text) + places * (longest + 99))

    def _pay_for_join(self, items: Iterable[Any], between: str | bytes) -> list[Any]:
        """The items, which may be drawn once only."""
        found = []
        for item in items:
            found.append(self.measured(item))
            self.spend(len(between))
        return found

    def _pay_for_replace(self, text: Any, old: Any, new: Any = "") -> None:
        self.spend(len(text) + text.count(old) * len(new))


def _length(value: object) -> int:
    """What it is paid for with, its items apart."""
    if isinstance(value, (str, bytes)):
        return len(value)
    return _PER_ITEM * (1 + (len(value) if isinstance(value, (Mapping, list, tuple)) else 0))


class _Payments(NodeTransformer):
    """Puts payments where Jinja asks its environment nothing: loops, macros, slices and the operator ~."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_asked("measured", child) for child in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _asked("made", node) if isinstance(node.arg, nodes.Slice) else node

    def _paid_body(self, node: nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block) -> nodes.Node:
        """What stands in it is written in every round, and folded constants are shown to nobody."""
        constants = [text.data for text in node.find_all(nodes.TemplateData)]
        constants += [const.value for const in node.find_all(nodes.Const) if isinstance(const.value, str)]
        self.generic_visit(node)
        cost = nodes.Const(sum(map(len, constants)), lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(_asked("spend", cost), lineno=node.lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = visit_Block = _paid_body


def _asked(method: str, argument: nodes.Expr) -> nodes.Call:
    """A call of a method of the environment."""
    lineno = argument.lineno
    return nodes.Call(nodes.EnvironmentAttribute(method, lineno=lineno), [argument], [], None, None, lineno=lineno)


class _Generation(Extension):
    """The tag that marks answers for transformers' masks; here it writes what is in it."""

    tags = {"generation"}  # noqa: RUF012, as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written", lineno=lineno), [], [], body, lineno=lineno)

    def _written(self, caller: Macro) -> str:
        text: str = caller()
        return text


class _Dict:
    """The type dict without its other attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """Takes no names of Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` is a name that a template may give
        self, *given = args
        values = dict(*given, **kwargs)
        for name in values:
            _refuse_private(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore: {name!r}")


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> Template:
    tree = _Payments().visit(_SANDBOX.parse(source))
    tree.set_environment(_SANDBOX)
    return _SANDBOX.from_string(tree)


_SANDBOX = _Sandbox()
