"""Options: which there are, which one somebody meant, and one sentence for each that is wrong.

traitlets itself ignores an unknown option with a warning; here it stops the start, because a misspelt option is a
default that nobody asked for.
"""

from __future__ import annotations

import math
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from traitlets import Container, Dict, Enum, HasTraits, TraitError, TraitType
from traitlets.config import Config, Configurable
from traitlets.config.loader import (
    ArgumentError,
    DeferredConfig,
    KVArgParseConfigLoader,
    LazyConfigValue,
    PyFileConfigLoader,
)

from flytelineage.errors import ConfigurationError
from flytelineage.redaction import Redactor

Classes = Sequence[type[Configurable]]
AnyTrait = TraitType[Any, Any]

COMMAND_LINE = "command line"
"""Origin of a value that was given as an argument; the other origin is the configuration file's path."""


class ArgumentLoader(KVArgParseConfigLoader):
    """Reads arguments; what argparse refuses becomes an :class:`ArgumentError` instead of a usage text and an exit."""

    def _create_parser(self) -> None:
        super()._create_parser()
        # by name, because assigning a method is an error to mypy and the parser's class is private to traitlets
        setattr(self.parser, "error", _refuse)  # noqa: B010
        self.parser.allow_abbrev = False


def _refuse(message: str) -> NoReturn:
    raise ArgumentError(message)


class ConfigFileLoader(PyFileConfigLoader):
    """Runs a configuration file; what it raises becomes one sentence with file and line."""

    def _read_file_as_dict(self) -> None:
        try:
            super()._read_file_as_dict()
        except ConfigurationError:  # from a file that this one loads
            raise
        except SyntaxError as error:
            place = f"{error.filename or self.full_filename}:{error.lineno or 1}"
            msg = f"{place}: {type(error).__name__}: {error.msg}"
            raise ConfigurationError(msg) from error
        except (Exception, SystemExit) as error:
            lines = [
                frame.lineno
                for frame in traceback.extract_tb(error.__traceback__)
                if frame.filename == self.full_filename
            ]
            place = f"{self.full_filename}:{lines[-1]}" if lines and lines[-1] else self.full_filename
            msg = f"{place}: {type(error).__name__}: {error}"
            raise ConfigurationError(msg) from error


def read_config_file(path: Path) -> Config:
    """Run a configuration file.

    Args:
        path: the file, which exists.

    Returns:
        What it set, unchecked.

    Raises:
        ConfigurationError: it cannot be read, or raises; the message has the file and the line.
    """
    try:
        # opened here because traitlets takes an unreadable file for a missing one
        path.open("rb").close()
    except OSError as error:
        msg = f"The configuration file {path} cannot be read: {error.strerror or error}."
        raise ConfigurationError(msg) from error
    return deepcopy(ConfigFileLoader(path.name, str(path.parent)).load_config())


class Options:
    """The options that exist, and the checks of what was written against them.

    Args:
        classes: classes with options, their parents may be left out.
        aliases: short names on the command line, to ``Class.trait``.
        flags: names on the command line that take no value.
    """

    def __init__(self, classes: Iterable[type[Configurable]], aliases: Mapping[str, str], flags: Iterable[str]) -> None:
        self.by_name: dict[str, type[Configurable]] = {}
        for cls in classes:
            for parent in cls.__mro__:
                if issubclass(parent, Configurable) and parent.class_traits(config=True):
                    self.by_name.setdefault(parent.__name__, parent)
        self.leaves = list(dict.fromkeys(classes))
        self.aliases = dict(aliases)
        self.flags = set(flags)

    def traits(self, section: str) -> dict[str, AnyTrait]:
        """Return a class's options by name."""
        return self.by_name[section].class_traits(config=True)

    # -- the command line

    def check_arguments(self, arguments: Sequence[str]) -> None:
        """Check the name of every option.

        Raises:
            ConfigurationError: an option does not exist, then the sentence names the nearest one; or it is given twice.
        """
        seen: set[str] = set()
        for argument in arguments:
            if argument == "--":
                return
            if not re.match(r"--?[A-Za-z]", argument):
                continue
            name, given, _ = argument.partition("=")
            bare = name.lstrip("-")
            if bare in self.flags:
                if given:
                    msg = f"{name} takes no value: write {name} alone, or leave it out."
                    raise ConfigurationError(msg)
                continue
            trait = self._find(self.aliases.get(bare, bare))
            if trait is not None:
                if bare in seen and not isinstance(trait, (Container, Dict)):
                    msg = f"{name} is given twice: one value is enough."
                    raise ConfigurationError(msg)
                seen.add(bare)
                continue
            hint = self.suggest(bare)
            msg = f"There is no option {name}{f'; did you mean --{hint}?' if hint else self._list(bare)}"
            raise ConfigurationError(msg)

    def check_argument_values(self, config: Config, arguments: Sequence[str]) -> None:
        """Check the type of every value from the command line.

        Raises:
            ConfigurationError: a value is of the wrong type or out of bounds.
        """
        written = {argument.partition("=")[0] for argument in arguments}
        spelling = {long: alias for alias, long in self.aliases.items() if f"--{alias}" in written}
        for path, value in walk(config):
            if (trait := self._find(path)) is None:
                continue
            reason = _refusal(trait, value)
            if reason is not None:
                given = _shown(path, trait, value)
                msg = f"--{spelling.get(path, path)}={given} cannot be used: it must be {reason}."
                raise ConfigurationError(msg)

    # -- the configuration file

    def check_file(self, config: Config, path: Path) -> None:
        """Check every name and value that the configuration file has set.

        Raises:
            ConfigurationError: an option does not exist or a value is wrong; the sentence has the file and, where the
                name is written out there, the line.
        """
        for name, value in walk(config):
            trait = self._find(name)
            if trait is None:
                hint = self.suggest(name, short=False)
                correction = f"; did you mean c.{hint}?" if hint else self._list(name)
                msg = f"{_place(path, name)}: there is no option c.{name}{correction}"
                raise ConfigurationError(msg)
            if trait.metadata.get("command_line"):
                msg = f"{_place(path, name)}: {name} works on the command line only: leave c.{name} out."
                raise ConfigurationError(msg)
            reason = _refusal(trait, value)
            if reason is not None:
                given = _shown(name, trait, value)
                msg = f"{_place(path, name)}: c.{name} = {given} cannot be used: it must be {reason}."
                raise ConfigurationError(msg)

    # -- names

    def suggest(self, name: str, short: bool = True) -> str:
        """Return the option that was probably meant, without dashes, or an empty string.

        Args:
            name: what was written.
            short: whether a short name of the command line will do.
        """
        section, _, trait = name.rpartition(".")
        section = section.rpartition(".")[2]
        if section in self.by_name:
            near = nearest(trait, self.traits(section), cutoff=0.5)
            return f"{section}.{near}" if near else self._elsewhere(trait)
        if section:
            near_section = nearest(section, self.by_name)
            if near_section:
                near = nearest(trait, self.traits(near_section))
                return f"{near_section}.{near}" if near else ""
            return self._elsewhere(trait)
        if not short:
            return self.aliases.get(trait) or self._elsewhere(trait)
        names = [*self.aliases, *self.flags]
        return nearest(trait, names, cutoff=0.75) or self._elsewhere(trait) or nearest(trait, names)

    def _elsewhere(self, trait: str) -> str:
        """Find the class that has an option of this name."""
        for cls in self.leaves:
            if near := nearest(trait, cls.class_traits(config=True), cutoff=0.85):
                return f"{cls.__name__}.{near}"
        return ""

    def _find(self, path: str) -> AnyTrait | None:
        *sections, name = path.split(".")
        if not sections or any(section not in self.by_name for section in sections):
            return None
        return self.traits(sections[-1]).get(name)

    def _list(self, name: str) -> str:
        """Say what there is where nothing is near."""
        *_, section, _ = ["", *name.split(".")]
        if section in self.by_name:
            return f"; {section} has {', '.join(sorted(self.traits(section)))}."
        return f"; the components are {', '.join(cls.__name__ for cls in self.leaves)}, --help-all lists their options."

    # -- effective values

    def effective(self, config: Config, redactor: Redactor) -> dict[str, dict[str, object]]:
        """Return every option's value as it may be shown, by class and name; an unset option has its default."""
        shown: dict[str, dict[str, object]] = {}
        for cls in self.leaves:
            given = self.section(cls, config)
            shown[cls.__name__] = {
                name: redactor.value(name, _resolve(trait, given.get(name, trait.default())), _is_secret(trait))
                for name, trait in sorted(cls.class_traits(config=True).items())
                if not trait.metadata.get("command_line")
            }
        return shown

    def secrets(self, config: Config) -> Redactor:
        """Return a redactor that knows every secret in the configuration."""
        redactor = Redactor()
        for path, value in walk(config):
            if (trait := self._find(path)) is not None:
                redactor.learn_from(path.rpartition(".")[2], _resolve(trait, value), _is_secret(trait))
        return redactor

    def section(self, cls: type[Configurable], config: Config) -> Config:
        """Return what a configuration says of one class, the most specific section last, as traitlets merges them."""
        merged = Config()
        nested = [config[name] for name in self.by_name if name in config]
        for scope in (config, *nested):
            for name in cls.section_names():
                if name in scope:
                    merged.merge(scope[name])
        return merged


def overlay(options: Options, below: Config, above: Config) -> Config:
    """Return both configurations merged so that ``above`` wins whatever section it names.

    traitlets prefers the more specific section: a file's ``c.FileTarget.batch_size`` would beat the command line's
    ``--Target.batch_size``.
    """
    merged = deepcopy(below)
    settings = list(walk(above))
    for path, value in settings:
        *sections, name = path.split(".")
        _replace(options, merged, options.by_name[sections[-1]], name, value)
    merged.merge(deepcopy(above))
    return merged


def _replace(options: Options, config: Config, cls: type[Configurable], name: str, value: object) -> None:
    for section, content in config.items():
        if not isinstance(content, Config):
            continue
        known = options.by_name.get(section)
        if known is not None and issubclass(known, cls) and name in content:
            content[name] = value
        _replace(options, content, cls, name, value)


def walk(config: Config, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every set value with its dotted name, sections of parents before nested ones."""
    for name, value in config.items():
        if isinstance(value, Config):
            yield from walk(value, f"{prefix}{name}.")
        elif not (isinstance(value, LazyConfigValue) and not value.to_dict()):  # one that was only looked at
            yield f"{prefix}{name}", value


def spelled(text: str) -> str:
    """Return a text as one sentence on one line, for stderr."""
    return " ".join(text.split()) or "an error without a message"


def report(text: str) -> None:
    """Write one sentence on stderr."""
    sys.stderr.write(f"flytelineage: {spelled(text)}\n")
    sys.stderr.flush()


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the candidate that was probably meant, or an empty string; case and dashes do not matter."""
    folded: dict[str, str] = {}
    for candidate in candidates:
        folded.setdefault(_fold(candidate), candidate)
    near = get_close_matches(_fold(name), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else ""


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")


def _resolve(trait: AnyTrait, value: object) -> Any:
    if isinstance(value, DeferredConfig):
        return value.get_value(trait)
    if isinstance(value, LazyConfigValue):
        return value.get_value(deepcopy(trait.default()))
    return value


def _refusal(trait: AnyTrait, value: object) -> str | None:
    """Return what the value must be, when it is not; None when it can be used."""
    try:
        given = _resolve(trait, value)
    except (ValueError, TraitError):
        return "given once"
    if given is None and trait.allow_none:
        return None
    validate: Callable[[HasTraits, object], object] | None = getattr(trait, "validate", None)
    if validate is None:
        return None
    try:
        validate(HasTraits(), given)
    except TraitError as error:
        ours = type(trait).__module__.startswith("traitlets") or isinstance(trait, Enum)
        return _expected(trait) if ours else str(error)
    return None


def _expected(trait: AnyTrait) -> str:
    if isinstance(trait, Enum):
        return f"one of {', '.join(str(value) for value in trait.values or ())}"
    text = trait.info()
    inner = getattr(trait, "_trait", None)
    if isinstance(inner, TraitType):
        text += f" of {inner.info()}"
    low, high = getattr(trait, "min", None), getattr(trait, "max", None)
    if low is not None and low != -math.inf:
        text += f", at least {low}"
    if high is not None and high != math.inf:
        text += f", at most {high}"
    return text.replace("a unicode string", "a text").replace("an int", "a whole number").replace("a float", "a number")


def _is_secret(trait: AnyTrait) -> bool:
    return bool(trait.metadata.get("secret"))


def _shown(path: str, trait: AnyTrait, value: object) -> str:
    raw = str(value) if isinstance(value, str) else list(value) if isinstance(value, list) else value
    if isinstance(raw, list) and len(raw) == 1 and isinstance(value, DeferredConfig):
        raw = raw[0]
    return repr(Redactor().value(path.rpartition(".")[2], raw, _is_secret(trait)))


def _place(path: Path, name: str) -> str:
    """Return the file, with the line that names the option where there is one."""
    pattern = re.compile(rf"\b{re.escape(name)}\b")
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if pattern.search(line) and not line.lstrip().startswith("#"):
                return f"{path}:{number}"
    return str(path)
