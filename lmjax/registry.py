"""Parts by name: a registry for each kind, and the calls by which configs and command lines choose from them.

"lm", "lm(-0.5, -0.5)", "stochastic_depth(lm, survival=0.8)": a name, or a call with plain arguments. Nothing in such a
text is evaluated; arguments are checked against the annotations of the function that makes the part.
"""

import ast
import functools
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, Generic, Literal, NamedTuple, TypeVar, overload

from lmjax.errors import InputError, unknown

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

KINDS: dict[str, "Registry[Any]"] = {}
"""Every registry by the plural of its kind, in the order in which they were made."""

_HYPHENS = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?<=[A-Za-z0-9])-(?=[A-Za-z])""")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What `ast` raises for text that is no expression, or one too long or too deeply nested for it.
_NO_EXPRESSION = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)
_WORDS = {
    float: "a finite number", int: "a whole number", bool: "True or False", str: "a string", types.NoneType: "None",
}  # fmt: skip


class Part(NamedTuple):
    """The name, signature and summary of a part, for lists."""

    name: str
    signature: str
    summary: str


class Registry(Generic[T]):
    """The parts of one kind.

    Args:
        kind: of which kind they are, in the singular: "stepper".
        makes: the type of the parts, or several; an argument annotated with it may be another part of this kind.
        returns: what a registered function must return, in words.
        example: a call, for messages.
        plural: of the kind; None adds an s.
        hint: what to add where a name is unknown.
        note: is given each part, and a function without arguments that makes it again, which can be pickled.
    """

    def __init__(
        self, kind: str, makes: Any, *, returns: str, example: str, plural: str | None = None, hint: str = "",
        note: Callable[[Any, Callable[[], Any]], None] = lambda part, recipe: None,
    ):  # fmt: skip
        self.kind, self.plural, self.example = kind, plural or f"{kind}s", example
        self._hint, self._returns, self.note = hint, returns, note
        self._makes = makes if isinstance(makes, tuple) else (makes,)
        self.words = _WORDS | dict.fromkeys(self._makes, f"a {kind} such as {example}")
        self._makers: dict[str, Callable[..., T]] = {}
        KINDS[self.plural] = self

    @overload
    def register(self, make: F, *, name: str | None = None) -> F: ...
    @overload
    def register(self, *, name: str | None = None) -> Callable[[F], F]: ...
    def register(self, make: Any = None, *, name: str | None = None) -> Any:
        """Add a part: the decorator of the function that makes it.

        Args:
            make: makes the part from the arguments that its name is given. Annotate them, and write a docstring.
            name: of the part; None takes the function's.

        Returns:
            The function, which now checks its arguments by their annotations; the same call gives the same part.

        Raises:
            InputError: if lmjax has a part of that name, or if it is no name. One of your own is replaced.
        """
        if make is None:
            return lambda make: self.register(make, name=name)
        key = _with_underscores(getattr(make, "__name__", "") if name is None else name)
        if not _IDENTIFIER.fullmatch(key):
            raise InputError(f"{self.kind} {key!r}: is no name: use letters, digits and _, as in register(name=...)")
        if key in self._makers and _ours(self._makers[key]) and not _ours(make):
            raise InputError(f"lmjax has a {self.kind} named {key!r}: choose another name")
        self._makers[key] = checked = _checked(make, key, self)
        return checked

    def names(self) -> tuple[str, ...]:
        """All names, in the order in which they were added."""
        return tuple(self._makers)

    def plain(self) -> tuple[str, ...]:
        """The names that are a part by themselves, without arguments."""
        return tuple(name for name, make in self._makers.items() if _needs_nothing(make))

    def maker(self, name: str) -> Callable[..., T]:
        """The function that was registered under a name.

        Raises:
            InputError: for a name that is none, with the nearest ones, or with the kind that has it.
        """
        if name in self._makers:
            return self._makers[name]
        other = [f" ({name!r} is one of the {plural})" for plural, known in KINDS.items() if name in known._makers]
        raise InputError(f"{unknown(self.kind, name, self._makers)}{self._hint}{''.join(other[:1])}")

    def get(self, text: str) -> T:
        """The part of a name or a call: "lm", "poly(3)", "noise(lm, sigma=0.01)".

        Arguments are numbers, strings, True, False, None, tuples and lists of them, or other parts of the kind; a word
        is a string where the annotation is `str`, or has it as one of its choices. `-` and `_` are the same within a
        name, but not within quotes.

        Raises:
            InputError: if there is none, with the nearest names; if it is no name or call; or if the arguments are not
                those of the part.
        """
        if not isinstance(text, str):
            raise InputError(f"{self.kind}: its name must be a text, got {text!r}")
        try:
            expression = _parsed(text)
        except _NO_EXPRESSION:
            raise self._unreadable(text) from None
        if not isinstance(expression, (ast.Name, ast.Call)):
            raise self._unreadable(text)
        return self._value(expression, text)

    def normalize(self, text: str) -> str:
        """The one way to write a name or a call: `adams-bashforth( 3 )` is `adams_bashforth(3)`.

        Where the annotation is `str`, a word gets quotes: `tfds(mnist)` is `tfds('mnist')`.
        """
        try:
            expression = _parsed(text)
            for call in ast.walk(expression):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in self._makers:
                    for word, hint in _arguments(call, self._makers[call.func.id]):
                        if isinstance(word, ast.Name) and str in _options(hint):
                            word.id = repr(word.id)  # written as it is
            return ast.unparse(expression)
        except _NO_EXPRESSION:
            return _with_underscores(text)

    def describe(self) -> Iterator[Part]:
        """Name, signature and summary of every part."""
        for name, make in self._makers.items():
            summary = " ".join((inspect.getdoc(make) or "").partition("\n\n")[0].split())
            yield Part(name, _signature(make), summary)

    def _value(self, expression: ast.expr, whole: str, hint: Any = None) -> Any:
        if isinstance(expression, ast.Name):
            if expression.id in _choices(hint) or str in _options(hint):
                return expression.id
            return self._made(ast.Call(expression, [], []), expression.id, whole)
        if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name):
            return self._made(expression, expression.func.id, whole)
        try:
            return ast.literal_eval(expression)
        except _NO_EXPRESSION:
            raise self._unreadable(whole) from None

    def _made(self, call: ast.Call, name: str, whole: str) -> T:
        make = self.maker(name)
        try:
            given = _arguments(call, make)
        except TypeError as error:
            raise InputError(f"{self.kind} {whole!r}: {error}; {name} takes {_signature(make)}") from None
        values = {expression: self._value(expression, whole, hint) for expression, hint in given}
        try:
            made = make(*map(values.get, call.args), **{str(each.arg): values[each.value] for each in call.keywords})
        except InputError:
            raise
        except (TypeError, ValueError) as error:  # a string for a number, say
            raise InputError(f"{self.kind} {whole!r}: {name}: {error}") from None
        if not isinstance(made, self._makes):
            got = type(made).__name__
            raise InputError(f"{self.kind} {whole!r}: its function must return {self._returns}, not {got}")
        return made

    def _unreadable(self, text: str) -> InputError:
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        name = self.example.partition("(")[0]
        return InputError(f"{self.kind} {shown!r}: give a name such as {name}, or a call such as {self.example}")


def _parsed(text: str) -> ast.expr:
    return ast.parse(_with_underscores(text).strip(), mode="eval").body


def _arguments(call: ast.Call, make: Callable[..., Any]) -> list[tuple[ast.expr, Any]]:
    """The expressions that a call gives a function, each with the annotation of its parameter.

    Raises:
        TypeError: if the function does not take them.
    """
    named = {each.arg or "": each.value for each in call.keywords}
    if len(named) < len(call.keywords) or "" in named:
        raise TypeError("give each argument once, by its name")
    hints = typing.get_type_hints(make)
    return [(value, hints.get(key)) for key, value in _each(inspect.signature(make).bind(*call.args, **named))]


def _each(bound: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    """The arguments of a call by the names of their parameters, starred ones one by one."""
    for key, given in bound.arguments.items():
        kind = bound.signature.parameters[key].kind
        values = given if kind is inspect.Parameter.VAR_POSITIONAL else (given,)
        for value in given.values() if kind is inspect.Parameter.VAR_KEYWORD else values:
            yield key, value


def _checked(make: Callable[..., T], name: str, registry: Registry[T]) -> Callable[..., T]:
    """A function that checks its arguments by their annotations, and remembers what it has made."""
    signature, cached = inspect.signature(make), functools.lru_cache(None, typed=True)(make)

    @functools.wraps(make)
    def checked(*arguments, **options):
        bound, hints = signature.bind(*arguments, **options), typing.get_type_hints(make)
        bound.apply_defaults()
        for key, value in _each(bound):
            if key in hints and not _fits(value, hints[key]):
                raise InputError(f"{name}: {key} must be {_must(hints[key], registry.words)}, got {value!r}")
        given, named = _frozen(bound.args), {key: _frozen(value) for key, value in bound.kwargs.items()}
        try:
            hash((given, *named.values()))
        except TypeError:  # an unhashable argument: no key for the cache
            made = make(*given, **named)
        else:
            made = cached(*given, **named)
        registry.note(made, functools.partial(_remake, registry.plural, name, make.__module__, given, named))
        return made

    return checked


def _remake(plural: str, name: str, module: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The part that a registered function makes of arguments, where that function is in a module."""
    importlib.import_module(module)  # registers it
    return KINDS[plural].maker(name)(*given, **named)


def _frozen(value: Any) -> Any:
    """An argument as something that a cache can keep: lists and arrays as tuples."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _ours(make: Callable[..., Any]) -> bool:
    return getattr(make, "__module__", "").partition(".")[0] == "lmjax"


def _needs_nothing(make: Callable[..., Any]) -> bool:
    parameters = inspect.signature(make).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _with_underscores(text: str) -> str:
    return _HYPHENS.sub(lambda found: found[1] or "_", text)  # a minus before a number stays, and what has quotes


def _signature(make: Callable[..., Any]) -> str:
    """The arguments as they are written in a call."""
    parameters = inspect.signature(make).parameters.values()
    return str(inspect.Signature([parameter.replace(annotation=parameter.empty) for parameter in parameters]))


def _options(hint: Any) -> tuple[Any, ...]:
    """The types that an annotation allows."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return typing.get_args(hint)
    return (hint,)


def _choices(hint: Any) -> tuple[Any, ...]:
    """The words that an annotation allows."""
    literals = (option for option in _options(hint) if typing.get_origin(option) is Literal)
    return tuple(choice for literal in literals for choice in typing.get_args(literal))


def _must(hint: Any, words: Mapping[Any, str]) -> str:
    """The words for a value of an annotation."""
    if len(options := _options(hint)) > 1:
        return " or ".join(_must(option, words) for option in options)
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _fits(value: Any, hint: Any) -> bool:
    """True if a value is of an annotated type; what the annotation leaves open, the part itself decides."""
    options = _options(hint)
    if len(options) > 1:
        return any(_fits(value, option) for option in options)
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return issubclass(type(value), Real) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:  # more than 32 bits would count for ever
        return issubclass(type(value), Integral) and not isinstance(value, bool) and abs(value) < 2**31
    if hint is None:
        return value is None
    return isinstance(value, hint) if isinstance(hint, type) else True


def cure(error: Exception) -> str:
    """The end of a message about a part that lmjax does not have; nothing for other errors."""
    if not str(error).startswith(tuple(f"unknown {parts.kind} " for parts in KINDS.values())):
        return ""
    return "; if a config of yours registers it, give that by --config FILE, or import it"
