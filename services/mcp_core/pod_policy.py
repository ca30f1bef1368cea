"""Pod Security Standards, profile 'baseline', judged on whole objects as the cluster would store them.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#baseline

The judge knows no kinds. Wherever in an object a field stands that the profile speaks of (`hostNetwork`, a `hostPath`,
a `securityContext`, a `hostPort`), it is judged: in a Pod, in the template of a Deployment or CronJob, in init and
ephemeral containers, in a PersistentVolume that pods will claim, and in custom kinds that embed any of it under the
same names. A custom kind that says the same in words of its own cannot be recognised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MAX_FINDINGS = 20
"""Most violations that are named; one suffices."""

CAPABILITIES = frozenset(
    {
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
        *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    }
)
"""What `capabilities.add` may hold."""

SYSCTLS = frozenset(
    {
        *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start"),
        *("net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports"),
        *("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout"),
        *("net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"),
    }
)
"""The sysctls that are namespaced and harmless to the node."""

SELINUX_TYPES = frozenset({"container_t", "container_init_t", "container_kvm_t", "container_engine_t"})

_PROFILES = frozenset({"RuntimeDefault", "Localhost"})
_HOOKS = ("livenessProbe", "readinessProbe", "startupProbe")
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP = ("seccomp.security.alpha.kubernetes.io/pod", "container.seccomp.security.alpha.kubernetes.io/")
_SKIPPED = frozenset({"status", "managedFields"})


def violations(obj: Mapping[str, Any]) -> list[str]:
    """What baseline forbids in an object, one sentence part each with its path; empty where it is allowed."""
    found = []
    for finding in _judge(obj, ""):
        found.append(finding)
        if len(found) == MAX_FINDINGS:
            break
    return found


def _judge(root: Any, start: str) -> Iterator[str]:
    # A stack instead of recursion: however deep an object is, it is looked at whole.
    left: list[tuple[Any, str]] = [(root, start)]
    while left:
        node, path = left.pop()
        if isinstance(node, Mapping):
            yield from _mapping(node, path)
            left += [
                (value, f"{path}.{key}" if path else str(key)) for key, value in node.items() if key not in _SKIPPED
            ]
        elif isinstance(node, list):
            left += [(value, f"{path}[{_label(value, index)}]") for index, value in enumerate(node)]


def _label(item: Any, index: int) -> str:
    name = item.get("name") if isinstance(item, Mapping) else None
    return name if isinstance(name, str) and name else str(index)


def _mapping(node: Mapping[str, Any], path: str) -> Iterator[str]:
    at = f"{path}." if path else ""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if _true(node.get(field)):
            yield f"{at}{field} is true"
    if node.get("hostPath") is not None:
        # A volume of a pod, or a PersistentVolume that a pod will claim.
        yield f"{path or 'it'} is a hostPath"
    for port in _items(node.get("ports")):
        if port.get("hostPort") not in (None, 0):
            yield f"{at}ports has hostPort {str(port['hostPort'])[:8]}"
    for hook in _HOOKS:
        yield from _host(node.get(hook), f"{at}{hook}")
    lifecycle = node.get("lifecycle")
    if isinstance(lifecycle, Mapping):
        for moment in ("postStart", "preStop"):
            yield from _host(lifecycle.get(moment), f"{at}lifecycle.{moment}")
    context = node.get("securityContext")
    if isinstance(context, Mapping):
        yield from _context(context, f"{at}securityContext")
    annotations = node.get("annotations")
    if isinstance(annotations, Mapping):
        yield from _annotations(annotations, f"{at}annotations")


def _context(context: Mapping[str, Any], at: str) -> Iterator[str]:
    if _true(context.get("privileged")):
        yield f"{at}.privileged is true"
    if context.get("procMount") not in (None, "", "Default"):
        yield f"{at}.procMount is not Default"
    capabilities = context.get("capabilities")
    added = capabilities.get("add") if isinstance(capabilities, Mapping) else None
    for name in added if isinstance(added, list) else ():
        if str(name) not in CAPABILITIES:
            yield f"{at}.capabilities.add has {str(name)[:32]}"
    windows = context.get("windowsOptions")
    if isinstance(windows, Mapping) and _true(windows.get("hostProcess")):
        yield f"{at}.windowsOptions.hostProcess is true"
    for field in ("seccompProfile", "appArmorProfile"):
        profile = context.get(field)
        if isinstance(profile, Mapping) and isinstance(kind := profile.get("type"), str) and kind not in _PROFILES:
            yield f"{at}.{field}.type is {kind[:32]}"
    selinux = context.get("seLinuxOptions")
    if isinstance(selinux, Mapping):
        label = selinux.get("type")
        if isinstance(label, str) and label and label not in SELINUX_TYPES:
            yield f"{at}.seLinuxOptions.type is {label[:32]}"
        for field in ("user", "role"):
            if isinstance(selinux.get(field), str) and selinux[field]:
                yield f"{at}.seLinuxOptions.{field} is set"
    for sysctl in _items(context.get("sysctls")):
        if str(sysctl.get("name")) not in SYSCTLS:
            yield f"{at}.sysctls has {str(sysctl.get('name'))[:64]}"


def _host(hook: Any, at: str) -> Iterator[str]:
    """A host in a probe or hook makes the node ask somebody else than the pod."""
    for way in ("httpGet", "tcpSocket"):
        asked = hook.get(way) if isinstance(hook, Mapping) else None
        if isinstance(asked, Mapping) and isinstance(asked.get("host"), str) and asked["host"]:
            yield f"{at}.{way}.host is set"


def _annotations(annotations: Mapping[str, Any], at: str) -> Iterator[str]:
    for key, value in annotations.items():
        text = str(value)
        if key.startswith(_APPARMOR) and text not in ("", "runtime/default") and not text.startswith("localhost/"):
            yield f"{at}[{key[:96]}] is not a profile of the runtime"
        if key.startswith(_SECCOMP) and text == "unconfined":
            yield f"{at}[{key[:96]}] is unconfined"


def _items(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _true(value: Any) -> bool:
    # The cluster refuses texts where the kind is its own; a custom kind may take them.
    return value is True or (isinstance(value, str) and value.lower() in ("true", "yes"))
