"""Containers of an ``image``: it is fetched, and what it says of itself goes below what the file says.

Owns: which images a lab takes, and what of an image's configuration holds for its containers.
Must not: know how an image is fetched or kept (``kernel.imagestore``).

Of the configuration (OCI image-spec, config.md) Env, User, WorkingDir and StopSignal hold where the file says
nothing.  Entrypoint and Cmd do not: without a ``command`` a container is idle, whatever its root is made of.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from netns_orch.errors import LabFileError, NetorchError, Where
from netns_orch.labfile import imagename, short
from netns_orch.labfile.units import Wrong
from netns_orch.records import replace

if TYPE_CHECKING:
    from netns_orch.kernel.imagestore import Config, Image, Reference
    from netns_orch.labfile.model import Container, Topology

Tell = Callable[[str], None]
_SHELLS = frozenset(("sh", "bash", "ash", "dash", "zsh", "python", "python3"))
"""What an image runs where it is meant to be used by hand: nothing is missed."""


def settle(
    topology: Topology,
    *,
    building: bool,
    again: bool = False,
    timeout: float | None = None,
    tell: Tell = lambda _: None,
) -> float:
    """Give the containers of images their roots; where the lab is to be built, images are fetched.

    The seconds that it took, none where there are no images: so much of a lab's time to come up is gone.

    For an ordinary user this comes before his realm, where there is no network.  ``again``: those that are
    here, too; ``timeout``: seconds for each.  ``tell`` hears what takes long, and what a user should know.
    Without ``building`` an image that is not here has no layers.
    Raises NetorchError, with the place of the ``image``.
    """
    had: dict[str, Image | None] = {}
    idle: set[str] = set()
    begun = time.monotonic()
    for container in topology.containers.values():
        name, where = container.image, container.mark("image")
        if name is None:
            continue
        if name not in had:
            try:
                wanted = _reference(name, anonymous=topology.untrusted)
                had[name] = _image(wanted, building, tell, again=again, timeout=timeout)
            except NetorchError as error:
                raise error.at(where) from None
        image = had[name]
        if image is None:
            continue
        container.rootfs = replace(container.rootfs, layers=image.layers)
        _configure(container, image.config, where)
        if building and name not in idle and container.command is None:
            idle.add(name)
            _hear(container, image, tell)
    return time.monotonic() - begun if had else 0.0


def left(timeout: float | None, spent: float) -> float | None:
    """What is left of the seconds that a lab may take to come up."""
    return timeout if timeout is None or not spent else max(timeout - spent, 0.001)


def _image(reference: Reference, building: bool, tell: Tell, **how: Any) -> Image | None:
    from netns_orch.kernel import imagestore

    path = reference.path
    if path is not None and not (os.path.isfile(path) or os.path.isdir(path)):
        return None  # which is told with all else that this host lacks
    if not building:
        return imagestore.find(reference)
    image = imagestore.fetch(reference, tell=tell, **how)
    if image.is_foreign:
        tell(f"{reference.name} is for {image.architecture}: its programs can't run on this machine")
    return image


def _reference(name: str, anonymous: bool) -> Reference:
    from netns_orch.kernel.imagestore import Reference

    said = imagename.parse(name)
    registry = said.transport == imagename.REGISTRY
    return Reference(
        name=str(said),
        source=f"docker://{said.rest}" if registry else str(said),
        path=said.path,
        changes=said.transport in imagename.ENGINES,
        insecure=said.is_on_loopback,
        anonymous=anonymous,
    )


def _configure(container: Container, config: Config, where: Where | None) -> None:
    """What stands in the file wins; of the environment, variable by variable."""
    said = dict(pair.split("=", 1) for pair in config.environment)
    container.environment = {**said, **container.environment}
    try:
        if container.user is None and config.user:
            container.user = short.user(config.user.removesuffix(":"))  # no group, as for Docker
        if container.working_dir is None and config.working_dir.strip("/"):
            container.working_dir = short.absolute(config.working_dir)
        if "stop_signal" not in container.marks and config.stop_signal:
            container.stop_signal = short.signal(config.stop_signal)
    except Wrong as wrong:
        what = f"{container.image} says of itself: {wrong.what}"
        hint = "`user`, `working_dir` and `stop_signal` of the container stand above what its image says"
        raise LabFileError([NetorchError(what, where=where, hint=hint)]) from None


def _hear(container: Container, image: Image, tell: Tell) -> None:
    command = image.config.command
    if command and command[0].rpartition("/")[2] not in _SHELLS:
        words = ", ".join(_yaml(word) for word in command)
        tell(f"{container.name} is idle; what its image runs by itself is   command: [{words}]")


def _yaml(word: str) -> str:
    """A word in double quotes, which YAML reads as JSON does."""
    import json

    return json.dumps(word)
