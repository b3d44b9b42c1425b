"""Data classes that cost next to nothing to declare.

Owns: ``dataclass``, ``field``, ``fields`` and ``replace``, which mean what they mean in the standard library
(as far as netorch uses them), but compile a class's methods when the first of them is called.
Must not: do I/O, import anything of the package, or anything heavy.

``dataclasses.replace``, ``asdict`` and the like take these objects, too.

The standard library's compiles half a dozen methods for each class when it is declared, and imports
``inspect`` for it: for the seventy classes that ``up`` knows, a quarter of what the command takes to start,
while it makes objects of twenty.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass, field, fields, replace
else:
    _MISSING = object()
    _INITIAL = "_initial_"

    class FrozenError(AttributeError):
        """An object that is a value can't be changed."""

    class Field:
        """One field of a class."""

        __slots__ = ("compare", "default", "factory", "kw_only", "name", "repr")

        def __init__(self, default, factory, compare, repr):
            self.name, self.kw_only = "", False
            self.default, self.factory, self.compare, self.repr = default, factory, compare, repr

    class _StandardFields:
        """What the standard library's own functions look for, made when one of them does."""

        def __get__(self, record, cls):
            import dataclasses

            own = [
                (name, object, dataclasses.field(compare=item.compare, repr=item.repr))
                for name, item in cls.__record_fields__.items()
            ]
            cls.__dataclass_fields__ = dataclasses.make_dataclass("_", own).__dataclass_fields__
            return cls.__dataclass_fields__

    def field(*, default=_MISSING, default_factory=_MISSING, compare=True, repr=True):
        return Field(default, default_factory, compare, repr)

    def fields(record):
        return tuple(record.__record_fields__.values())

    def replace(record, **changes):
        for name in record.__record_fields__:
            if name not in changes:
                changes[name] = getattr(record, name)
        return record.__class__(**changes)

    def dataclass(cls=None, /, *, frozen=False, slots=False, kw_only=False):
        if cls is None:
            return lambda cls: _declare(cls, frozen, slots, kw_only)
        return _declare(cls, frozen, slots, kw_only)

    def _declare(cls, frozen, slots, kw_only):
        known = {}
        for base in reversed(cls.__mro__[1:]):
            known.update(getattr(base, "__record_fields__", ()))
        own = _own_fields(cls, kw_only)
        inherited = set(known)
        known.update(own)
        if slots:
            cls = _with_slots(cls, own, inherited)
        cls.__record_fields__ = known
        cls.__dataclass_fields__ = _StandardFields()
        given = cls.__dict__
        if "__init__" not in given:
            cls.__init__ = _later(cls, "__init__", lambda: _make_init(cls, frozen))
        if "__eq__" not in given:
            cls.__eq__ = _later(cls, "__eq__", lambda: _make_eq(cls))
            cls.__hash__ = _later(cls, "__hash__", lambda: _make_hash(cls)) if frozen else None
        if "__repr__" not in given:
            cls.__repr__ = _repr
        if frozen:
            cls.__setattr__, cls.__delattr__ = _refuse_set, _refuse_delete
            cls.__getstate__, cls.__setstate__ = _getstate, _setstate
        return cls

    def _own_fields(cls, kw_only):
        own = {}
        for name, annotation in cls.__annotations__.items():
            if annotation.startswith("ClassVar"):
                continue
            item = cls.__dict__.get(name, _MISSING)
            if not isinstance(item, Field):
                item = Field(item, _MISSING, True, True)
            elif item.default is not _MISSING:
                setattr(cls, name, item.default)
            elif name in cls.__dict__:
                delattr(cls, name)
            item.name, item.kw_only = name, kw_only
            own[name] = item
        return own

    def _with_slots(cls, own, inherited):
        """A class can be given slots only while it is made, so it is made again."""
        namespace = {name: value for name, value in cls.__dict__.items() if name not in own}
        for name in ("__dict__", "__weakref__"):
            namespace.pop(name, None)
        namespace["__slots__"] = tuple(name for name in own if name not in inherited)
        again = type(cls)(cls.__name__, cls.__bases__, namespace)
        again.__qualname__ = cls.__qualname__
        return again

    def _later(cls, name, make):
        """A method that puts the compiled one in its own place when it is called first."""

        def stand_in(self, *args, **kwargs):
            method = make()
            setattr(cls, name, method)
            return method(self, *args, **kwargs)

        return stand_in

    def _compiled(source, names):
        exec(source, names)
        return names["method"]

    def _make_init(cls, frozen):
        names = {"_MISSING": _MISSING}
        positional, by_name, body = [], [], []
        for name, item in cls.__record_fields__.items():
            parameter, value = name, name
            if item.factory is not _MISSING:
                names[f"_make_{name}"] = item.factory
                parameter, value = f"{name}=_MISSING", f"_make_{name}() if {name} is _MISSING else {name}"
            elif item.default is not _MISSING:
                names[f"{_INITIAL}{name}"] = item.default
                parameter = f"{name}={_INITIAL}{name}"
            (by_name if item.kw_only else positional).append(parameter)
            if frozen:
                names[f"_set_{name}"] = _setter(cls, name)
                body.append(f" _set_{name}(self, {value})")
            else:
                body.append(f" self.{name} = {value}")
        if hasattr(cls, "__post_init__"):
            body.append(" self.__post_init__()")
        parameters = ", ".join(["self", *positional, *(["*", *by_name] if by_name else [])])
        return _compiled(f"def method({parameters}):\n" + "\n".join(body or [" pass"]), names)

    def _setter(cls, name):
        slot = getattr(cls, name, None)
        if hasattr(slot, "__set__"):
            return slot.__set__
        return lambda self, value: object.__setattr__(self, name, value)

    def _compared(cls, who):
        names = [name for name, item in cls.__record_fields__.items() if item.compare]
        return "".join(f"{who}.{name}, " for name in names)

    def _make_eq(cls):
        here, there = _compared(cls, "self"), _compared(cls, "other")
        source = (
            "def method(self, other):\n if other.__class__ is self.__class__:\n"
            f"  return ({here}) == ({there})\n return NotImplemented"
        )
        return _compiled(source, {})

    def _make_hash(cls):
        return _compiled(f"def method(self):\n return hash(({_compared(cls, 'self')}))", {})

    def _repr(self):
        shown = [name for name, item in self.__record_fields__.items() if item.repr]
        inner = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{self.__class__.__qualname__}({inner})"

    def _refuse_set(self, name, value):
        raise FrozenError(f"cannot assign to field {name!r}")

    def _refuse_delete(self, name):
        raise FrozenError(f"cannot delete field {name!r}")

    def _getstate(self):
        return [getattr(self, name) for name in self.__record_fields__]

    def _setstate(self, state):
        for name, value in zip(self.__record_fields__, state, strict=True):
            object.__setattr__(self, name, value)


__all__ = ["dataclass", "field", "fields", "replace"]
