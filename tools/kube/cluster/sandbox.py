"""
The file system and identity of a container, as a command line of bubblewrap.

The root is empty but for the system's programs and libraries, read-only; what an image has beyond that is bound in.
Any other path exists only where the manifest mounts something. Pure, but for looking at this machine's directories.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kube.cluster.errors import ObjectError
from kube.cluster.volumes import Identity, Mount
from kube.objects import Object

__all__ = ["Image", "command_line", "identity", "interpreter_binds", "wrap"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEM = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
# The rest of /etc is the host's own business, and left out so that anything can be mounted there.
_SETTINGS = (
    "alternatives",
    "ca-certificates",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "pki",
    "protocols",
    "services",
    "ssl",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """
    What stands for a container image: a program of this machine.

    Attributes:
        entrypoint: Program and first arguments; a manifest's `command` replaces it.
        arguments: What follows where the manifest says neither `command` nor `args`.
        environment: Variables that the image brings; the manifest's replace them.
        binds: Directories or files that the program needs besides itself, read-only at the same path; those below /usr
            are there anyway.
        user: Whom it runs as where the manifest does not say; also its group.
        working_directory: Where it starts.
    """

    entrypoint: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[Path, ...] = ()
    user: int = 10001
    working_directory: str = "/"

    def reads(self) -> tuple[Path, ...]:
        """What is bound in: the program itself, wherever it is, and `binds`."""
        program = Path(self.entrypoint[0])
        own = (program, program.resolve()) if program.is_absolute() else ()
        wanted = set(_outside_usr((*own, *self.binds)))
        # What lies in another one is there already.
        return tuple(sorted(place for place in wanted if wanted.isdisjoint(place.parents)))


def interpreter_binds() -> tuple[Path, ...]:
    """What this Python needs: its environment, its installation, and every directory that it imports from."""
    places = [Path(sys.prefix), Path(sys.base_prefix), *(Path(entry) for entry in sys.path if entry)]
    return tuple(dict.fromkeys(_outside_usr(place for each in places for place in (each, each.resolve()))))


def _outside_usr(places: Iterable[Path]) -> Iterable[Path]:
    usr = Path("/usr")
    return (place for place in places if place.exists() and not (place == usr or usr in place.parents))


def command_line(container: Object, image: Image, where: str) -> list[str]:
    """
    What a container runs: `command` replaces entrypoint and arguments of the image, `args` its arguments.

    Raises:
        ObjectError: An element is no string.
    """
    command, arguments = container.get("command") or [], container.get("args") or []
    for each in (*command, *arguments):
        if not isinstance(each, str):
            raise ObjectError(f"{where}: {each!r} in command or args is no string; quote it")
    if command:
        return [*command, *arguments]
    return [*image.entrypoint, *(arguments or image.arguments)]


def identity(spec: Object, container: Object, image: Image, where: str) -> Identity:
    """
    Whom a container runs as.

    Raises:
        ObjectError: It must not be root, and is.
    """
    pod, own = spec.get("securityContext") or {}, container.get("securityContext") or {}
    merged = {**pod, **own}
    user = merged.get("runAsUser", image.user)
    # Without a group in the manifest the runtime takes the image's, or root's for a user that the image does not know.
    group = merged.get("runAsGroup", image.user if user == image.user else 0)
    if merged.get("runAsNonRoot") and user == 0:
        raise ObjectError(f"{where}: runAsNonRoot is set, but it runs as user 0")
    return Identity(user=user, group=group, volumes_group=pod.get("fsGroup"))


def wrap(
    *,
    bwrap: str,
    command: Sequence[str],
    who: Identity,
    mounts: Sequence[Mount],
    binds: Sequence[Path],
    etc: Mapping[str, Path],
    host_name: str,
    working_directory: str,
    writable_tmp: bool,
    info_descriptor: int,
) -> list[str]:
    """
    The command line that runs a command as a container.

    Args:
        etc: Files of /etc that are the pod's own.
        writable_tmp: /tmp can be written to without being mounted.
    """
    return [
        bwrap,
        # The program is process 1, as in a container: a signal that it does not handle is ignored.
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1"),
        *("--uid", str(who.user), "--gid", str(who.group), "--cap-drop", "ALL"),
        *("--hostname", host_name, "--info-fd", str(info_descriptor)),
        *_system(etc),
        *_places(mounts, binds, writable_tmp=writable_tmp),
        *("--remount-ro", "/", "--chdir", working_directory, "--"),
        *command,
    ]


def _system(etc: Mapping[str, Path]) -> list[str]:
    options = ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--ro-bind-try", "/sys", "/sys"]
    options += ["--perms", "0755", "--dir", "/etc"]
    for name in _SYSTEM:
        place = Path("/") / name
        if place.is_symlink():
            options += ["--symlink", str(place.readlink()), str(place)]
        elif place.exists():
            options += ["--ro-bind", str(place), str(place)]
    for name in _SETTINGS:
        if name not in etc:
            options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name, source in etc.items():
        options += ["--ro-bind", str(source), f"/etc/{name}"]
    # An image has them, if only to find them read-only.
    return [*options, "--perms", "1777", "--dir", "/tmp", "--dir", "/var/tmp"]  # noqa: S108


def _places(mounts: Sequence[Mount], binds: Sequence[Path], *, writable_tmp: bool) -> list[str]:
    """Mounts and binds, outer ones first: a volume at /tmp shall not hide a program below it."""
    options = [("/tmp", ["--perms", "1777", "--tmpfs", "/tmp"])] if writable_tmp else []  # noqa: S108
    options += [(str(bind), ["--ro-bind", str(bind), str(bind)]) for bind in binds]
    options += [
        (mount.target, ["--ro-bind" if mount.read_only else "--bind", str(mount.source), mount.target])
        for mount in mounts
    ]
    ordered = sorted(options, key=lambda option: len(PurePosixPath(option[0]).parts))
    return list(_flat(option for _, option in ordered))


def _flat(groups: Iterable[Sequence[str]]) -> Iterable[str]:
    return (each for group in groups for each in group)
