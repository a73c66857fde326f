"""
Pod Security Standards, profile "restricted", control by control, and a read-only root besides.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from collections.abc import Iterator

from kube.lint.files import listed
from kube.lint.finding import Fault
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Container, Object, Pod, dig, mapping, mappings

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}  # fmt: skip
_SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_HANDLERS = ("startupProbe", "readinessProbe", "livenessProbe")


@rule("pod-security-host-namespaces")
def host_namespaces(unit: Unit) -> Iterator[Fault]:
    """Pods share no namespace with their node."""
    for pod in unit.pods:
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield Fault(pod.owner, f"{pod.path}.{key}", "true", "false")


@rule("pod-security-privileged")
def privileged(unit: Unit) -> Iterator[Fault]:
    """No container is privileged, nor a Windows host process."""
    for pod, path, context in _contexts(unit):
        for found in (context.get("privileged"), dig(context, "windowsOptions", "hostProcess")):
            if found:
                yield Fault(pod.owner, path, "a privileged container", "privileged: false")


@rule("pod-security-capabilities")
def capabilities(unit: Unit) -> Iterator[Fault]:
    """A container drops all capabilities and adds none but NET_BIND_SERVICE."""
    for pod, container in _containers(unit):
        path = f"{container.path}.securityContext.capabilities"
        dropped = dig(container.spec, "securityContext", "capabilities", "drop") or []
        added = set(dig(container.spec, "securityContext", "capabilities", "add") or []) - {"NET_BIND_SERVICE"}
        if "ALL" not in dropped:
            yield Fault(pod.owner, f"{path}.drop", listed(dropped), "ALL")
        if added:
            yield Fault(pod.owner, f"{path}.add", listed(added), "nothing but NET_BIND_SERVICE")


@rule("pod-security-volumes")
def volumes(unit: Unit) -> Iterator[Fault]:
    """Volumes are of the harmless types; hostPath is none of them."""
    for pod in unit.pods:
        for volume in mappings(pod.spec, "volumes"):
            wrong = set(volume) - {"name"} - _VOLUMES
            if wrong:
                yield Fault(pod.owner, f"{pod.path}.volumes[{volume.get('name')}]", listed(wrong), listed(_VOLUMES))


@rule("pod-security-host-ports")
def host_ports(unit: Unit) -> Iterator[Fault]:
    """No container takes a port of its node."""
    for pod, container in _containers(unit):
        for port in container.ports:
            if port.get("hostPort"):
                yield Fault(pod.owner, f"{container.path}.ports[].hostPort", str(port["hostPort"]), "none")


@rule("pod-security-host-probes")
def host_probes(unit: Unit) -> Iterator[Fault]:
    """Probes and lifecycle hooks ask the pod itself, not another host."""
    for pod, container in _containers(unit):
        handlers = [mapping(container.spec, key) for key in _HANDLERS]
        handlers += [mapping(container.spec, "lifecycle", key) for key in ("postStart", "preStop")]
        for handler in handlers:
            for action in ("httpGet", "tcpSocket"):
                if dig(handler, action, "host"):
                    yield Fault(pod.owner, f"{container.path}.{action}.host", str(handler[action]["host"]), "none")


@rule("pod-security-profiles")
def profiles(unit: Unit) -> Iterator[Fault]:
    """AppArmor, SELinux and the proc mount stay as the runtime sets them."""
    for pod, path, context in _contexts(unit):
        armour, mount = dig(context, "appArmorProfile", "type"), context.get("procMount")
        if armour == "Unconfined":
            yield Fault(pod.owner, f"{path}.appArmorProfile.type", armour, "RuntimeDefault or Localhost")
        linux = mapping(context, "seLinuxOptions")
        if linux.get("type") not in _SELINUX_TYPES or linux.get("user") or linux.get("role"):
            yield Fault(pod.owner, f"{path}.seLinuxOptions", str(linux), "a container type, no user, no role")
        if mount not in (None, "Default"):
            yield Fault(pod.owner, f"{path}.procMount", str(mount), "Default")


@rule("pod-security-sysctls")
def sysctls(unit: Unit) -> Iterator[Fault]:
    """Only sysctls that concern the pod alone are set."""
    for pod in unit.pods:
        names = {str(each.get("name")) for each in mappings(pod.spec, "securityContext", "sysctls")}
        if names - _SYSCTLS:
            yield Fault(pod.owner, f"{pod.path}.securityContext.sysctls", listed(names - _SYSCTLS), listed(_SYSCTLS))


@rule("pod-security-seccomp")
def seccomp(unit: Unit) -> Iterator[Fault]:
    """Each container has a seccomp profile, its own or the pod's."""
    for pod, container in _containers(unit):
        own = dig(container.spec, "securityContext", "seccompProfile", "type")
        found = own or dig(pod.spec, "securityContext", "seccompProfile", "type")
        if found not in ("Localhost", "RuntimeDefault"):
            path = f"{container.path}.securityContext.seccompProfile.type"
            yield Fault(
                pod.owner,
                path,
                "nothing" if found is None else str(found),
                "RuntimeDefault or Localhost, here or for the pod",
            )


@rule("pod-security-privilege-escalation")
def privilege_escalation(unit: Unit) -> Iterator[Fault]:
    """A process cannot gain privileges that its parent has not."""
    for pod, container in _containers(unit):
        found = dig(container.spec, "securityContext", "allowPrivilegeEscalation")
        if found is not False:
            path = f"{container.path}.securityContext.allowPrivilegeEscalation"
            yield Fault(pod.owner, path, _shown(found), "false")


@rule("pod-security-non-root")
def non_root(unit: Unit) -> Iterator[Fault]:
    """Containers do not run as root."""
    for pod, container in _containers(unit):
        path, context = f"{container.path}.securityContext", mapping(container.spec, "securityContext")
        outer = mapping(pod.spec, "securityContext")
        if context.get("runAsNonRoot", outer.get("runAsNonRoot")) is not True:
            yield Fault(
                pod.owner, f"{path}.runAsNonRoot", _shown(context.get("runAsNonRoot")), "true, here or for the pod"
            )
        if context.get("runAsUser", outer.get("runAsUser")) == 0:
            yield Fault(pod.owner, f"{path}.runAsUser", "0", "a user other than root")


@rule("read-only-root")
def read_only_root(unit: Unit) -> Iterator[Fault]:
    """A container's own file system is read-only."""
    for pod, container in _containers(unit):
        found = dig(container.spec, "securityContext", "readOnlyRootFilesystem")
        if found is not True:
            path = f"{container.path}.securityContext.readOnlyRootFilesystem"
            yield Fault(pod.owner, path, _shown(found), "true; a volume where it writes")


def _containers(unit: Unit) -> Iterator[tuple[Pod, Container]]:
    return ((pod, container) for pod in unit.pods for container in pod.every_container)


def _contexts(unit: Unit) -> Iterator[tuple[Pod, str, Object]]:
    for pod in unit.pods:
        yield pod, f"{pod.path}.securityContext", mapping(pod.spec, "securityContext")
    for pod, container in _containers(unit):
        yield pod, f"{container.path}.securityContext", mapping(container.spec, "securityContext")


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value).lower()
