"""Packaging. Tool settings are in pyproject.toml, dependencies in requirements.txt and requirements-dev.txt."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    """Read the version from the package without importing it: its dependencies need not be installed yet."""
    text = (HERE / "flytelineage" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        msg = 'flytelineage/__init__.py has no line __version__ = "..."'
        raise RuntimeError(msg)
    return found.group(1)


def requirements(name: str) -> list[str]:
    """Read a requirements file: one requirement a line, comments left out."""
    lines = (line.partition("#")[0].strip() for line in (HERE / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


DEV = requirements("requirements-dev.txt")
MIGRATIONS = ["flytelineage.inbox.migrations", "flytelineage.inbox.migrations.versions"]  # no packages to Python

setup(
    name="flytelineage",
    version=version(),
    description="Lineage of Flyte executions: from a queue of events into a catalog",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["flyte", "lineage", "data catalog", "sqs"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Database",
        "Topic :: System :: Monitoring",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.14",  # flyteidl has the same upper bound
    packages=find_packages(include=["flytelineage", "flytelineage.*"]) + MIGRATIONS,
    package_data={"flytelineage": ["py.typed"], MIGRATIONS[0]: ["*.mako"]},
    zip_safe=False,  # Alembic reads the migrations as files
    install_requires=requirements("requirements.txt"),
    # To come, each with its issue: glue, openlineage, postgresql, metrics, page.
    extras_require={"dev": DEV, "test": DEV},
    entry_points={
        "console_scripts": ["flytelineage=flytelineage.app:main"],
        "flytelineage.sources": [
            "sqs=flytelineage.sources.sqs:SQSSource",
            "recorded=flytelineage.sources.recorded:RecordedSource",
        ],
        "flytelineage.targets": ["file=flytelineage.targets.file:FileTarget"],
    },
)
