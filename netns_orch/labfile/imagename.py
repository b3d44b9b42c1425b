"""Names of images: ``alpine``, ``registry/path:tag@digest``, or a place as skopeo says (``oci:./dir:tag``).

Owns: what a name may look like, and what a path in it is relative to.
Must not: know how an image is had (``kernel.imagestore``).

The words before the colon are those of containers-transports(5).  A registry's reference is what ``docker
pull`` takes (distribution: reference/reference.go): without a registry it is Docker's, without a tag latest.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from netns_orch.labfile.nodes import shown
from netns_orch.labfile.units import Wrong

REGISTRY = "docker"
LOCAL_PATHS = ("oci", "oci-archive", "docker-archive", "dir")
"""What lies in a directory or file of this host."""
ENGINES = ("docker-daemon", "containers-storage")
"""What an engine of this host has."""
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = (
    r"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9.-]+(?=:[0-9])|localhost|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
)
_REFERENCE = (
    rf"(?P<name>(?:(?P<host>{_HOST})/)?{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?"
)
_LOOPBACK = r"(localhost|127(\.[0-9]+){3}|\[::1\])(:[0-9]+)?"
_HINT = "such as alpine:3.20, docker.io/library/alpine:3.20, or oci:./directory:tag"


class ImageName(NamedTuple):
    """What a name says."""

    transport: str
    rest: str
    """Without the transport; of a path, that path and what stands behind it."""

    @property
    def path(self) -> str | None:
        """The directory or file that it names on this host; None: it names none."""
        if self.transport not in LOCAL_PATHS:
            return None
        return self.rest if self.transport == "dir" else self.rest.partition(":")[0]

    def at(self, path: str) -> ImageName:
        """The same with another path."""
        _, colon, more = self.rest.partition(":") if self.transport != "dir" else (self.rest, "", "")
        return self._replace(rest=f"{path}{colon}{more}")

    @property
    def is_on_loopback(self) -> bool:
        """Whether its registry is on this host, where Docker asks for no certificate either."""
        host, slash, _ = self.rest.partition("/")
        return self.transport == REGISTRY and bool(slash and re.fullmatch(_LOOPBACK, host))

    def __str__(self) -> str:
        return self.rest if self.transport == REGISTRY else f"{self.transport}:{self.rest}"


def parse(text: str) -> ImageName:
    """What a name in a lab file says; Wrong where it is none."""
    transport, colon, rest = text.partition(":")
    if colon and transport in (*LOCAL_PATHS, *ENGINES):
        if not rest or rest.startswith(":") or any(ord(letter) < 32 for letter in rest):
            raise Wrong(f"{shown(text)} is not the name of an image", _HINT)
        return ImageName(transport, rest)
    reference = text.removeprefix(f"{REGISTRY}://")
    match = re.fullmatch(_REFERENCE, reference)
    if match is None:
        hint = _HINT
        if reference.lower() != reference and re.fullmatch(_REFERENCE, reference.lower()):
            hint = "names of images are in lower case"
        raise Wrong(f"{shown(text)} is not the name of an image", hint)
    if match["tag"] and match["digest"]:  # the digest is what counts, as for Docker; skopeo takes only one
        reference = f"{match['name']}@{match['digest']}"
    return ImageName(REGISTRY, reference)
