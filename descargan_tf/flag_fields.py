"""Fields of a frozen dataclass that are flags: each is declared once, with default, unit, range and help."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence

from absl import flags

from descargan_tf.errors import UserError

_OTHER_DASHES = tuple("\u2010\u2011\u2012\u2013\u2014\u2212")  # what word processors and web pages make of --
_HELP = {"--help", "-h", "--helpfull"}


@dataclasses.dataclass(frozen=True)
class Flag:
    """What a field is as a flag."""

    default: object
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    multiple_of: int = 1
    of_run: bool = True  # whether a run folder made with another value is another run
    kind: type = str
    of_method: bool = False  # a setting of the methods that have a field of its name; the default is theirs
    is_path: bool = False
    alias: str = ""  # what it is also called


def flag(default, help, **kwargs):
    """A field that is a flag; see `Flag`."""
    return dataclasses.field(
        default=default, metadata={"flag": Flag(default, help, **{"kind": type(default)} | kwargs)}
    )


def declare(kind, flag_values: flags.FlagValues) -> None:
    """Register every field of a dataclass as an absl flag with its range; impossible values die while parsing."""
    for field in dataclasses.fields(kind):
        name, declared = field.name, field.metadata["flag"]
        options = {"flag_values": flag_values}
        text = declared.help + ("; by default the method's own" if declared.of_method else "")
        if declared.choices:
            flags.DEFINE_enum(name, declared.default, declared.choices, text, **options)
        elif declared.kind is bool:
            flags.DEFINE_bool(name, declared.default, text, **options)
        elif declared.kind is str:
            flags.DEFINE_string(name, declared.default, text, **options)
        else:
            define = flags.DEFINE_integer if declared.kind is int else flags.DEFINE_float
            suffix = f", a multiple of {declared.multiple_of}" if declared.multiple_of > 1 else ""
            bounds = {"lower_bound": declared.low, "upper_bound": declared.high}
            define(name, declared.default, text + suffix, **bounds, **options)
            if declared.kind is float:  # absl's bounds let nan through
                flags.register_validator(
                    name,
                    lambda value: value is None or math.isfinite(value),
                    message="must be a finite number",
                    flag_values=flag_values,
                )
            if declared.multiple_of > 1:
                flags.register_validator(
                    name,
                    lambda value, n=declared.multiple_of: value % n == 0,
                    message=f"must be a multiple of {declared.multiple_of}",
                    flag_values=flag_values,
                )
        if declared.alias:
            flags.DEFINE_alias(declared.alias, name, **options)


def help_if_asked(kind, argv: Sequence[str], about: str) -> None:
    """Print what a program is about and its flags, and end it, where --help is among the arguments."""
    if _HELP & set(argv[1:]):
        flag_values = flags.FlagValues()
        declare(kind, flag_values)
        print(f"{about}\n\n{flag_values.get_help()}")
        raise SystemExit(0)


def values(kind, argv: Sequence[str]) -> dict:
    """The value of every field.

    Args:
        kind: the dataclass.
        argv: program name, then flags; flagfiles are not read, see `flagfiles.expanded`.

    Raises:
        UserError: an unknown flag, a value out of range, something that is no flag.
    """
    flag_values = flags.FlagValues()
    declare(kind, flag_values)
    try:
        rest = flag_values(list(argv))
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from None
    if len(rest) > 1:
        dash = ", and this dash is no hyphen" if rest[1][:1] in _OTHER_DASHES else ""
        raise UserError(f"unexpected argument {rest[1]!r}: flags are written --name=value{dash}.")
    found = {field.name: flag_values[field.name].value for field in dataclasses.fields(kind)}
    for field in dataclasses.fields(kind):
        if field.metadata["flag"].is_path:
            found[field.name] = os.path.expanduser(found[field.name])
            if re.search(r"[\r\n]", found[field.name]):
                raise UserError(
                    f"--{field.name}={found[field.name]!r}: a path with a line break cannot be kept in a flagfile."
                )
    return found
