"""The start of the process. It handles `--version` before other imports."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of this process and return its exit status."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from dataflare import __version__

        print(f"dataflare {__version__}")
        return 0
    from dataflare.cli.process import collect_seldom

    collect_seldom()
    from dataflare.cli.app import run_process

    return run_process(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
