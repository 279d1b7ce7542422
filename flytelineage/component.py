"""Base of the seams: a configurable class with abstract methods."""

from __future__ import annotations

from abc import ABCMeta

from traitlets import MetaHasTraits
from traitlets.config import LoggingConfigurable


class _ComponentMeta(MetaHasTraits, ABCMeta):
    """Both of what traitlets and abstract methods need of a class."""


class Component(LoggingConfigurable, metaclass=_ComponentMeta):
    """A configurable class that may have abstract methods."""
