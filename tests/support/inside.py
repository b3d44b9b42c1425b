"""Run pytest in the realm of an ordinary user's lab, as root of it: ``python -m support.inside ARGUMENTS``.

A test that calls rooms of ``kernel`` in its own process can be an ordinary user's only where his commands are
when they call them: netorch makes a realm, enters it, and pytest goes on there.  The realm's network
namespace stands for the host.  Nothing of the user may be left when the realm has ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from support import ordinary, outer
from support.ordinary import ALICE, Ordinary

ENTER = """
import os, sys
from netns_orch.kernel import founding
realm = founding.found("inside")
os.set_inheritable(realm.lock, True)  # it is in use as long as pytest runs
realm.enter()
os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[1:]])
"""


def main(arguments: list[str]) -> int:
    """The exit code of pytest; 1, too, where something was left."""
    if reason := outer.why_not() or ordinary.why_not(ALICE):
        sys.exit(f"support.inside: {reason}")
    with contextlib.ExitStack() as stack:
        host = outer.TestHost()
        host.enter()
        stack.callback(host.close)
        base = stack.enter_context(ordinary.place())
        stack.enter_context(ordinary.covered(ordinary.known(), base))
        # Beside the user's home: a test may ask for more room than memory has.
        files = Path(tempfile.mkdtemp(prefix="netorch-test-inside-"))
        stack.callback(shutil.rmtree, files)
        for name in ("cache", "tmp"):
            (files / name).mkdir(mode=0o700)
            os.chown(files / name, ALICE, ALICE)
        files.chmod(0o711)
        alice = Ordinary(ALICE, base, files / "cache")
        environment = {**alice.environment, "NETORCH_TEST_ROOTLESS": "inside"}
        words = [*alice.prefix, alice.interpreter, "-c", ENTER, *arguments, f"--basetemp={files}/tmp/pytest"]
        try:
            code = subprocess.run(words, env=environment, cwd=Path.cwd(), check=False).returncode
            os.kill(alice.holder("inside"), signal.SIGKILL)
            assert alice("ls", "--json").json() == []
            alice.assert_nothing_left()
        finally:
            alice.end()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
