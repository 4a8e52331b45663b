"""Writes sandbox_image/seccomp.json: the system calls that a sandbox may use, for x86_64 and arm64.

    .venv/bin/python scripts/make_seccomp.py            write the profile
    .venv/bin/python scripts/make_seccomp.py --explain  list what it denies beyond the engine's default, with reasons

The starting point is what Docker's default profile allows a process without capabilities. All other calls fail with EPERM.
32-bit programs have no rules, so the kernel kills them (seccomp_rule_add(3), bad architecture).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

PROFILE: Final = Path(__file__).resolve().parent.parent / "sandbox_image" / "seccomp.json"

ALLOWED: Final = {
    "files and folders": """
        access chdir chmod chown creat faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat
        fchmodat2 fchown fchownat flock fstat fstatfs ftruncate futimesat getcwd getdents getdents64
        inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lchown link linkat lseek lstat mkdir
        mkdirat newfstatat open openat openat2 readlink readlinkat rename renameat renameat2 rmdir stat statfs
        statx symlink symlinkat truncate umask unlink unlinkat utime utimensat utimes fgetxattr flistxattr
        fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr removexattr
        setxattr
    """,
    "reading and writing": """
        copy_file_range pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile splice
        tee write writev
    """,
    "descriptors and waiting": """
        close close_range dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait
        epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 fcntl ioctl pipe pipe2 poll ppoll pselect6
        select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime
    """,
    "socket pairs, over which supervisor and worker talk": """
        getpeername getsockname getsockopt recvfrom recvmsg sendmsg sendto setsockopt shutdown
    """,
    "memory": """
        brk madvise membarrier mincore mlock mlock2 mlockall mprotect mremap munlock munlockall munmap pkey_alloc
        pkey_free pkey_mprotect remap_file_pages
    """,
    "processes and threads": """
        arch_prctl execve execveat exit exit_group fork futex futex_waitv get_robust_list getcpu getpgid
        getpgrp getpid getppid getpriority getrlimit getrusage getsid gettid ioprio_get pidfd_open
        pidfd_send_signal process_mrelease rseq sched_get_priority_max sched_get_priority_min
        sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_yield
        set_robust_list set_thread_area get_thread_area set_tid_address setpgid setrlimit setsid vfork wait4
        waitid
    """,
    "signals": """
        alarm getitimer kill pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
        rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo setitimer sigaltstack tgkill tkill
    """,
    "time and facts": """
        clock_getres clock_gettime clock_nanosleep getrandom gettimeofday nanosleep sysinfo time timer_create
        timer_delete timer_getoverrun timer_gettime timer_settime times uname
    """,
    "users: the runtime calls these after it applies the profile; without capabilities they gain nothing": """
        capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid
        setgroups setregid setresgid setresuid setreuid setuid
    """,
}

# Calls that the engine's default allows, and this profile denies.
DENIED: Final = {
    "access to other processes": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "the network, and every socket except pairs": """
        accept accept4 bind connect listen recvmmsg sendmmsg socket socketcall
    """,
    "IPC that outlives processes and bypasses limits": """
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd
        semctl semget semop semtimedop shmat shmctl shmdt shmget
    """,
    "kernel code with many past vulnerabilities, which Python does not need": """
        fanotify_mark io_uring_enter io_uring_register io_uring_setup modify_ldt name_to_handle_at personality
        userfaultfd vmsplice
    """,
    "memory that no other process can read, and no limit counts": "memfd_secret",
    "contexts that are counted machine-wide (/proc/sys/fs/aio-nr): one sandbox could take them all": """
        io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit
    """,
    "device nodes": "mknod mknodat",
    "scheduling classes that starve other processes, or slow the supervisor": """
        ioprio_set sched_setattr sched_setparam sched_setscheduler
    """,
    "additional filters": "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    "the host's clock": "adjtimex clock_adjtime",
}

# Bits and values from the kernel's headers (linux/sched.h, linux/mman.h, linux/memfd.h, linux/prctl.h); both architectures
# share them.
NEW_NAMESPACES: Final = 0x7E020000  # the CLONE_NEW* bits (clone(2)) except CLONE_NEWTIME, which clone rejects
MAP_HUGETLB: Final = 0x40000
MFD_HUGETLB: Final = 0x4
AF_UNIX: Final = 1
SELF: Final = 0  # the caller, as a PID; PRIO_PROCESS is 0 too
ENOSYS: Final = 38
PRCTL: Final = {
    "PDEATHSIG": (1, 2),
    "DUMPABLE": (3, 4),
    "KEEPCAPS": (7, 8),
    "NAME": (15, 16),
    "GET_SECCOMP": (21,),  # setting one would install an additional filter
    "CAPBSET": (23, 24),
    "SECUREBITS": (27, 28),
    "TIMERSLACK": (29, 30),
    "CHILD_SUBREAPER": (36, 37),
    "NO_NEW_PRIVS": (38, 39),
    "THP_DISABLE": (41, 42),
    "CAP_AMBIENT": (47,),
    "SET_VMA": (0x53564D41,),
}


class Condition(NamedTuple):
    """Requires an argument to equal `value` or, with `none_of`, to have none of these bits set."""

    argument: int
    value: int = 0
    none_of: int = 0

    def __str__(self) -> str:
        requirement = f"has no bit of {self.none_of:#x}" if self.none_of else f"is {self.value:#x}"
        return f"argument {self.argument} {requirement}"

    def rule(self) -> dict[str, Any]:
        """The condition in the engine's format."""
        if self.none_of:
            return {"index": self.argument, "value": self.none_of, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        return {"index": self.argument, "value": self.value, "valueTwo": 0, "op": "SCMP_CMP_EQ"}


# Report success without effect: everything that a sandbox writes is in memory. Real calls would flush the host's disks
# thousands of times a second, through files of the host that a container sees (/etc/hostname).
NO_OPS: Final = "fdatasync fsync msync sync sync_file_range syncfs"

# Allowed only with certain arguments: name, reason, and alternatives, each with conditions that must all hold.
CONDITIONAL: Final[list[tuple[str, str, list[list[Condition]]]]] = [
    ("clone", "no new namespaces", [[Condition(0, none_of=NEW_NAMESPACES)]]),
    (
        "socketpair",
        "no other families: neither the network, nor modules that the kernel would load",
        [[Condition(0, AF_UNIX)]],
    ),
    ("mmap", "huge pages are machine-wide, and no memory limit counts them", [[Condition(3, none_of=MAP_HUGETLB)]]),
    ("memfd_create", "as mmap", [[Condition(1, none_of=MFD_HUGETLB)]]),
    ("prlimit64", "only for the caller itself: the supervisor has the same user", [[Condition(0, SELF)]]),
    ("sched_setaffinity", "as prlimit64", [[Condition(0, SELF)]]),
    ("setpriority", "as prlimit64", [[Condition(0, SELF), Condition(1, SELF)]]),
    (
        "prctl",
        "no additional filters, whose compiled code is counted machine-wide (bpf_jit_limit), no grouping of "
        "processors (PR_SCHED_CORE), nothing unknown",
        [[Condition(0, value)] for values in PRCTL.values() for value in values],
    ),
]


def profile() -> dict[str, Any]:
    """The profile in the engine's format."""
    rules: list[dict[str, Any]] = [
        {"names": sorted(names.split()), "action": "SCMP_ACT_ALLOW", "comment": topic}
        for topic, names in ALLOWED.items()
    ]
    rules += [
        {
            "names": [name],
            "action": "SCMP_ACT_ALLOW",
            "args": [condition.rule() for condition in conditions],
            "comment": reason,
        }
        for name, reason, alternatives in CONDITIONAL
        for conditions in alternatives
    ]
    rules.append(
        {
            "names": sorted(NO_OPS.split()),
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 0,
            "comment": "reports success without effect: everything written is in memory",
        }
    )
    rules.append(
        {
            "names": ["clone3"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": ENOSYS,
            "comment": "its flags are in memory, which no filter can read; libc falls back to clone",
        }
    )
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": rules,
    }


def text() -> str:
    """Content of the file."""
    return json.dumps(profile(), indent=1) + "\n"


def main() -> None:
    if sys.argv[1:] == ["--explain"]:
        for reason, names in DENIED.items():
            print(f"{reason}:\n    {' '.join(names.split())}")
        print(f"reports success without effect, because everything written is in memory:\n    {NO_OPS}")
        for name, reason, alternatives in CONDITIONAL:
            allowed = " or ".join(" and ".join(map(str, conditions)) for conditions in alternatives)
            print(f"{reason}:\n    {name} only if {allowed}")
        return
    PROFILE.write_text(text())


if __name__ == "__main__":
    main()
