"""Confinement: capabilities, the seccomp profile and its compiler, and a process that gave it all up."""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import view

from netns_orch.capabilities import CAPABILITIES, DEFAULT_CAPABILITIES, capabilities, mask
from netns_orch.errors import KernelError, NetorchError, UsageError
from netns_orch.kernel import confine, devicefilter, keyring, seccomp, syscalls

pytestmark = view.IN_PROCESS
kernel = pytest.mark.kernel
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386 = 0x40000003
ALLOW, ENOSYS, EPERM = 0x7FFF0000, 0x00050000 | errno.ENOSYS, 0x00050000 | errno.EPERM
NEW_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
AF_ALG, AF_VSOCK = 38, 40


class TestCapabilities:
    def test_the_default_is_dockers_and_net_admin(self) -> None:
        assert mask(DEFAULT_CAPABILITIES) == 0xA80425FB | mask(["NET_ADMIN"])
        assert capabilities([], []) == sorted(DEFAULT_CAPABILITIES)

    def test_added_and_dropped(self) -> None:
        found = capabilities(["sys_time", "CAP_SYS_NICE"], ["NET_RAW"])
        assert set(found) == {*DEFAULT_CAPABILITIES, "SYS_TIME", "SYS_NICE"} - {"NET_RAW"}

    def test_all(self) -> None:
        assert capabilities(["ALL"], ["NET_RAW"]) == sorted(set(CAPABILITIES) - {"NET_RAW"})
        assert capabilities(["NET_RAW"], ["ALL"]) == ["NET_RAW"]
        assert capabilities([], ["CHOWN"], privileged=True) == sorted(CAPABILITIES)

    def test_an_unknown_name_gets_the_nearest(self) -> None:
        with pytest.raises(UsageError, match="NET_ADMIN"):
            capabilities(["NET_ADMN"], [])


# -- a machine that runs the compiled program ----------------------------------------------------------


def run(program: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = MACHINES["x86_64"]) -> int:
    """What the kernel would do with one system call (Documentation/networking/filter.rst, seccomp(2))."""
    six = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, arch, 0, *six)
    accumulator = position = 0
    for _ in range(len(program) // 8):
        code, true, false, k = struct.unpack_from("=HBBI", program, position * 8)
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x05:
            position += k
        elif code == 0x06:
            return int(k)
        else:
            holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}[code]
            position += true if holds else false
    raise AssertionError("the program does not end")


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Filter:
    """The default profile for some capabilities on some machine."""

    def __init__(self, machine: str, names: tuple[str, ...] = DEFAULT_CAPABILITIES) -> None:
        self.arch = MACHINES[machine]
        self.numbers = seccomp.system_calls(machine)
        self.program = seccomp.compile_filter("default", names, machine)

    def __call__(self, name: str, *arguments: int) -> int:
        return run(self.program, self.numbers[name], arguments, self.arch)


class TestDefaultProfile:
    def test_the_usual_is_allowed(self, machine: str) -> None:
        ask = Filter(machine)
        for name in (
            "read",
            "openat",
            "execve",
            "mmap",
            "futex",
            "ioctl",
            "prctl",
            "ptrace",
            "landlock_add_rule",
        ):
            assert ask(name) == ALLOW, name

    @pytest.mark.parametrize(
        "name",
        [
            "mount", "umount2", "pivot_root", "unshare", "setns", "bpf", "keyctl", "add_key", "kexec_load",
            "open_by_handle_at", "init_module", "reboot", "swapon", "userfaultfd", "io_uring_setup",
            "perf_event_open", "mount_setattr", "fsopen", "move_mount", "settimeofday", "quotactl", "acct",
        ],
    )  # fmt: skip
    def test_the_dangerous_is_refused(self, machine: str, name: str) -> None:
        assert Filter(machine)(name) == EPERM

    def test_chroot_comes_with_its_capability(self, machine: str) -> None:
        assert Filter(machine)("chroot") == ALLOW
        assert Filter(machine, ())("chroot") == EPERM

    @pytest.mark.parametrize("flag", NEW_NAMESPACES)
    def test_clone_makes_no_namespaces(self, machine: str, flag: int) -> None:
        ask = Filter(machine)
        assert ask("clone", signal.SIGCHLD) == ALLOW
        assert ask("clone", flag | signal.SIGCHLD) == EPERM
        assert Filter(machine, (*DEFAULT_CAPABILITIES, "SYS_ADMIN"))("clone", flag) == ALLOW

    def test_clone3_says_that_it_is_not_there(self, machine: str) -> None:
        assert Filter(machine)("clone3") == ENOSYS
        assert Filter(machine, (*DEFAULT_CAPABILITIES, "SYS_ADMIN"))("clone3") == ALLOW

    def test_address_families(self, machine: str) -> None:
        ask = Filter(machine)
        refused = [family for family in range(1, 46) if ask("socket", family) != ALLOW]
        assert refused == [AF_ALG, AF_VSOCK]
        for high in (1 << 32, 0xFFFFFFFF << 32):  # the kernel looks at the low half only
            assert ask("socket", high | AF_ALG) == EPERM
            assert ask("socket", high | AF_VSOCK) == EPERM

    def test_personality(self, machine: str) -> None:
        ask = Filter(machine)
        for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
            assert ask("personality", value) == ALLOW
        assert ask("personality", 0x0040000) == EPERM  # ADDR_NO_RANDOMIZE

    @pytest.mark.parametrize(
        ("capability", "name"),
        [
            ("SYS_ADMIN", "mount"), ("SYS_ADMIN", "setns"), ("SYS_BOOT", "reboot"),
            ("SYS_MODULE", "init_module"), ("SYS_PACCT", "acct"), ("SYS_PTRACE", "kcmp"),
            ("SYS_TIME", "settimeofday"),
            ("SYS_TTY_CONFIG", "vhangup"), ("SYS_NICE", "mbind"), ("SYSLOG", "syslog"), ("BPF", "bpf"),
            ("PERFMON", "perf_event_open"), ("DAC_READ_SEARCH", "open_by_handle_at"),
        ],
    )  # fmt: skip
    def test_capabilities_open_system_calls(self, machine: str, capability: str, name: str) -> None:
        without = tuple(c for c in DEFAULT_CAPABILITIES if c != capability)
        assert Filter(machine, without)(name) == EPERM
        assert Filter(machine, (*without, capability))(name) == ALLOW

    def test_calls_newer_than_the_profile_are_not_there(self, machine: str) -> None:
        program = seccomp.compile_filter("default", DEFAULT_CAPABILITIES, machine)
        for number in (467, 600, 0x3FFFFFFF):
            assert run(program, number, (), MACHINES[machine]) == ENOSYS

    def test_other_machines_calls_are_not_there(self, machine: str) -> None:
        program = seccomp.compile_filter("default", DEFAULT_CAPABILITIES, machine)
        for number in range(460):
            assert run(program, number, (), I386) == ENOSYS
            assert run(program, 0x40000000 | number, (), MACHINES[machine]) == ENOSYS  # x32

    def test_few_steps(self, machine: str) -> None:
        assert len(seccomp.compile_filter("default", DEFAULT_CAPABILITIES, machine)) // 8 < 400


class TestNumbers:
    def test_are_libseccomps(self, machine: str) -> None:
        """libseccomp's own table is the oracle, for all that it knows."""
        pyseccomp = pytest.importorskip("pyseccomp", exc_type=OSError)
        arch = getattr(pyseccomp.Arch, machine.upper())
        agreed = 0
        for name, number in seccomp.system_calls(machine).items():
            theirs = _resolve(pyseccomp, arch, name)
            if theirs is not None and theirs >= 0:
                assert theirs == number, name
                agreed += 1
        assert agreed > 290

    def test_of_the_calls_that_netorch_makes_itself(self, machine: str) -> None:
        table = syscalls._MACHINES[machine]
        assert all(table.keys() == other.keys() for other in syscalls._MACHINES.values())
        known = seccomp.system_calls(machine)
        assert {name: known[name] for name in table} == table
        assert {name: known[name] for name in syscalls._EVERYWHERE} == syscalls._EVERYWHERE
        assert devicefilter._BPF_NUMBERS[machine] == known["bpf"]
        assert set(syscalls._MACHINES) == set(seccomp._MACHINES) == set(devicefilter._BPF_NUMBERS)


def _resolve(pyseccomp: Any, arch: Any, name: str) -> int | None:
    try:
        number = pyseccomp.resolve_syscall(arch, name)
    except ValueError:
        return None
    return int(number) if number is not None else None


# -- the compiler ----------------------------------------------------------------------------------------


def profile(path: Path, rules: list[dict[str, Any]], default: str = "SCMP_ACT_ERRNO", **more: Any) -> str:
    file = path / "profile.json"
    file.write_text(json.dumps({"defaultAction": default, "syscalls": rules, **more}))
    return str(file)


OPERATORS: dict[str, Callable[[int, int, int], bool]] = {
    "SCMP_CMP_NE": lambda a, value, _: a != value,
    "SCMP_CMP_LT": lambda a, value, _: a < value,
    "SCMP_CMP_LE": lambda a, value, _: a <= value,
    "SCMP_CMP_EQ": lambda a, value, _: a == value,
    "SCMP_CMP_GE": lambda a, value, _: a >= value,
    "SCMP_CMP_GT": lambda a, value, _: a > value,
    "SCMP_CMP_MASKED_EQ": lambda a, mask, value: a & mask == value,
}
EDGES = (0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (5 << 32) + 7, (1 << 64) - 1)
words = st.one_of(st.sampled_from(EDGES), st.integers(0, (1 << 64) - 1))


class TestCompiler:
    @pytest.mark.parametrize("op", OPERATORS)
    def test_comparisons_of_64_bits(self, tmp_path: Path, op: str) -> None:
        for value in EDGES:
            second = value & 0xFFFF0000FFFF
            rule = {"index": 2, "op": op, "value": value, "valueTwo": second}
            rules = [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [rule]}]
            program = seccomp.compile_filter(profile(tmp_path, rules), [], "x86_64")
            for argument in EDGES:
                holds = OPERATORS[op](argument, value, second)
                assert run(program, 0, (9, 9, argument)) == (ALLOW if holds else EPERM), (value, argument)

    @given(
        rows=st.lists(
            st.tuples(st.integers(0, 5), st.sampled_from(sorted(OPERATORS)), words, words),
            min_size=1,
            max_size=4,
        ),
        arguments=st.tuples(*[words] * 6),
    )
    def test_several_comparisons_must_all_hold(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        rows: list[tuple[int, str, int, int]],
        arguments: tuple[int, ...],
    ) -> None:
        args = [{"index": i, "op": op, "value": a, "valueTwo": b} for i, op, a, b in rows]
        rules = [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args}]
        path = tmp_path_factory.mktemp("profile")
        program = seccomp.compile_filter(profile(path, rules), [], "x86_64")
        holds = all(OPERATORS[op](arguments[i], a, b) for i, op, a, b in rows)
        assert run(program, 0, arguments) == (ALLOW if holds else EPERM)

    def test_actions(self, tmp_path: Path) -> None:
        rules = [
            {"names": ["read"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
            {"names": ["open"], "action": "SCMP_ACT_LOG"},
            {"names": ["close"], "action": "SCMP_ACT_TRAP"},
        ]
        program = seccomp.compile_filter(profile(tmp_path, rules, "SCMP_ACT_ALLOW"), [], "x86_64")
        found = [run(program, number) for number in range(5)]
        assert found == [0x80000000, 0x00050005, 0x7FFC0000, 0x00030000, ALLOW]
        assert run(program, 9999) == ALLOW

    def test_all_numbers_alternating_need_long_jumps(self, tmp_path: Path) -> None:
        """Each call its own leaf with comparisons: pieces far beyond 255 instructions."""
        numbers = seccomp.system_calls("x86_64")
        rules = []
        for name, number in numbers.items():
            args = [{"index": 0, "op": "SCMP_CMP_EQ", "value": number * 7}]
            rules.append({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args})
        program = seccomp.compile_filter(profile(tmp_path, rules), [], "x86_64")
        assert len(program) // 8 > 2000
        for number in numbers.values():
            assert run(program, number, (number * 7,)) == ALLOW
            assert run(program, number, (number * 7 + 1,)) == EPERM

    def test_names_of_other_machines_are_left_out(self, tmp_path: Path) -> None:
        rules = [{"names": ["open", "nosuchcall"], "action": "SCMP_ACT_ALLOW"}]
        for machine, expected in (("x86_64", ALLOW), ("aarch64", None)):
            program = seccomp.compile_filter(profile(tmp_path, rules), [], machine)
            if expected:
                assert run(program, 2) == expected

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("{", "profile.json:1"),
            ("[]", "not a seccomp profile"),
            ("{}", "defaultAction"),
            ('{"defaultAction": "ALLOW"}', "unknown action 'ALLOW'"),
            ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": 7}', "not a seccomp profile"),
            (
                '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": '
                '"SCMP_ACT_LOG", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}',
                "not a comparison",
            ),
            ("[" * 200_000, "not a seccomp profile"),
        ],
        ids=["torn", "list", "empty", "action", "syscalls", "index", "deep"],
    )
    def test_what_is_no_profile_is_an_error_and_no_traceback(
        self, tmp_path: Path, text: str, says: str
    ) -> None:
        (tmp_path / "profile.json").write_text(text)
        with pytest.raises(NetorchError) as caught:
            seccomp.compile_filter(str(tmp_path / "profile.json"), [], "x86_64")
        assert says in str(caught.value)
        assert "profile.json" in str(caught.value)

    def test_no_such_file_and_no_such_machine(self, tmp_path: Path) -> None:
        with pytest.raises(KernelError, match="No such file"):
            seccomp.compile_filter(str(tmp_path / "none.json"), [])
        with pytest.raises(KernelError, match="m68k"):
            seccomp.compile_filter("default", [], "m68k")

    def test_one_file_for_all_that_have_the_same(self, tmp_path: Path) -> None:
        first = seccomp.keep(tmp_path, "default", DEFAULT_CAPABILITIES)
        assert seccomp.keep(tmp_path, "default", [*DEFAULT_CAPABILITIES]) == first
        assert seccomp.keep(tmp_path, "default", []) != first
        assert len(list(tmp_path.iterdir())) == 2
        assert first.read_bytes() == seccomp.compile_filter("default", DEFAULT_CAPABILITIES)


class TestDeviceRules:
    def test_as_v1_says_them(self) -> None:
        lines = devicefilter.v1_lines(devicefilter.rules([]))
        assert {"c *:* m", "c 1:3 rwm", "c 136:* rwm", "c 10:200 rwm"} <= set(lines)
        assert "c 10:229 rwm" not in lines

    def test_what_is_no_device_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(KernelError, match="not a device node"):
            devicefilter.rules([(str(tmp_path), "rw")])
        with pytest.raises(KernelError, match="No such file"):
            devicefilter.rules([(str(tmp_path / "none"), "rw")])


# -- a process that gave it all up ------------------------------------------------------------------------


def confined(tell: Callable[[], Any], **wanted: Any) -> Any:
    """What ``tell`` finds in a child after it was confined."""
    names = wanted.pop("capabilities", DEFAULT_CAPABILITIES)
    program = wanted.pop("seccomp_filter", None)
    prepared = confine.prepare(names, program, wanted.pop("ulimits", {}), wanted.pop("user", None), **wanted)

    def confine_and_tell() -> Any:
        prepared.before_entering()
        prepared.apply()
        return tell()

    return in_child(confine_and_tell)


def in_child(tell: Callable[[], Any]) -> Any:
    """What ``tell`` finds in a child."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.write(write, json.dumps(tell()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with open(read, "rb") as stream:
        text = stream.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return json.loads(text)


def status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def outcomes(*calls: tuple[int, ...]) -> Callable[[], list[int]]:
    """The errno (0: it worked) of raw system calls."""
    libc = ctypes.CDLL(None, use_errno=True)

    def tell() -> list[int]:
        found = []
        for call in calls:
            words = [ctypes.c_long(word) for word in call]
            found.append(ctypes.get_errno() if libc.syscall(*words) < 0 else 0)
        return found

    return tell


@pytest.fixture
def default_filter() -> Iterator[bytes]:
    if os.uname().machine not in MACHINES:
        pytest.skip("a machine whose system calls are not known")
    yield seccomp.compile_filter("default", DEFAULT_CAPABILITIES)


@kernel
class TestApplied:
    def test_capabilities(self, default_filter: bytes) -> None:
        found = confined(status, seccomp_filter=default_filter)
        possible = mask(DEFAULT_CAPABILITIES) & int(status()["CapPrm"], 16)
        for name in ("CapBnd", "CapPrm", "CapEff"):
            assert int(found[name], 16) == possible, name
        assert (int(found["CapInh"], 16), int(found["CapAmb"], 16)) == (0, 0)
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        assert found["Groups"] == ""

    def test_another_user_keeps_none_over_execve(self) -> None:
        def tell() -> list[str]:
            read, write = os.pipe()
            if not os.fork():
                os.dup2(write, 1)
                os.execv("/bin/cat", ["cat", "/proc/self/status"])
            os.close(write)
            with open(read) as stream:
                return stream.read().splitlines()

        found = {
            k: v.strip()
            for k, _, v in (line.partition(":") for line in confined(tell, user=(1000, 1001, [7])))
        }
        assert found["Uid"].split() == ["1000"] * 4
        assert found["Gid"].split() == ["1001"] * 4
        assert found["Groups"] == "7"
        for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
            assert int(found[name], 16) == 0, name

    def test_refused_by_the_kernel(self, default_filter: bytes) -> None:
        numbers = seccomp.system_calls()
        names = ("mount", "unshare", "bpf", "keyctl", "kexec_load", "open_by_handle_at", "clone3")
        calls = [(numbers[name], 0, 0, 0, 0, 0) for name in names]
        calls += [(numbers["socket"], AF_ALG, 5, 0), (numbers["socket"], AF_VSOCK, 1, 0), (9999, 0)]
        calls += [(numbers["socket"], 2, 2, 0)]
        expected = [errno.EPERM] * 6 + [errno.ENOSYS, errno.EPERM, errno.EPERM, errno.ENOSYS, 0]
        assert confined(outcomes(*calls), seccomp_filter=default_filter) == expected

    def test_without_no_new_privs_the_filter_is_loaded_too(self, default_filter: bytes) -> None:
        found = confined(status, seccomp_filter=default_filter, no_new_privs=False)
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("0", "2")

    def test_limits(self) -> None:
        def tell() -> list[tuple[int, int]]:
            return [resource.getrlimit(n) for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)]

        assert confined(tell, ulimits={"nofile": [64, 128], "core": [0, 0]}) == [[64, 128], [0, 0]]

    def test_a_limit_that_may_not_be_raised_is_clamped(self) -> None:
        """No one may go above fs.nr_open, whatever his capabilities."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        beyond = int(Path("/proc/sys/fs/nr_open").read_text()) + 1
        found = confined(
            lambda: resource.getrlimit(resource.RLIMIT_NOFILE), ulimits={"nofile": [beyond, beyond]}
        )
        assert found == [hard, hard]

    def test_every_limit_has_a_name_that_the_kernel_knows(self) -> None:
        present = {name: resource.getrlimit(number) for name, number in confine.LIMITS.items()}
        wanted = {name: [soft, hard] for name, (soft, hard) in present.items()}
        numbers = confine.LIMITS.items()
        found = confined(
            lambda: {name: resource.getrlimit(number) for name, number in numbers}, ulimits=wanted
        )
        assert found == wanted

    def test_descriptors_close_on_execve(self) -> None:
        inherited = os.open("/", os.O_RDONLY)
        os.set_inheritable(inherited, True)
        try:
            assert confined(lambda: os.get_inheritable(inherited)) is False
        finally:
            os.close(inherited)

    def test_another_session_keyring(self) -> None:
        numbers = seccomp.system_calls()
        libc = ctypes.CDLL(None, use_errno=True)

        def session_keyring() -> int:
            return int(libc.syscall(numbers["keyctl"], 0, ctypes.c_long(-3), 0))

        mine = session_keyring()
        if mine < 0:
            pytest.skip("this kernel has no keyrings for us")
        assert confined(session_keyring) != mine

    def test_the_shared_session_keyring_where_the_users_quota_is_spent(self) -> None:
        numbers = seccomp.system_calls()
        libc = ctypes.CDLL(None, use_errno=True)

        def session_keyring() -> int:
            return int(libc.syscall(numbers["keyctl"], 0, ctypes.c_long(-3), 0))

        if session_keyring() < 0:
            pytest.skip("this kernel has no keyrings for us")

        user = 1 + os.getpid() % 65536 if view.INSIDE else 2_000_000 + os.getpid()

        def spend_all() -> list[int]:
            keyring.join_new()
            found = [session_keyring()]
            size, place = ctypes.c_size_t(1), ctypes.c_long(-3)
            for number in range(20_000):  # kernel.keys.maxkeys is 200, but for who raised it
                name = ctypes.c_char_p(b"%d" % number)
                if libc.syscall(numbers["add_key"], ctypes.c_char_p(b"user"), name, name, size, place) < 0:
                    break
            keyring.join_new()
            return [*found, session_keyring()]

        def share() -> list[Any]:
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            keyring.share()
            return [session_keyring(), in_child(spend_all)]

        shared, (first, last) = in_child(share)
        assert first not in (shared, -1)
        assert last == shared

    def test_oom_score(self) -> None:
        def tell() -> int:
            return int(Path("/proc/self/oom_score_adj").read_text())

        assert confined(tell, oom_score_adj=700) == 700

    def test_dies_with_its_parent_even_as_another_user(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)

        def tell() -> int:
            number = ctypes.c_int()
            libc.prctl(2, ctypes.byref(number), 0, 0, 0)
            return number.value

        for user in (None, (1000, 1000, ())):
            assert confined(tell, user=user, parent_death_signal=signal.SIGKILL) == signal.SIGKILL


def test_the_profiles_files_are_in_the_package() -> None:
    names = {path.name for path in Path(seccomp.__file__).parent.glob("*.json")}
    assert {"seccomp_default.json", "syscall_numbers.json"} <= names
    pairs = itertools.pairwise(sorted(seccomp.system_calls("x86_64").values()))
    assert all(a < b for a, b in pairs)
