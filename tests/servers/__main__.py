"""`make services [NAME...]`: start servers by hand, say how to reach them, and stop them at Ctrl-C.

Without a name, those that need nothing more than this machine has. `list` shows all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

import pytest
from servers.services import SERVICES, table


def main(names: list[str]) -> int:
    if names == ["list"]:
        print(table())
        return 0
    unknown = [name for name in names if name not in SERVICES]
    if unknown:
        print(f"no service is called {unknown[0]!r}; there are:\n{table()}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    chosen = names or [name for name, service in SERVICES.items() if not service.needs]
    with contextlib.ExitStack() as stack:
        try:
            for name in chosen:
                began = time.monotonic()
                made = stack.enter_context(SERVICES[name].server())
                took = time.monotonic() - began
                print(f"{name} ({SERVICES[name].title} {SERVICES[name].version}, {took:.1f} s)")
                for what, where in SERVICES[name].connections(made).items():
                    print(f"  {what}: {where}", flush=True)
            print("Ctrl-C stops them", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print("stopping", flush=True)
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
