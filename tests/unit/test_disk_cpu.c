#include <criterion/criterion.h>

#include "core/disk_cpu.h"

#define DEVICE "/sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda"

static const struct {
    const char *why, *device, *interrupts;
    int cpu;
} rows[] = {
    {"the one queue of the device", DEVICE,
     "            CPU0       CPU1       \n"
     " 35:          7          1 PCI-MSIX-0000:00:02.0   0-edge      virtio1-config\n"
     " 36:          2    6090372 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0\n"
     "NMI:          0          0   Non-maskable interrupts\n",
     1},
    {"of a partition of it", DEVICE "/vda1",
     "  CPU0 CPU1\n 36: 9 2 PCI-MSIX 1-edge virtio1-req.0\n", 0},
    {"another device's", DEVICE, "  CPU0 CPU1\n 36: 2 9 PCI-MSIX 1-edge virtio11-req.0\n", -1},
    {"a queue for each CPU answers where it was asked", DEVICE,
     "  CPU0 CPU1\n 36: 9 0 x virtio1-req.0\n 37: 0 9 x virtio1-req.1\n", -1},
    {"CPUs that are offline have no column", DEVICE,
     "  CPU0 CPU2 CPU5\n 36: 1 2 3 x virtio1-req.0\n", 5},
    {"nothing happened yet", DEVICE, "  CPU0 CPU1\n 36: 0 0 x virtio1-req.0\n", -1},
    {"a device that is no virtio disk", "/sys/devices/pci0000:00/nvme/nvme0/nvme0n1",
     "  CPU0 CPU1\n 36: 0 7 x virtio1-req.0\n 37: 0 9 x nvme0q1\n", -1},
    {"fewer numbers than CPUs", DEVICE, "  CPU0 CPU1\n 36: 5 virtio1-req.0\n", 0},
    {"no text at all", DEVICE, "", -1},
    {"no header", DEVICE, " 36: 5 6 virtio1-req.0", -1},
};

Test(disk_cpu, table)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        cr_expect_eq(disk_cpu_parse(rows[i].device, rows[i].interrupts), rows[i].cpu, "%s",
                     rows[i].why);
}

Test(disk_cpu, what_does_not_exist_lies_on_its_parents_disk)
{
    cr_assert_eq(disk_cpu("/does/not/exist"), disk_cpu("/"));
    cr_assert_eq(disk_cpu("neither/does/this"), disk_cpu("."));
    cr_assert_eq(disk_cpu("/proc"), -1, "no disk at all");
}
