"""The command `tidings-chat`: its installation, its server setting, and its message without its dependencies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.client_demo.conftest import Cli, Server
from tests.support.node import PASSWORD


async def test_the_installed_command_reads_the_server_from_the_environment(cli: Cli, server: Server) -> None:
    command = Path(sys.executable).with_name("tidings-chat")
    result = await cli.execute(
        [str(command), "--state", str(cli.state), "--user", "omar", "--register", "create", "noticias"],
        TIDINGS_SERVER=server.url,
    )
    assert result == (0, "#noticias\n", "")
    status, _, err = await cli.execute(
        [str(command), "--user", "omar", "--password", PASSWORD, "rooms"], TIDINGS_SERVER="ftp://nowhere"
    )
    assert status == 2
    assert "give it as http://host:port" in err


@pytest.mark.parametrize("missing", ["babel", "httpx", "prompt_toolkit", "rich", "aiohttp", "socketio"])
def test_a_missing_dependency_is_reported_with_the_install_command(missing: str) -> None:
    program = f"""
import sys
import importlib.machinery

real = importlib.machinery.PathFinder

class Without:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] == {missing!r} else real.find_spec(name, path, target)

sys.meta_path = [Without if finder is real else finder for finder in sys.meta_path]
from tidings_chat.__main__ import main
sys.exit(main())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert f"not installed: {missing}" in result.stderr
    assert 'pip install ".[client]"' in result.stderr
