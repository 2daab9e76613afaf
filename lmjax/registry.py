"""Parts by name: a registry for each kind, and the calls by which configs and command lines choose from them.

"lm", "lm(-0.5, -0.5)", "stochastic_depth(lm, survival=0.8)": a name, or a call with plain arguments. Nothing in such a
text is evaluated; arguments are checked against the annotations of the function that makes the part.
"""

import ast
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any, Literal, NamedTuple

from lmjax.errors import InputError, unknown

KINDS: dict[str, "Registry"] = {}
"""Every registry by the plural of its kind, in the order in which they were made."""

_HYPHENS = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?<=[A-Za-z0-9])-(?=[A-Za-z])""")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What `ast` raises for text that is no expression, or one too long or too deeply nested for it.
_NO_EXPRESSION = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)
_WORDS = {float: "a finite number", int: "a whole number", bool: "True or False", str: "a string"}


class Part(NamedTuple):
    """The name, signature and summary of a part, for lists."""

    name: str
    signature: str
    summary: str


class Registry:
    """The parts of one kind.

    Args:
        kind: of which kind they are, in the singular: "stepper".
        makes: the type of the parts; an argument annotated with it may be another part of this kind.
        example: a call, for messages.
        plural: of the kind; None adds an s.
        hint: what to add where a name is unknown.
    """

    def __init__(self, kind: str, makes: type = object, *, example: str, plural: str | None = None, hint: str = ""):
        self.kind, self.makes, self.example, self._hint = kind, makes, example, hint
        self._makers: dict[str, Callable[..., Any]] = {}
        KINDS[plural or f"{kind}s"] = self

    def register(self, make: Callable[..., Any] | None = None, *, name: str | None = None) -> Callable[..., Any]:
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
        self._makers[key] = self._checked(make, key)
        return self._makers[key]

    def _checked(self, make, name):
        signature, made = inspect.signature(make), functools.lru_cache(None, typed=True)(make)

        @functools.wraps(make)
        def checked(*arguments, **options):
            bound, hints = signature.bind(*arguments, **options), typing.get_type_hints(make)
            bound.apply_defaults()
            for key, given in bound.arguments.items():
                starred = signature.parameters[key].kind is inspect.Parameter.VAR_POSITIONAL
                for value in given if starred else (given,):
                    if key in hints and not _fits(value, hints[key]):
                        raise InputError(f"{name}: {key} must be {self._must(hints[key])}, got {value!r}")
            given, named = _frozen(bound.args), {key: _frozen(value) for key, value in bound.kwargs.items()}
            try:
                hash((given, *named.values()))
            except TypeError:  # the cache cannot tell it from others
                return make(*given, **named)
            return made(*given, **named)

        return checked

    def names(self) -> tuple[str, ...]:
        """All names, in the order in which they were added."""
        return tuple(self._makers)

    def plain(self) -> tuple[str, ...]:
        """The names that are a part by themselves, without arguments."""
        return tuple(name for name, make in self._makers.items() if _needs_nothing(make))

    def maker(self, name: str) -> Callable[..., Any]:
        """The function that was registered under a name.

        Raises:
            InputError: for a name that is none, with the nearest ones, or with the kind that has it.
        """
        try:
            return self._makers[name]
        except KeyError:
            raise self._unknown(name) from None

    def get(self, text: str) -> Any:
        """The part of a name or a call: "lm", "poly(3)", "noise(lm, sigma=0.01)".

        Arguments are numbers, strings, True, False, None, tuples and lists of them, or other parts of the kind; a word
        is a string where the annotation is `str`, or has it as one of its choices. `-` and `_` are the same within a
        name, but not within quotes.

        Raises:
            InputError: if there is none, with the nearest names; if it is no name or call; or if the arguments are not
                those of the part.
        """
        try:
            expression = ast.parse(_with_underscores(text).strip(), mode="eval").body
        except _NO_EXPRESSION:
            raise self._unreadable(text) from None
        if not isinstance(expression, (ast.Name, ast.Call)):
            raise self._unreadable(text)
        return self._value(expression, text)

    def normalize(self, text: str) -> str:
        """The one way to write a name or a call: `adams-bashforth( 3 )` is `adams_bashforth(3)`.

        Where the annotation is `str`, a word gets quotes: `tfds(mnist)` is `tfds('mnist')`.
        """
        text = _with_underscores(text)
        try:
            expression = ast.parse(text.strip(), mode="eval")
            for call in ast.walk(expression):
                if isinstance(call, ast.Call):
                    self._quote(call)
            return ast.unparse(expression)
        except _NO_EXPRESSION:
            return text

    def _quote(self, call):
        make = self._makers.get(getattr(call.func, "id", None))
        if make is None:
            return
        bound = inspect.signature(make).bind(*call.args, **{each.arg: each.value for each in call.keywords})
        for key, word in bound.arguments.items():
            if isinstance(word, ast.Name) and str in _options(typing.get_type_hints(make).get(key)):
                word.id = repr(word.id)  # written as it is

    def describe(self) -> Iterator[Part]:
        """What there is, for a list of parts."""
        for name, make in self._makers.items():
            summary = " ".join((inspect.getdoc(make) or "").partition("\n\n")[0].split())
            yield Part(name, _signature(make), summary)

    def _value(self, expression, whole, hint=None):
        if isinstance(expression, ast.Name):
            if expression.id in _choices(hint) or str in _options(hint):
                return expression.id
            return self._make(expression.id, [], {}, whole)
        if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name):
            options = {keyword.arg: keyword.value for keyword in expression.keywords}
            if len(options) < len(expression.keywords) or None in options:
                raise InputError(f"{self.kind} {whole!r}: give each argument once, by its name")
            return self._make(expression.func.id, expression.args, options, whole)
        try:
            return ast.literal_eval(expression)
        except _NO_EXPRESSION:
            raise self._unreadable(whole) from None

    def _make(self, name, arguments, options, whole):
        make = self.maker(name)
        try:
            bound = inspect.signature(make).bind(*arguments, **options)
        except TypeError as error:
            raise InputError(f"{self.kind} {whole!r}: {error}; {name} takes {_signature(make)}") from None
        hints, values = typing.get_type_hints(make), {}
        for key, given in bound.arguments.items():
            for expression in given if isinstance(given, tuple) else (given,):
                values[expression] = self._value(expression, whole, hints.get(key))
        try:
            made = make(*map(values.get, arguments), **{key: values[each] for key, each in options.items()})
            if made is None:
                raise InputError(f"{self.kind} {whole!r}: its function returns nothing")
            return made
        except InputError:
            raise
        except (TypeError, ValueError) as error:  # a string for a number, say
            raise InputError(f"{self.kind} {whole!r}: {name}: {error}") from None

    def _must(self, hint):
        """What a value of an annotation is called."""
        options = [option for option in _options(hint) if option is not type(None)]
        words = [repr(choice) for choice in _choices(hint)]
        words += [
            f"a {self.kind} such as {self.example}"
            if option is self.makes
            else _WORDS.get(option, getattr(option, "__name__", str(option)))
            for option in options
            if typing.get_origin(option) is not Literal
        ]
        return " or ".join(words + ["None"] * (type(None) in _options(hint)))

    def _unknown(self, name):
        other = next((plural for plural, r in KINDS.items() if r is not self and name in r._makers), None)
        error = f"{unknown(self.kind, name, self._makers)}{self._hint}"
        return InputError(f"{error} ({name!r} is one of the {other})" if other else error)

    def _unreadable(self, text):
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        name = self.example.partition("(")[0]
        return InputError(f"{self.kind} {shown!r}: give a name such as {name}, or a call such as {self.example}")


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


def _fits(value: Any, hint: Any) -> bool:
    """True if a value is of an annotated type; what the annotation leaves open, the part itself decides."""
    options = _options(hint)
    if len(options) > 1:
        return any(_fits(value, option) for option in options)
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:  # more than 32 bits would count for ever
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
    if hint is None:
        return value is None
    return isinstance(value, hint) if isinstance(hint, type) else True
