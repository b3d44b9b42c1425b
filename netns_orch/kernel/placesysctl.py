"""Sysctls of the namespace that stands in the host's place: it ends with the lab, so nothing is given back.

Must not: be used for the host itself (that is ``hostsysctl``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from netns_orch.errors import KernelError
from netns_orch.kernel.namespaces import call_in_netns
from netns_orch.kernel.nets import read_sysctl, write_sysctl
from netns_orch.resources import HostSysctl


def write(netns: int, wanted: Sequence[HostSysctl]) -> None:
    """Write them in the namespace ``netns``; KernelError at the place of the one that is refused."""
    call_in_netns(netns, _write_here, wanted)


def observe(netns: int, wanted: Iterable[HostSysctl]) -> list[HostSysctl]:
    """The values of now, of those in ``wanted``."""
    names = dict.fromkeys(sysctl.name for sysctl in wanted)
    return call_in_netns(netns, _read_here, list(names))


def _write_here(wanted: Sequence[HostSysctl]) -> None:
    for sysctl in wanted:
        try:
            write_sysctl(sysctl.name, sysctl.value)
        except OSError as error:
            raise KernelError(
                f"{sysctl.name} can't be {sysctl.value}: {error.strerror}",
                errno=error.errno,
                where=sysctl.where,
            ) from error


def _read_here(names: Sequence[str]) -> list[HostSysctl]:
    found = []
    for name in names:
        with suppress(FileNotFoundError):
            found.append(HostSysctl(name=name, value=read_sysctl(name)))
    return found
