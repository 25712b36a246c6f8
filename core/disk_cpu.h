/*
 * disk_cpu.h - the CPU that a disk interrupts when a request is done.
 *
 * Story     A disk with one queue interrupts one CPU. What a synced write does next (the flush, the
 *           wake-up of who waits for it) begins there, and costs an interrupt between CPUs more
 *           when the core that waits is pinned to another. Disks with a queue for each CPU answer
 *           where they were asked: then there is nothing to prefer.
 * Owner     Nobody: asked once, before threads are pinned.
 * Errors    None: what cannot be found out is no preference.
 * Limits    Knows virtio's block devices, whole or partitioned.
 * Source    Linux: /sys/dev/block, /proc/interrupts.
 */
#ifndef CORE_DISK_CPU_H
#define CORE_DISK_CPU_H

/* For the disk under `directory`, or under the nearest of its parents that exists; -1: none. */
int disk_cpu(const char *directory);

/* The same from the device's path in sysfs and the text of /proc/interrupts. Exposed for tests. */
int disk_cpu_parse(const char *device_path, const char *interrupts);

#endif
