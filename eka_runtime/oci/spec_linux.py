"""Models of the `linux` object of config.json (runtime-spec, config-linux.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from eka_runtime.oci.spec_base import Model
from eka_runtime.oci.spec_resources import Resources
from eka_runtime.oci.spec_seccomp import Seccomp

if TYPE_CHECKING:
    from eka_runtime.oci.judge import (
        DeviceType,
        FileMode,
        Int64,
        MemoryBandwidth,
        Opt,
        StringMap,
        Strings,
        UInt32,
    )

NamespaceType = Literal["mount", "pid", "network", "uts", "ipc", "user", "cgroup", "time"]
MemoryPolicyMode = Literal[
    "MPOL_DEFAULT",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_WEIGHTED_INTERLEAVE",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_LOCAL",
]
MemoryPolicyFlag = Literal["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"]


class IDMapping(Model):
    containerID: UInt32
    hostID: UInt32
    size: UInt32


class Namespace(Model):
    type: NamespaceType
    path: Opt[str] = None


class Device(Model):
    type: DeviceType
    path: str
    fileMode: Opt[FileMode] = None
    major: Opt[Int64] = None
    minor: Opt[Int64] = None
    uid: Opt[UInt32] = None
    gid: Opt[UInt32] = None


class NetDevice(Model):
    name: Opt[str] = None


class IntelRdt(Model):
    closID: Opt[str] = None
    schemata: Opt[Strings] = None
    l3CacheSchema: Opt[str] = None
    memBwSchema: Opt[MemoryBandwidth] = None
    enableMonitoring: Opt[bool] = None


class MemoryPolicy(Model):
    mode: Opt[MemoryPolicyMode] = None
    nodes: Opt[str] = None
    flags: Opt[tuple[MemoryPolicyFlag, ...]] = None


class Personality(Model):
    domain: Opt[Literal["LINUX", "LINUX32"]] = None
    flags: Opt[Strings] = None


class TimeOffset(Model):
    secs: Opt[Int64] = None
    nanosecs: Opt[UInt32] = None


class TimeOffsets(Model):
    boottime: Opt[TimeOffset] = None
    monotonic: Opt[TimeOffset] = None


class Linux(Model):
    devices: Opt[tuple[Device, ...]] = None
    netDevices: Opt[dict[str, NetDevice]] = None
    uidMappings: Opt[tuple[IDMapping, ...]] = None
    gidMappings: Opt[tuple[IDMapping, ...]] = None
    namespaces: Opt[tuple[Namespace, ...]] = None
    resources: Opt[Resources] = None
    cgroupsPath: Opt[str] = None
    rootfsPropagation: Opt[Literal["private", "shared", "slave", "unbindable"]] = None
    seccomp: Opt[Seccomp] = None
    sysctl: Opt[StringMap] = None
    maskedPaths: Opt[Strings] = None
    readonlyPaths: Opt[Strings] = None
    mountLabel: Opt[str] = None
    intelRdt: Opt[IntelRdt] = None
    memoryPolicy: Opt[MemoryPolicy] = None
    personality: Opt[Personality] = None
    timeOffsets: Opt[TimeOffsets] = None
