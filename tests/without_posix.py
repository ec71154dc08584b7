# ruff: noqa
# what Windows lacks, taken away before our package is imported
import asyncio, subprocess, tempfile, socket, select, signal, multiprocessing, concurrent.futures.thread, concurrent.futures.process, selectors, sys, os
import torch.utils.tensorboard, tensorboard, numpy, ctypes, importlib, platform, mmap, faulthandler
import sqlite3, typer, rich, msgspec, wrapt
platform.platform()
for module, names in ((os, "fork forkpty register_at_fork memfd_create eventfd nice getpriority setpriority getuid geteuid getgid getpgrp getpgid getsid setsid killpg posix_fallocate pread pwrite fchmod set_blocking sched_getaffinity sysconf O_CLOEXEC O_NOFOLLOW O_NONBLOCK O_DIRECTORY O_PATH pidfd_open waitid WNOHANG"), (socket, "AF_UNIX SOCK_SEQPACKET"), (select, "poll epoll"), (signal, "SIGKILL SIGHUP SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGQUIT SIGBUS SIGSYS SIGTRAP SIGTTIN SIGTTOU SIGXCPU SIGXFSZ SIGPIPE pthread_sigmask sigwait sigwaitinfo sigpending"), (mmap, "MADV_REMOVE"), (faulthandler, "register")):
    for name in names.split():
        if hasattr(module, name): delattr(module, name)
for name in ("fcntl", "resource", "grp", "pwd", "termios"):
    sys.modules[name] = None
real_open = os.open
def opened(path, flags, mode=0o777, *, dir_fd=None):
    if dir_fd is not None: raise NotImplementedError("dir_fd")
    if os.path.isdir(path): raise PermissionError(13, "Permission denied", str(path))
    return real_open(path, flags, mode)
os.open = opened
real_kill = os.kill
def kill(pid, number):
    print("os.kill ends the process", pid, number, file=sys.stderr); raise SystemExit("os.kill")
os.kill = kill
def audit(event, args):
    if event == "open" and isinstance(args[0], str) and args[0].startswith("/proc"): raise FileNotFoundError(2, "no /proc", args[0])
sys.addaudithook(audit)
os.symlink = lambda *a, **k: (_ for _ in ()).throw(OSError(1314, "A required privilege is not held by the client"))
class Kernel: 
    def __init__(self):
        class F:
            def __init__(self, f): self.f = f
            def __call__(self, *a): return self.f(*a)
        self.OpenProcess = F(lambda a, b, pid: pid); self.GetLastError = F(lambda: 87)
        self.WaitForSingleObject = F(lambda h, t: 0x102); self.CloseHandle = F(lambda h: 1)
ctypes.windll = type("W", (), {"kernel32": Kernel()})
sys.platform = "win32"
import pkgutil, traceback
import tracelet_shim
bad = []
for m in pkgutil.walk_packages(tracelet_shim.__path__, "tracelet_shim."):
    if "__main__" in m.name or "._site" in m.name or m.name.endswith("_start"): continue
    try: importlib.import_module(m.name)
    except BaseException as e: bad.append((m.name, repr(e)))
for name, why in bad: print("cannot be imported:", name); print(why, file=sys.stderr)
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter
where = sys.argv[1]; os.chdir(where)
session = tracelet.start_logging(backend=["tensorboard"])
w = SummaryWriter("runs/x")
for i in range(50): w.add_scalar("loss", i / 2, i)
w.add_text("t", "hello", 1); w.add_histogram("h", numpy.arange(9.0), 1); w.add_image("i", numpy.zeros((3, 4, 4), "uint8"), 1)
open("a.txt", "w").write("x")
session.log_artifact("a.txt")
w.close()
st = None
tracelet.stop_logging()
for name, s in session.status().items(): print(name, s.state, s.delivered, s.pending, s.failed, s.error)
