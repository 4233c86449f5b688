"""Models of `linux.resources`: cgroup limits (runtime-spec, config-linux.md#control-groups).

eka's own bundles set none (rootless runtimes cannot apply them); other people's bundles do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eka_runtime.oci.spec_base import Model

if TYPE_CHECKING:
    from eka_runtime.oci.judge import Int64, Opt, PageSize, StringMap, UInt16, UInt32, UInt64


class DeviceCgroup(Model):
    allow: bool
    type: Opt[str] = None
    major: Opt[Int64] = None
    minor: Opt[Int64] = None
    access: Opt[str] = None


class Pids(Model):
    limit: Int64


class BlockIODevice(Model):
    major: Int64
    minor: Int64


class BlockIODeviceWeight(BlockIODevice):
    weight: Opt[UInt16] = None
    leafWeight: Opt[UInt16] = None


class BlockIODeviceThrottle(BlockIODevice):
    rate: Opt[UInt64] = None


class BlockIO(Model):
    weight: Opt[UInt16] = None
    leafWeight: Opt[UInt16] = None
    throttleReadBpsDevice: Opt[tuple[BlockIODeviceThrottle, ...]] = None
    throttleWriteBpsDevice: Opt[tuple[BlockIODeviceThrottle, ...]] = None
    throttleReadIOPSDevice: Opt[tuple[BlockIODeviceThrottle, ...]] = None
    throttleWriteIOPSDevice: Opt[tuple[BlockIODeviceThrottle, ...]] = None
    weightDevice: Opt[tuple[BlockIODeviceWeight, ...]] = None


class Cpu(Model):
    cpus: Opt[str] = None
    mems: Opt[str] = None
    period: Opt[UInt64] = None
    quota: Opt[Int64] = None
    burst: Opt[UInt64] = None
    realtimePeriod: Opt[UInt64] = None
    realtimeRuntime: Opt[Int64] = None
    shares: Opt[UInt64] = None
    idle: Opt[Int64] = None


class HugepageLimit(Model):
    pageSize: PageSize
    limit: UInt64


class Memory(Model):
    kernel: Opt[Int64] = None
    kernelTCP: Opt[Int64] = None
    limit: Opt[Int64] = None
    reservation: Opt[Int64] = None
    swap: Opt[Int64] = None
    swappiness: Opt[UInt64] = None
    disableOOMKiller: Opt[bool] = None
    useHierarchy: Opt[bool] = None
    checkBeforeUpdate: Opt[bool] = None


class NetworkInterfacePriority(Model):
    name: str
    priority: UInt32


class NetworkClass(Model):
    classID: Opt[UInt32] = None
    priorities: Opt[tuple[NetworkInterfacePriority, ...]] = None


class Rdma(Model):
    hcaHandles: Opt[UInt32] = None
    hcaObjects: Opt[UInt32] = None


class Resources(Model):
    unified: Opt[StringMap] = None
    devices: Opt[tuple[DeviceCgroup, ...]] = None
    pids: Opt[Pids] = None
    blockIO: Opt[BlockIO] = None
    cpu: Opt[Cpu] = None
    hugepageLimits: Opt[tuple[HugepageLimit, ...]] = None
    memory: Opt[Memory] = None
    network: Opt[NetworkClass] = None
    rdma: Opt[dict[str, Rdma]] = None
