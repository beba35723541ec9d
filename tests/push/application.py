"""The application of a server process whose sender does not let a test wait."""

from __future__ import annotations

from tests.push.conftest import FAST
from tidings import create_app

app = create_app(push=FAST["push"])
