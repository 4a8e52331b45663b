"""Write sandbox_image/seccomp.json: the system calls that a sandbox may use, for x86_64 and arm64.

    .venv/bin/python scripts/make_seccomp.py            write the profile
    .venv/bin/python scripts/make_seccomp.py --explain  what the engine's default allows and this one does not, and why

The starting point is what the Docker engine's default profile allows a process without capabilities. All else is refused
with EPERM. Calls of 32-bit programs have no rule, so the kernel ends the process (seccomp_rule_add(3), bad architecture).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

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
        copy_file_range fdatasync fsync pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv
        sendfile splice sync sync_file_range syncfs tee write writev io_cancel io_destroy io_getevents
        io_pgetevents io_setup io_submit
    """,
    "descriptors and waiting": """
        close close_range dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait
        epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 fcntl ioctl pipe pipe2 poll ppoll pselect6
        select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime
    """,
    "socket pairs, over which supervisor and worker talk": """
        getpeername getsockname getsockopt recvfrom recvmsg sendmsg sendto setsockopt shutdown socketpair
    """,
    "memory": """
        brk madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock
        munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages
    """,
    "processes and threads": """
        arch_prctl execve execveat exit exit_group fork futex futex_waitv get_robust_list getcpu getpgid
        getpgrp getpid getppid getpriority getrlimit getrusage getsid gettid ioprio_get ioprio_set pidfd_open
        pidfd_send_signal prctl prlimit64 process_mrelease rseq sched_get_priority_max sched_get_priority_min
        sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
        sched_setaffinity sched_yield set_robust_list set_thread_area get_thread_area set_tid_address setpgid
        setpriority setrlimit setsid vfork wait4 waitid
    """,
    "signals": """
        alarm getitimer kill pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
        rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo setitimer sigaltstack tgkill tkill
    """,
    "time and facts": """
        clock_getres clock_gettime clock_nanosleep getrandom gettimeofday nanosleep sysinfo time timer_create
        timer_delete timer_getoverrun timer_gettime timer_settime times uname
    """,
    "users: the runtime itself calls these after the profile is on; without capabilities they give nothing": """
        capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid
        setgroups setregid setresgid setresuid setreuid setuid
    """,
}

# What the engine's default allows, and a sandbox does without.
DENIED: Final = {
    "a way into other processes": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "the network, and any socket that is not a pair": """
        accept accept4 bind connect listen recvmmsg sendmmsg socket socketcall
    """,
    "IPC that outlives processes and passes by the limits": """
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd
        semctl semget semop semtimedop shmat shmctl shmdt shmget
    """,
    "kernel code with a long record of holes, which Python does not need": """
        fanotify_mark io_uring_enter io_uring_register io_uring_setup modify_ldt name_to_handle_at personality
        userfaultfd vmsplice
    """,
    "memory that no other process, and no limit, can look into": "memfd_secret",
    "device nodes": "mknod mknodat",
    "scheduling classes that starve others": "sched_setattr sched_setparam sched_setscheduler",
    "filters of its own": "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    "the host's clock": "adjtimex clock_adjtime",
}

NEW_NAMESPACES: Final = 0x7E020000  # the CLONE_NEW* bits (clone(2)) but CLONE_NEWTIME, which clone cannot take
ENOSYS: Final = 38


def profile() -> dict[str, Any]:
    """The profile in the engine's format."""
    rules: list[dict[str, Any]] = [
        {"names": sorted(names.split()), "action": "SCMP_ACT_ALLOW", "comment": topic}
        for topic, names in ALLOWED.items()
    ]
    rules.append(
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            "comment": "no new namespaces",
        }
    )
    rules.append(
        {
            "names": ["clone3"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": ENOSYS,
            "comment": "its flags lie in memory, which no filter can read; libc then falls back to clone",
        }
    )
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": rules,
    }


def text() -> str:
    """The contents of the file."""
    return json.dumps(profile(), indent=1) + "\n"


def main() -> None:
    if sys.argv[1:] == ["--explain"]:
        for reason, names in DENIED.items():
            print(f"{reason}:\n    {' '.join(names.split())}")
        return
    PROFILE.write_text(text())


if __name__ == "__main__":
    main()
