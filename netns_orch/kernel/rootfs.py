"""The root of a container: what it sees, mounted by file descriptor and never by a path that could lie.

Owns: the copy-on-write root, /proc, /sys, /dev, /run and /tmp, the lab's own files in /etc, volumes, masked
and read-only paths, and the change of root.
Must not: follow a symbolic link of the root out of it (every target is resolved with RESOLVE_IN_ROOT, mounts
go from descriptor to descriptor), name a path of the host in the container's mount table, or import more than
a process that forks containers can carry.

Runs in a container's builder (``build``), in a new mount namespace, as root of the host.  For a container
with a user namespace what is made here belongs to that one's root, and what comes from the host is mounted
with mapped ids (MOUNT_ATTR_IDMAP, mount_setattr(2)): a file of the host's root is inside a file of root.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from netns_orch.kernel import confine, hostroot, mountinfo, rootnote
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.mounts import Mounts, make_node
from netns_orch.kernel.within import (
    INSIDE,
    attach,
    create_file,
    innermost,
    open_directory,
    open_plain_directory,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Mount = tuple[str, str]
    Options = list[tuple[str, str | None]]

MASKED_PROC = (
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
)
MASKED_SYS = ("devices/virtual/powercap", "firmware")
READ_ONLY_PROC = ("bus", "fs", "irq", "sysrq-trigger", "sys")
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
GENERATED = ("hosts", "hostname", "resolv.conf")
"""Files of the container's directory that appear in /etc."""
_OWN_DEVICES = ("pts", "shm", "mqueue", "hugepages")
_DELEGATED = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks")
_AT_MOST = (("cgroup.max.depth", b"16"), ("cgroup.max.descendants", b"1024"))
TTY = 5
"""The group of terminals."""
_FRESH = ("/proc", "/sys", "/dev", "/run", "/tmp")
_ENGINES = (
    "/var/lib/docker",
    "/var/lib/containers",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/lib/lxc",
)
_PSEUDO = frozenset(
    (
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs"),
        *("efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs"),
        *("securityfs", "selinuxfs", "sysfs", "tracefs"),
    )
)
_LOCAL = frozenset(
    (
        *("bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "squashfs", "tmpfs"),
        *("xfs", "zfs"),
    )
)
"""File systems that a container's copy can be made of, without waiting for another machine."""
PLAIN = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOEXEC
"""How everything but the root is mounted."""
_PATH = os.O_PATH
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_NONE: tuple[()] = ()
_FSCONFIG_LIMIT = 256
"""Bytes of a value of fsconfig(2)."""


def limit_cgroups_below(cgroup: str) -> None:
    """How deep and how many ``nesting`` may make in its v2 cgroup; before its first process is there.

    That one has the cgroup as its root: where the host's are mounted ``nsdelegate`` (systemd does), it may
    not write these files of its own root itself (cgroups(7)).
    """
    for file, most in _AT_MOST:
        sc.write_file(f"{cgroup}/{file}", most)


def host_mounts(mounts: list[mountinfo.Mount]) -> list[str]:
    """The mount points of the host's other file systems that a view of its root shows, parents first."""
    found: dict[str, None] = {}
    for mount in mounts:
        point = mount.point
        found.pop(point, None)
        if point != "/" and mount.kind not in _PSEUDO and not _below(point, (*_FRESH, *_ENGINES)):
            found[point] = None
    return [point for point in found if point not in {f"/etc/{name}" for name in GENERATED}]


def _below(path: str, parents: tuple[str, ...]) -> bool:
    return any(path == parent or path.startswith(parent + "/") for parent in parents)


def copied(mounts: list[mountinfo.Mount]) -> list[str]:
    """Those of ``host_mounts`` that a container gets a copy of to write to, where root makes it.

    The others are shown as they are, read-only: where no container writes (/usr ...), and what is not on this
    machine, or may be no lower layer of an overlay.
    """
    kinds = {mount.point: mount.kind for mount in mounts}
    return [point for point in host_mounts(mounts) if _is_for_a_copy(point, kinds) and os.path.isdir(point)]


def _is_for_a_copy(point: str, kinds: dict[str, str]) -> bool:
    return kinds[point] in _LOCAL and hostroot.is_writable(point)


def parts(mounts: list[mountinfo.Mount]) -> tuple[list[hostroot.Part], list[str]]:
    """The parts that the host's root is shown in where it can't be shown at once.

    And, of ``host_mounts``, those that are none of them, and are shown as they are: where no container
    writes, and what is not on this machine, or may be no lower layer of an overlay.
    """
    kinds = {mount.point: mount.kind for mount in mounts}
    others: list[str] = []
    for point in host_mounts(mounts):
        alike = _is_for_a_copy(point, kinds) and not _below(point, tuple(others))
        between = alike and _below(point, (hostroot.COPIED,))
        if not between and not (alike and os.path.isdir(point)):
            others.append(point)
    shown = set(host_mounts(mounts))
    hidden = {mount.point for mount in mounts if mount.point != "/" and mount.point not in shown}
    return hostroot.survey(kinds, {*others, *hidden}, _ENGINES), others


def cgroup_mounts(mounts: list[mountinfo.Mount]) -> list[Mount]:
    """(mount point, name below /sys/fs/cgroup or empty) of each hierarchy on this host, longest first."""
    found = []
    for mount in mounts:
        if mount.kind in ("cgroup", "cgroup2"):
            found.append((mount.point, mount.point.removeprefix("/sys/fs/cgroup").strip("/")))
    return sorted(found, key=lambda item: -len(item[0]))


# -- building ------------------------------------------------------------------------------------


class Builder:
    """One container's root, step by step; ``doing`` names the step at hand, for the error."""

    def __init__(
        self, order: dict[str, Any], host: dict[str, Any], user: int = -1, first_id: int = 0
    ) -> None:
        self.spec = order["spec"]
        self.cgroup = order["cgroup"]
        self.host = host
        self.path = order["directory"]
        self.user = user if first_id else -1
        """A descriptor of its user namespace, where ids differ there from those here; else -1."""
        self.first_id = first_id
        """The host's id of root inside."""
        self.doing = ""
        self.directory = self.store = self.root = self.dev = self.sys = self.lab = -1
        self.proc = -1
        """Given where the builder is not in the container's pid namespace, to which it belongs."""
        self.parts: list[int] = []
        """Mounts that the root consists of, beside ``root``."""
        self.view = -1
        """The store, read-only; PID 1 keeps it, so that ``rootdiff`` can look at the changes from outside."""
        self.mounts = Mounts(self.spec, self._map, first_id)

    def build(self) -> None:
        """Everything up to, but not including, the change of root."""
        self.doing = "make the mounts private"
        sc.mount(None, "/", None, sc.MS_REC | sc.MS_PRIVATE)
        self.directory = os.open(self.path, _DIRECTORY | os.O_CLOEXEC)
        self._overlay()
        if self.spec["root"]["kind"] == "host":
            self._host_file_systems()
            self._fresh("run", 0o755)
            self._fresh("tmp", 0o1777)
        # While nothing of the host's is mounted that can be written: where links of the image lead is decided
        # now, and what is made on the way is made in the container's own copy.
        self._find_places()
        self._files(self.root, "/")
        self._generated()
        self._proc()
        self._sys()
        self._dev()
        self._lab_directory()
        self._attach_mounts()

    def finish(self) -> None:
        """What must come after the sysctls: masks, and a read-only root."""
        if not (self.spec["privileged"] or self.spec["nesting"]):
            self._masks()
        if self.spec["root"]["read_only"]:
            self.doing = "make the root read-only"
            for tree in (self.root, *self.parts):
                sc.mount_setattr(tree, sc.MOUNT_ATTR_RDONLY)
        self.doing = "note what is netorch's own in the root"
        rootnote.write(self.directory, self.store)

    def enter(self) -> None:
        """Change the root; nothing of the old one stays reachable.

        Where netorch itself runs in a chroot, its root is not that of the mount namespace, in which `exec`
        would find itself, and to which a process could climb out of a chroot(2) of its own.  To enter one's
        own namespace (setns(2)) moves to its topmost root, which is then the one that is changed.
        """
        self.doing = "change the root"
        here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        sc.setns(here, sc.CLONE_NEWNS)
        os.close(here)
        os.fchdir(self.root)
        sc.pivot_root(".", ".")
        sc.umount2(".", sc.MNT_DETACH)
        os.chdir("/")

    def _overlay(self) -> None:
        """The copy-on-write root; what is written lies in a tmpfs of the container's own.

        Directories are named by descriptor: no escaping, and no path of the host in the mount table.
        """
        self.doing = "make the root's tmpfs"
        self.store = sc.new_mount("tmpfs", [("mode", "0755")], sc.MOUNT_ATTR_NODEV)
        for name in ("upper", "work", "root", "empty", "lower"):
            os.mkdir(name, 0o755, dir_fd=self.store)
        sc.move_mount(self.store, self.directory)
        root = self.spec["root"]
        if root["kind"] == "host" and self.host["parts"] is not None:
            self.root, self.parts = hostroot.mount(self.store, self.host["parts"], self._do)
            self._keep_view()
            return
        lower: list[int] = []
        for path in ["/"] if root["kind"] == "host" else reversed(root["layers"]):
            self.doing = f"open {path} for the root"
            lower.append(self._lower(path, str(len(lower))))
        if root["kind"] == "host":
            for point in self.host["copied"]:
                with suppress(FileNotFoundError):  # unmounted meanwhile
                    self._like_the_hosts(point)
        self.doing = "mount the root (overlay)"
        options = self._layered(lower, "upper", "work")
        if self.host["parts"] is not None:
            options.append(("userxattr", None))  # trusted.* is the host's root's alone
        self.root = self._mount_overlay(options)
        for item in lower:
            os.close(item)
        self._keep_view()

    def _do(self, what: str) -> None:
        self.doing = what

    def _layered(self, lower: list[int], upper: str, work: str) -> Options:
        # A redirect that an image brings along would show another directory.
        return [*hostroot.layered(self.store, lower, upper, work), ("redirect_dir", "nofollow")]

    def _like_the_hosts(self, point: str) -> None:
        """A directory of the host's, and those it is in, in the upper layer before that is mounted."""
        made = "upper"
        for name in point.strip("/").split("/"):
            made = f"{made}/{name}"
            found = os.stat(made.removeprefix("upper"))
            with suppress(FileExistsError):
                os.mkdir(made, dir_fd=self.store)
                os.chown(made, self.first_id + found.st_uid, self.first_id + found.st_gid, dir_fd=self.store)
                os.chmod(made, stat.S_IMODE(found.st_mode), dir_fd=self.store)

    def _copy(self, point: str) -> None:
        """An overlay over a file system of the host's; what is written lies in the root's upper layer."""
        work = f"works/{len(self.parts)}"
        os.makedirs(f"/proc/self/fd/{self.store}/{work}")
        target = sc.openat2(self.root, point.lstrip("/"), _DIRECTORY, INSIDE)
        lower = self._lower(point, work.replace("/", "-"))
        options = self._layered([lower], f"upper{point}", work)
        tree = sc.new_mount("overlay", options, sc.MOUNT_ATTR_NODEV)
        os.close(lower)
        sc.move_mount(tree, target)
        os.close(target)
        self.parts.append(tree)

    def _keep_view(self) -> None:
        """A plain copy of the store's mount: what is mounted inside it would be locked."""
        self.view = sc.open_tree(self.store, "")
        sc.mount_setattr(self.view, sc.MOUNT_ATTR_RDONLY | PLAIN)

    def _mount_overlay(self, options: Options) -> int:
        if all(len(value or "") < _FSCONFIG_LIMIT for _, value in options):
            root = sc.new_mount("overlay", options)
            sc.move_mount(root, self.store, "root")
            return root
        # Many layers: their names are more than fsconfig(2) takes at once, but not more than mount(2) does.
        data = ",".join(
            name if value is None else f"{name}={value}" for name, value in options if name != "source"
        )
        sc.mount("overlay", f"/proc/self/fd/{self.store}/root", "overlay", 0, data)
        return os.open("root", _DIRECTORY | os.O_CLOEXEC, dir_fd=self.store)

    def _lower(self, path: str, number: str) -> int:
        """A layer; with mapped ids it is a mount of its own, attached as long as overlay(8) needs that."""
        if self.user < 0:
            return os.open(path, _DIRECTORY | os.O_CLOEXEC)
        tree = sc.open_tree(sc.AT_FDCWD, path)
        self.doing = f"map the ids of {path}"
        sc.mount_setattr(tree, sc.MOUNT_ATTR_IDMAP, userns=self.user)
        place = os.open("lower", _DIRECTORY | os.O_CLOEXEC, dir_fd=self.store)
        os.mkdir(number, 0o755, dir_fd=place)
        sc.move_mount(tree, place, number)
        os.close(place)
        return tree

    def _map(self, tree: int, required: bool = False) -> None:
        """Map the ids of a mount that comes from the host.

        A file system that can't is shown as it is where it is only to be read: its files are nobody's.
        """
        if self.user < 0:
            return
        try:
            sc.mount_setattr(tree, sc.MOUNT_ATTR_IDMAP, userns=self.user, recursive=True)
        except OSError:
            if required:
                self.doing = f"map the ids of what it is to {self.doing}"
                raise

    def _host_file_systems(self) -> None:
        # In a realm, mounts of the host's can't be had without those below them (mount_namespaces(7)).
        with_those_below = 0 if self.host["parts"] is None else sc.AT_RECURSIVE
        for point in self.host["mounts"]:
            self.doing = f"show the host's {point}"
            with suppress(OSError):  # none that overlayfs takes for a layer, or unmounted meanwhile
                if point in self.host["copied"]:
                    self._copy(point)
                    continue
            try:
                tree = sc.open_tree(sc.AT_FDCWD, point, sc.OPEN_TREE_CLONE | with_those_below)
                target = sc.openat2(self.root, point.lstrip("/"), _PATH, INSIDE)
            except (FileNotFoundError, PermissionError):
                continue  # unmounted meanwhile, covered by another mount, or another user's FUSE
            attributes = sc.MOUNT_ATTR_RDONLY | sc.MOUNT_ATTR_NODEV
            sc.mount_setattr(tree, attributes, recursive=bool(with_those_below))
            self._map(tree)
            attach(tree, target)

    def _fresh(self, name: str, mode: int) -> None:
        """An empty directory of the container's own tmpfs over /run or /tmp of the host's root."""
        self.doing = f"make /{name}"
        os.mkdir(name, mode, dir_fd=self.store)
        tree = sc.open_tree(self.store, name)
        sc.mount_setattr(tree, sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV)
        attach(tree, open_directory(self.root, name))

    def _proc(self) -> None:
        self.doing = "mount /proc"
        if self.proc < 0:
            self.proc = sc.new_mount("proc", _NONE, PLAIN)
        self._over(self.proc, "proc")

    def _over(self, tree: int, name: str) -> None:
        target = open_plain_directory(self.root, name)
        sc.move_mount(tree, target)
        os.close(target)

    def _sys(self) -> None:
        self.doing = "mount /sys"
        self.sys = sc.new_mount("sysfs", _NONE, PLAIN)
        self._over(self.sys, "sys")
        self.doing = "mount /sys/fs/cgroup"
        self._cgroups()
        writable = self.spec["privileged"]
        sc.mount_setattr(self.sys, PLAIN | (0 if writable else sc.MOUNT_ATTR_RDONLY), recursive=True)
        if self.spec["nesting"]:
            self.doing = "hand its cgroups to it"
            self._delegate()

    def _cgroups(self) -> None:
        """The container's own cgroup in each hierarchy, as roots: it sees no other's."""
        own = [*self.cgroup["v1"], *([self.cgroup["v2"]] if self.cgroup["v2"] else [])]
        pairs = [(name, path) for path in own for name in self._hierarchy(path)]
        if [name for name, _ in pairs] == [""]:
            _attach_below(sc.open_tree(sc.AT_FDCWD, pairs[0][1]), self.sys, "fs/cgroup")
            return
        shelf = sc.new_mount("tmpfs", [("mode", "0755"), ("size", "64k")], PLAIN)
        sc.move_mount(shelf, self.sys, "fs/cgroup")
        for name, path in pairs:
            os.mkdir(name, 0o755, dir_fd=shelf)
            _attach_below(sc.open_tree(sc.AT_FDCWD, path), shelf, name)
            for alias in name.split(",") if "," in name else ():
                os.symlink(name, alias, dir_fd=shelf)
        os.close(shelf)

    def _hierarchy(self, path: str) -> list[str]:
        for point, name in self.host["cgroups"]:
            if _below(path, (point,)):
                return [name]
        return []

    def _delegate(self) -> None:
        """``nesting``: its root may make cgroups below its own.  Its own limits stay the host's.

        v2: a group whose controllers are handed down may hold no process itself, so PID 1 goes one below.
        """
        for path in (*self.cgroup["v1"], *([self.cgroup["v2"]] if self.cgroup["v2"] else [])):
            name = "/".join(("fs/cgroup", *self._hierarchy(path))).rstrip("/")
            descriptor = sc.openat2(self.sys, name, _PATH, sc.RESOLVE_BENEATH)
            sc.mount_setattr(descriptor, 0, clear=sc.MOUNT_ATTR_RDONLY)
            for file in (".", *_DELEGATED):
                with suppress(FileNotFoundError):
                    os.chown(f"{path}/{file}", self.first_id, self.first_id)
            os.close(descriptor)
        if v2 := self.cgroup["v2"]:
            os.mkdir(f"{v2}/{confine.INIT_CGROUP}", 0o755)
            sc.write_file(f"{v2}/{confine.INIT_CGROUP}/cgroup.procs", b"1")

    def _dev(self) -> None:
        self.doing = "make /dev"
        self.dev = sc.new_mount("tmpfs", [("mode", "0755"), ("size", "64k")], sc.MOUNT_ATTR_NOSUID)
        self._over(self.dev, "dev")
        for name in ("pts", "shm", "mqueue", "net"):
            os.mkdir(name, 0o755, dir_fd=self.dev)
        for name, major, minor in DEVICES:
            make_node(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor), self.dev, name)
        with suppress(FileNotFoundError):  # a host without it, where no node can be made
            make_node("/dev/net/tun", stat.S_IFCHR | 0o666, os.makedev(10, 200), self.dev, "net/tun")
        for name, target in LINKS:
            os.symlink(target, name, dir_fd=self.dev)
        if self.spec["privileged"] and self.user < 0:
            self._every_device("/dev", self.dev)
        no_exec = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NOEXEC
        pts: Options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", str(self.first_id + TTY))]
        if not self.host["tty_group"]:
            pts.pop()  # it has no id here
        shm: Options = [("mode", "1777"), ("size", "64m")]
        self._below_dev("pts", "devpts", pts, no_exec)
        self._below_dev("shm", "tmpfs", shm, PLAIN)
        self._below_dev("mqueue", "mqueue", [], PLAIN)
        os.chown("pts", self.first_id, self.first_id, dir_fd=self.dev)

    def _below_dev(self, name: str, kind: str, options: Options, attributes: int) -> None:
        self.doing = f"mount /dev/{name}"
        _attach_below(sc.new_mount(kind, options, attributes), self.dev, name)

    def _every_device(self, path: str, into: int) -> None:
        """``privileged``: the host's device nodes, each made again."""
        for entry in os.scandir(path):
            state = entry.stat(follow_symlinks=False)
            if stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode):
                try:
                    make_node(entry.path, state.st_mode, state.st_rdev, into, entry.name)
                except FileExistsError:
                    continue
            elif entry.is_dir(follow_symlinks=False) and entry.name not in (
                "pts",
                "shm",
                "mqueue",
                "hugepages",
            ):
                inner = open_directory(into, entry.name)
                self._every_device(entry.path, inner)
                os.close(inner)

    def _lab_directory(self) -> None:
        """The lab file's directory, live: an overlay does not follow changes below it."""
        path = self.spec["lab_directory"]
        if not path or path == "/" or path in _FRESH or self.spec["root"]["kind"] != "host":
            return
        self.doing = f"show the lab file's directory {path}"
        self.lab = sc.open_tree(sc.AT_FDCWD, path, sc.OPEN_TREE_CLONE | sc.AT_RECURSIVE)
        sc.mount_setattr(self.lab, sc.MOUNT_ATTR_RDONLY | sc.MOUNT_ATTR_NODEV, recursive=True)
        self._map(self.lab)
        attach(self.lab, open_directory(self.root, path), keep=True)

    def _find_places(self) -> None:
        for mount in self.mounts:
            self.doing = f"mount {mount.name}"
            mount.open()
            if innermost(mount.target, self._separate()) is None:
                mount.find_place(self.root, "/")

    def _separate(self) -> list[str]:
        """Where something else than the root's own copy will be mounted."""
        lab = self.spec["lab_directory"]
        return ["/proc", "/sys", "/dev", *([lab] if lab else []), *self.mounts.targets]

    def _attach_mounts(self) -> None:
        """What lies inside another mount is resolved in that one, and can't leave it."""
        trees = {"/proc": self.proc, "/sys": self.sys, "/dev": self.dev}
        if self.lab >= 0:
            trees[self.spec["lab_directory"]] = self.lab
        for mount in self.mounts:
            self.doing = f"mount {mount.name}"
            inner = innermost(mount.target, self._separate())
            if inner is not None:
                mount.find_place(trees[inner], inner)
            trees[mount.target] = mount.attach()
        for path, tree in trees.items():
            self._files(tree, path)
        if "/etc" in self.mounts.targets:
            self._generated_over(trees["/etc"])

    def _files(self, tree: int, inner: str) -> None:
        """Write those of the files that lie in this mount and in none inside it."""
        for path, text in self.spec["files"].items():
            if (innermost(path, self._separate()) or "/") == inner:
                self.doing = f"write {path}"
                content = text.encode("utf-8", "surrogateescape")
                mode = 0o755 if content.startswith(b"#!") else 0o644
                create_file(tree, path[len(inner.rstrip("/")) :], content, mode)

    def _generated(self) -> None:
        """The lab's own files over those of /etc; read-only, for they lie on the host."""
        for name in GENERATED:
            if f"/etc/{name}" in self.spec["files"]:
                continue
            self.doing = f"show /etc/{name}"
            etc = open_directory(self.root, "etc")
            attach(self._generated_file(name), _regular(etc, name))
            os.close(etc)

    def _generated_over(self, etc: int) -> None:
        """The same in a volume that covers /etc, over files that it has: on the host none is made."""
        for name in GENERATED:
            self.doing = f"show /etc/{name}"
            try:
                place = sc.openat2(etc, name, _PATH | os.O_NOFOLLOW, sc.RESOLVE_BENEATH)
            except FileNotFoundError:
                continue
            if f"/etc/{name}" in self.spec["files"] or not stat.S_ISREG(os.fstat(place).st_mode):
                os.close(place)
                continue
            attach(self._generated_file(name), place)

    def _generated_file(self, name: str) -> int:
        tree = sc.open_tree(self.directory, name)
        sc.mount_setattr(tree, sc.MOUNT_ATTR_RDONLY | PLAIN)
        self._map(tree)
        return tree

    def _masks(self) -> None:
        """Cover files by the null device made above, directories by one empty directory.

        /proc and /sys were mounted just now and nobody else is in them: paths below them are safe.
        """
        self.doing = "mask /proc and /sys"
        trees = {"proc": self.proc, "sys": self.sys}
        for place, path, directory in self.host["masked"]:
            cover = self._empty() if directory else sc.open_tree(self.dev, "null")
            _cover(cover, trees[place], path)
        network = sc.open_tree(self.proc, "sys/net")
        for path in self.host["read_only"]:
            cover = sc.open_tree(self.proc, path)
            sc.mount_setattr(cover, sc.MOUNT_ATTR_RDONLY)
            _cover(cover, self.proc, path)
        _cover(network, self.proc, "sys/net")

    def _empty(self) -> int:
        """A new one each time: until Linux 6.15 a mount that is attached nowhere can't be copied."""
        tree = sc.open_tree(self.store, "empty")
        sc.mount_setattr(tree, sc.MOUNT_ATTR_RDONLY | PLAIN)
        return tree


def _attach_below(tree: int, below: int, path: str) -> None:
    """Attach a detached mount at a path of a tree that holds no links of others."""
    try:
        sc.move_mount(tree, below, path)
    finally:
        os.close(tree)


def _cover(tree: int, below: int, path: str) -> None:
    """The same; a path that is missing needs no cover."""
    with suppress(FileNotFoundError):
        _attach_below(tree, below, path)


def masks() -> list[tuple[str, str, bool]]:
    """Of the masked paths, those that this kernel has: (proc or sys, path below it, whether a directory)."""
    cpus = "/sys/devices/system/cpu"
    thermal = [f"devices/system/cpu/{name}/thermal_throttle" for name in os.listdir(cpus)]
    wanted = [("proc", path) for path in MASKED_PROC] + [("sys", path) for path in (*MASKED_SYS, *thermal)]
    found = [(place, path, os.path.isdir(f"/{place}/{path}")) for place, path in wanted]
    return [item for item in found if os.path.lexists(f"/{item[0]}/{item[1]}")]


def read_only_paths() -> list[str]:
    """Of the read-only paths below /proc, those that this kernel has."""
    return [path for path in READ_ONLY_PROC if os.path.lexists(f"/proc/{path}")]


def _regular(parent: int, name: str) -> int:
    """A regular file to mount on; a symbolic link in its place is replaced in the container's own copy."""
    flags = _PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(name, create, 0o644, dir_fd=parent))
    return os.open(name, flags, dir_fd=parent)
