"""`python -m tests.campaign NAME [OPTIONS]`: run one campaign."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import tests.campaign


def campaigns() -> dict[str, str]:
    """Each campaign's name and the first line of its docstring: the modules of this package that have a `main`."""
    summaries: dict[str, str] = {}
    for module in pkgutil.iter_modules(tests.campaign.__path__):
        if module.name != "__main__":
            loaded = importlib.import_module(f"tests.campaign.{module.name}")
            if hasattr(loaded, "main"):
                summaries[module.name] = (loaded.__doc__ or "").partition("\n")[0]
    return summaries


def main(arguments: list[str]) -> int:
    known = campaigns()
    if not arguments or arguments[0] not in known:
        for name, summary in known.items():
            print(f"{name:10} {summary}")
        return 0 if not arguments else 2
    status: int = importlib.import_module(f"tests.campaign.{arguments[0]}").main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
