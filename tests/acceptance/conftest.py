"""What the acceptance tests share: one AWS emulator a session (with xdist, one a worker)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.aws import ENVIRONMENT, AwsEmulator, emulator


@pytest.fixture(scope="session")
def aws() -> Iterator[AwsEmulator]:
    """The AWS emulator."""
    with emulator() as started:
        yield started


@pytest.fixture(autouse=True)
def _no_account_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may reach a real AWS account."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
