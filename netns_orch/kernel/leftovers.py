"""What bears netorch's marks on this host, whatever files there are, and what is left that is no lab's.

Owns: finding labs by their marks alone, and the empty things that labs share: cgroup parents, the files of
the host's sysctls, the run directory.  Must not: touch what bears no mark, or is another host namespace's;
judge whether a lab is wanted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from netns_orch.kernel import cgrouptree, forwarding, hostsysctl, hosttable, netobserve, nftables, rundir
from netns_orch.kernel.cgroups import Hierarchies
from netns_orch.kernel.rundir import NETNS, RUN, host_id


class Leftover(NamedTuple):
    """Something empty that a run which was killed did not come to remove."""

    path: str
    what: str


def marked_labs() -> frozenset[str]:
    """The labs of this host namespace whose marks are on anything in the kernel, whatever files there are."""
    here = host_id()
    found = {(table.lab, table.id) for table in hosttable.recover()}
    found |= set(netobserve.marked_labs())
    found |= set(Hierarchies.detect().labs())
    found |= set(forwarding.labs(nftables.list_chains()))
    return frozenset(lab for lab, id in found if id == here)


def traced_labs() -> frozenset[str]:
    """Those, and the ones that have a name in /run/netns or a sysctl of the host."""
    here = host_id()
    named = {lab for lab, id in _named_in_netns() if id == here}
    return marked_labs() | named | set(hostsysctl.labs(here))


def _named_in_netns() -> Iterator[tuple[str, str]]:
    """The labs into whose directories names in /run/netns point."""
    for _, target in rundir.netns_links():
        lab, dot, id = target.removeprefix(f"{RUN}/").partition("/")[0].rpartition(".")
        if dot and lab:
            yield lab, id


def find() -> list[Leftover]:
    """What is empty and no lab's, in the order in which it can be removed."""
    return [*_cgroups(), *_host_files(), *_directories()]


def remove() -> None:
    """Remove all of ``find``, each only if it still is empty."""
    Hierarchies.detect().remove_empty_parents()
    if os.path.isdir(RUN):
        hostsysctl.tidy(host_id())
    rundir.remove_shared()


def _cgroups() -> Iterator[Leftover]:
    for hierarchy in Hierarchies.detect().all:
        for parent in cgrouptree.parents(hierarchy):
            if cgrouptree.is_empty(parent):
                yield Leftover(parent, "empty cgroup")
        for base in cgrouptree.announced(hierarchy):
            yield Leftover(base, "mark of a cgroup that was never made")


def _host_files() -> Iterator[Leftover]:
    yield from (Leftover(path, "file that no run holds") for path in hostsysctl.stale_files(host_id()))


def _directories() -> Iterator[Leftover]:
    """Those that go with the last lab, of whatever host namespace."""
    if not rundir.is_unused():
        return
    if rundir.is_ours_and_empty(NETNS):
        yield Leftover(NETNS, "empty directory")
    if os.path.isdir(RUN) and all(name.startswith(rundir.HOST_FILES) for name in os.listdir(RUN)):
        yield Leftover(RUN, "empty directory")
