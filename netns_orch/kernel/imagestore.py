"""OCI images on this host: fetched by skopeo, kept in a cache, ready to be the layers of roots.

Owns: that directory, and reading what skopeo leaves in it (OCI image-spec: image-layout.md, manifest.md,
config.md).  Must not: know which container wants what, or change a layer that is there.

The cache is /var/cache/netorch for root, $XDG_CACHE_HOME/netorch (~/.cache/netorch) for any other user, or
$NETORCH_CACHE.  In it ``images/KEY`` is what a name stood for when it was fetched last, ``blobs`` what images
are made of, each blob once, and ``layers/HEX`` a layer unpacked.  Root's labs use those where they lie, as
layers that are directories.  Another user's lab unpacks them by itself, with ids that he has in there only:
for him a layer is its blob.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from netns_orch.errors import KernelError, NetorchError
from netns_orch.kernel import filelock, hostcommand, netfilter, rundir, unpack, userdir
from netns_orch.kernel import syscalls as sc

VARIABLE = "NETORCH_CACHE"
PATIENCE = 3600.0
"""Seconds that the fetching of an image may take, where nobody says less."""
_ROOTS = "/var/cache/netorch"
_RECORD = "netorch.json"
_PARTS = ("images", "blobs", "layers")
_NEW = ".new-"
"""What names of half made things begin with; only who has the lock makes any."""
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_LAYER = re.compile(r".*[./]tar(\.gzip|\+gzip|\+zstd)?$")
_MESSAGE = re.compile(r'\bmsg=("(?:[^"\\]|\\.)*")')
_GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_MOST_JSON = 4 << 20
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What comes of JSON that is not what the image-spec says."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HINTS = (
    ("policy.json", "it comes with the package golang-github-containers-common (Debian's name)"),
    ("unauthorized", "is the name right?  For what only some may have: skopeo login REGISTRY"),
    ("authentication required", "is the name right?  For what only some may have: skopeo login REGISTRY"),
    ("denied", "is the name right?  For what only some may have: skopeo login REGISTRY"),
    ("manifest unknown", "the registry has no such tag; skopeo list-tags docker://NAME shows those it has"),
    ("name unknown", "the registry has no image of that name"),
    ("HTTP response to HTTPS", "without TLS: `insecure = true` in /etc/containers/registries.conf"),
    ("no such file or directory", "a path is relative to the lab file"),
    ("no space left", "the cache is in {cache}; another place: NETORCH_CACHE=DIRECTORY"),
    ("dial tcp", "is the network up?  An image of this host: oci:DIR, docker-archive:FILE"),
    ("no such host", "is the network up?  An image of this host: oci:DIR, docker-archive:FILE"),
    ("docker.sock", "docker-daemon: takes a Docker that runs, and may be used"),
    ("neither a tag nor a digest", "with its tag, as docker-daemon:NAME:latest"),
    ("no descriptor found", "its index.json names the images that it has; without :TAG it is the only one"),
    ("does not resolve", "`podman images` shows what this user has there"),
)  # fmt: skip


class Reference(NamedTuple):
    """Which image is meant."""

    name: str
    """As it is told, and kept."""
    source: str
    """As skopeo takes it (containers-transports(5))."""
    path: str | None = None
    """The file or directory of this host that it is in, if any."""
    changes: bool = False
    """It may be another one each time, and costs little to get: an engine of this host has it."""
    insecure: bool = False
    """Its registry needs no certificate."""
    anonymous: bool = False
    """Fetched without this user's passwords; so one that took them to get is another one."""


class Config(NamedTuple):
    """What an image says of its containers (image-spec, config.md: ``config``); empty where it does not."""

    environment: list[str]
    """NAME=VALUE"""
    user: str
    working_dir: str
    stop_signal: str
    command: list[str]
    """Entrypoint and Cmd."""


class Image(NamedTuple):
    """An image that is here."""

    layers: list[str]
    """Directories, or for an ordinary user archives; lowest first."""
    config: Config
    architecture: str
    """As Go calls it (GOARCH)."""

    @property
    def is_foreign(self) -> bool:
        """Whether its programs are for another kind of machine than this one."""
        return self.architecture != _GOARCH.get(os.uname().machine, self.architecture)


def directory() -> str:
    """The cache's directory, whether or not it is there."""
    said = os.environ.get(VARIABLE, "")
    if said:
        return os.path.abspath(said)
    if not userdir.is_ordinary():
        return _ROOTS
    base = os.environ.get("XDG_CACHE_HOME", "")
    return f"{base if os.path.isabs(base) else os.path.expanduser('~/.cache')}/netorch"


def find(wanted: Reference) -> Image | None:
    """What the name stood for when it was fetched last; None where it, or a part of it, is not here."""
    try:
        return _read(directory(), _key(wanted))
    except (OSError, *_MALFORMED):
        return None


def fetch(
    wanted: Reference,
    *,
    again: bool = False,
    timeout: float | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Image:
    """What the name stands for, fetched where it is not here, or ``again``; ``tell`` hears of that.

    What lies in a file or directory is fetched when that has changed, what an engine has each time.
    NetorchError where it can't be had within ``timeout`` seconds; MissingFeature without skopeo.
    """
    cache = directory()
    if not again and (found := _current(wanted)) is not None:
        return found
    skopeo = netfilter.need_program("skopeo")
    with _locked(cache, timeout):
        found = None if again else _current(wanted)  # another process may have got it meanwhile
        if found is None:
            tell(f"fetching {wanted.name}")
            try:
                _clean(cache)
                _pull(skopeo, cache, wanted, timeout or PATIENCE)
                found = _unpacked(cache, wanted)
            except BaseException as error:
                with suppress(OSError, NetorchError):
                    _clean(cache)  # else a full disk stays full
                if isinstance(error, OSError):
                    raise _failed(f"{wanted.name} can't be kept", error, cache) from error
                raise
        return found


def _current(wanted: Reference) -> Image | None:
    if wanted.changes:
        return None
    found = find(wanted)
    if found is None or wanted.path is None:
        return found
    return found if _record(directory(), _key(wanted))["stamp"] == _stamp(wanted) else None


def _key(wanted: Reference) -> str:
    name = f"{wanted.name} anonymous" if wanted.anonymous else wanted.name
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _stamp(wanted: Reference) -> str:
    """Another one where what lies there has changed."""
    if wanted.path is None:
        return ""
    for file in ("index.json", "manifest.json", ""):
        with suppress(OSError):
            found = os.stat(f"{wanted.path}/{file}" if file else wanted.path)
            return f"{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"
    return ""


# -- fetching ------------------------------------------------------------------------------------


def _pull(skopeo: str, cache: str, wanted: Reference, patience: float) -> None:
    for part in _PARTS:
        rundir.make_directories(f"{cache}/{part}")
    place = f"{cache}/images/{_NEW}{_key(wanted)}"
    os.mkdir(place, 0o700)
    stamp = _stamp(wanted)
    with suppress(OSError, *_MALFORMED):
        for path in _torn(cache, _manifest(cache, _key(wanted))):
            with suppress(FileNotFoundError):
                os.unlink(path)  # skopeo would take it for whole
    command = [skopeo, "copy", "--quiet", "--dest-shared-blob-dir", f"{cache}/blobs"]
    if wanted.insecure:
        command.append("--src-tls-verify=false")
    if wanted.anonymous:
        command.append("--src-no-creds")
    done = hostcommand.run([*command, wanted.source, "oci:image:latest"], patience, place, ends_with_us=True)
    if done.timed_out:
        raise NetorchError(f"{wanted.name} was not here within {patience:g} s")
    if done.code:
        raise _refused(wanted.name, done.errors.decode("utf-8", "replace"), cache)
    rundir.replace_file(f"{place}/{_RECORD}", json.dumps({"name": wanted.name, "stamp": stamp}))
    old = f"{cache}/images/{_NEW}old"
    with suppress(FileNotFoundError):
        os.rename(f"{cache}/images/{_key(wanted)}", old)
    os.rename(place, f"{cache}/images/{_key(wanted)}")
    rundir.remove_tree(old)


def _refused(name: str, said: str, cache: str) -> NetorchError:
    """What skopeo said last, without its log's decoration."""
    messages = _MESSAGE.findall(said)
    text = said.strip().rpartition("\n")[2]
    if messages:
        text = messages[-1]
        with suppress(ValueError):  # Go's way to quote has some escapes that JSON has not
            text = json.loads(text)
    hint = next((hint for words, hint in _HINTS if words in text), None)
    return NetorchError(f"{name} can't be had", details=text, hint=hint and hint.format(cache=cache))


def _unpacked(cache: str, wanted: Reference) -> Image:
    """The image just fetched, its layers unpacked where that is done here."""
    try:
        if not userdir.is_ordinary():
            for digest in _layers(cache, _manifest(cache, _key(wanted))):
                _unpack(cache, digest)
        return _read(cache, _key(wanted))
    except unpack.Refused as error:
        raise NetorchError(f"{wanted.name} {error.what}", hint=error.hint) from error
    except _MALFORMED as error:
        raise NetorchError(f"{wanted.name} is no image of a container", details=str(error)) from error


def _failed(what: str, error: OSError, cache: str) -> KernelError:
    hint = f"the cache is in {cache}; another place: {VARIABLE}=DIRECTORY"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return KernelError(f"{what}: {error.strerror}", errno=error.errno, hint=hint if full else None)


def _unpack(cache: str, digest: str) -> None:
    """A layer that is there is whole: it gets its name when it is, and is on the disk."""
    path = f"{cache}/layers/{_hex(digest)}"
    if os.path.isdir(path):
        return
    place = f"{cache}/layers/{_NEW}{_hex(digest)}"
    os.mkdir(place, 0o755)
    os.chmod(place, 0o755)
    into = os.open(place, _DIRECTORY)
    try:
        unpack.unpack(_blob(cache, digest), into)
        sc.syncfs(into)
    except unpack.Refused:
        os.unlink(_blob(cache, digest))  # torn when this host lost its power, perhaps: to be fetched anew
        raise
    finally:
        os.close(into)
    os.rename(place, path)


@contextmanager
def _locked(cache: str, timeout: float | None) -> Iterator[None]:
    """One process at a time changes the cache."""
    patience = timeout or PATIENCE
    while True:
        try:
            rundir.make_directories(cache)
            lock = os.open(f"{cache}/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            hint = f"another place for images: {VARIABLE}=DIRECTORY"
            raise KernelError(f"{cache}: {error.strerror}", errno=error.errno, hint=hint) from error
        try:
            if not filelock.take(lock, patience):
                what = f"another process has fetched images into {cache} for more than {patience:g} s"
                raise NetorchError(what, hint=f"fuser -v {cache}/lock   tells who")
            if rundir.same_file(lock, f"{cache}/lock"):  # else an empty cache was removed meanwhile
                yield
                return
        finally:
            os.close(lock)


def _clean(cache: str) -> None:
    """What killed runs left half made."""
    for part in ("images", "layers"):
        with suppress(FileNotFoundError):
            for entry in os.listdir(f"{cache}/{part}"):
                if entry.startswith(_NEW):
                    rundir.remove_tree(f"{cache}/{part}/{entry}")


# -- reading -------------------------------------------------------------------------------------


def _read(cache: str, key: str) -> Image:
    """An image that is here, as a whole; FileNotFoundError where a part is missing."""
    manifest = _manifest(cache, key)
    if userdir.is_ordinary() and (torn := _torn(cache, manifest)):
        raise ValueError(f"{torn[0]} is damaged")
    layers = []
    for digest in _layers(cache, manifest):
        path = _blob(cache, digest) if userdir.is_ordinary() else f"{cache}/layers/{_hex(digest)}"
        os.stat(path)
        layers.append(path)
    about = _json(_blob(cache, manifest["config"]["digest"]))
    if not layers or about.get("os", "linux") != "linux":
        raise ValueError(f"it is for {about.get('os')}" if layers else "it has no layers")
    said = about.get("config") or {}
    return Image(
        layers,
        Config(
            environment=[pair for pair in _texts(said, "Env") if pair.find("=") > 0],
            user=_text(said, "User"),
            working_dir=_text(said, "WorkingDir"),
            stop_signal=_text(said, "StopSignal"),
            command=[*_texts(said, "Entrypoint"), *_texts(said, "Cmd")],
        ),
        _text(about, "architecture"),
    )


def _text(said: dict[str, Any], key: str) -> str:
    value = said.get(key) or ""
    if not isinstance(value, str) or re.search("[\0\ud800-\udfff]", value):
        raise ValueError(f"its {key} is no text")
    return value


def _texts(said: dict[str, Any], key: str) -> list[str]:
    return [_text({key: value}, key) for value in said.get(key) or []]


def _manifest(cache: str, key: str) -> dict[str, Any]:
    index = _json(f"{cache}/images/{key}/image/index.json")
    return _json(_blob(cache, index["manifests"][0]["digest"]))


def _layers(cache: str, manifest: dict[str, Any]) -> list[str]:
    """Digests, lowest first.  Of one that comes twice the upper one counts: it covers all of the other."""
    found: dict[str, None] = {}
    for layer in manifest["layers"]:
        if not _LAYER.match(layer["mediaType"]):
            raise ValueError(f"a part of it is {layer['mediaType']}")
        found.pop(layer["digest"], None)
        found[layer["digest"]] = None
    return list(found)


def _torn(cache: str, manifest: dict[str, Any]) -> list[str]:
    """The layers' blobs that are not as long as they should be: nothing waits until they are on the disk."""
    blobs = {_blob(cache, layer["digest"]): layer["size"] for layer in manifest["layers"]}
    return [path for path, size in blobs.items() if not os.path.exists(path) or os.path.getsize(path) != size]


def _record(cache: str, key: str) -> dict[str, Any]:
    return _json(f"{cache}/images/{key}/{_RECORD}")


def _json(path: str) -> dict[str, Any]:
    with open(path, "rb") as stream:
        found = json.loads(stream.read(_MOST_JSON))
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no object")
    return found


def _hex(digest: str) -> str:
    _digest(digest)
    return digest.partition(":")[2]


def _blob(cache: str, digest: str) -> str:
    algorithm, value = _digest(digest)
    return f"{cache}/blobs/{algorithm}/{value}"


def _digest(text: str) -> tuple[str, str]:
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"{text} is no digest")
    algorithm, _, value = text.partition(":")
    return algorithm, value


# -- removing ------------------------------------------------------------------------------------


def unused(in_use: Iterable[str]) -> list[str]:
    """The names of the images of which no layer is among the directories or files ``in_use``."""
    used = _names(in_use)
    return sorted(
        name
        for _, name, image in _images(directory())
        if image is None or not used.intersection(_names(image.layers))
    )


def remove(in_use: Callable[[], Iterable[str]]) -> list[str]:
    """Remove those that ``unused`` names, and what then belongs to none; their names.

    ``in_use`` is asked when the cache is this process's alone, and once more before anything is lost: a lab
    that is built meanwhile keeps its layers, or does not find them.
    """
    cache = directory()
    if not os.path.isdir(cache):
        return []
    try:
        with _locked(cache, None):
            _clean(cache)
            gone = _remove(cache, in_use)
            if not any(os.path.isdir(f"{cache}/{part}") for part in _PARTS):
                os.unlink(f"{cache}/lock")
                with suppress(OSError):  # it is the user's own, and something else is in it
                    os.rmdir(cache)
    except OSError as error:
        raise _failed("unused images can't be removed", error, cache) from error
    return sorted(gone)


def _remove(cache: str, in_use: Callable[[], Iterable[str]]) -> list[str]:
    used, gone = _names(in_use()), []
    kept = set(used)
    for key, name, image in list(_images(cache)):
        if image is not None and used.intersection(_names(image.layers)):
            manifest = _manifest(cache, key)
            index = _json(f"{cache}/images/{key}/image/index.json")
            kept.update(_hex(each["digest"]) for each in (index["manifests"][0], manifest["config"]))
            kept.update(_hex(digest) for digest in _layers(cache, manifest))
        else:
            rundir.remove_tree(f"{cache}/images/{key}")
            gone.append(name)
    layers = f"{cache}/layers"
    aside = _entries(layers) - kept
    for name in aside:
        os.rename(f"{layers}/{name}", f"{layers}/{_NEW}{name}")
    for name in aside & _names(in_use()):
        os.rename(f"{layers}/{_NEW}{name}", f"{layers}/{name}")
    _clean(cache)
    for algorithm in ("sha256", "sha512"):
        for name in _entries(f"{cache}/blobs/{algorithm}") - kept:
            os.unlink(f"{cache}/blobs/{algorithm}/{name}")
    for part in ("blobs/sha256", "blobs/sha512", *_PARTS):
        with suppress(OSError):
            os.rmdir(f"{cache}/{part}")
    return gone


def _names(paths: Iterable[str]) -> set[str]:
    """What layers are called, wherever the cache is said to be: there may be links on the way."""
    return {os.path.basename(path) for path in paths}


def _entries(path: str) -> set[str]:
    try:
        return set(os.listdir(path))
    except FileNotFoundError:
        return set()


def _images(cache: str) -> Iterator[tuple[str, str, Image | None]]:
    """(key, name, the image: None where it is damaged) of each that is here."""
    try:
        keys = sorted(os.listdir(f"{cache}/images"))
    except FileNotFoundError:
        return
    for key in keys:
        if not key.startswith(_NEW):
            try:
                yield key, str(_record(cache, key)["name"]), _read(cache, key)
            except (OSError, *_MALFORMED):
                yield key, key, None
