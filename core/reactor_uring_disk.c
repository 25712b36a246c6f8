#include "core/disk_cpu.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define INTERRUPTS_BYTES_MAX ((size_t)1024 * 1024)
#define CPUS_MAX             4096

/* "virtio1-req.0" is a queue of the device at ".../virtio1/block/vda". */
static bool is_queue_of(const char *name, const char *device_path)
{
    const char *end = strstr(name, "-req.");
    if (end == NULL)
        return false;
    char component[64];
    int length = snprintf(component, sizeof(component), "/%.*s/", (int)(end - name), name);
    return length > 2 && (size_t)length < sizeof(component) &&
           strstr(device_path, component) != NULL;
}

/* The columns of the header line name the CPUs: those that are offline are not there. */
static int parse_cpus(const char *line, int *cpus)
{
    int count = 0;
    for (const char *at = line; count < CPUS_MAX && (at = strstr(at, "CPU")) != NULL;) {
        at += strlen("CPU");
        cpus[count++] = atoi(at);
    }
    return count;
}

/* The CPU that took most of the line's interrupts, -1 for none; `name` is the last word of it. */
static int parse_line(char *line, const int *cpus, int cpu_count, const char **name)
{
    char *at = strchr(line, ':'), *last = strrchr(line, ' ');
    *name = last == NULL ? "" : last + 1;
    unsigned long long most = 0;
    int cpu = -1;
    for (int i = 0; at != NULL && i < cpu_count; i++) {
        char *end;
        unsigned long long count = strtoull(at + 1, &end, 10);
        if (end == at + 1)
            break;
        at = end;
        if (count > most) {
            most = count;
            cpu = cpus[i];
        }
    }
    return cpu;
}

int disk_cpu_parse(const char *device_path, const char *interrupts)
{
    int cpus[CPUS_MAX];
    char *text = strdup(interrupts), *rest = text;
    int cpu = -1, queues = 0;
    if (text == NULL)
        return -1;
    char *header = strsep(&rest, "\n");
    int cpu_count = parse_cpus(header, cpus);
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        const char *name;
        int found = parse_line(line, cpus, cpu_count, &name);
        if (!is_queue_of(name, device_path))
            continue;
        queues++;
        cpu = found;
    }
    free(text);
    return queues == 1 ? cpu : -1;
}

static bool nearest_existing(const char *directory, struct stat *status)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof(path), "%s", directory);
    if (length <= 0 || (size_t)length >= sizeof(path))
        return false;
    while (stat(path, status) < 0) {
        char *slash = strrchr(path, '/');
        if (slash == NULL)
            return stat(".", status) == 0;
        slash[slash == path ? 1 : 0] = '\0';
        if (slash == path)
            return stat(path, status) == 0;
    }
    return true;
}

static char *read_interrupts(void)
{
    FILE *file = fopen("/proc/interrupts", "re");
    char *text = malloc(INTERRUPTS_BYTES_MAX);
    if (file != NULL && text != NULL)
        text[fread(text, 1, INTERRUPTS_BYTES_MAX - 1, file)] = '\0';
    if (file == NULL) {
        free(text);
        return NULL;
    }
    fclose(file);
    return text;
}

int disk_cpu(const char *directory)
{
    struct stat status;
    char link[64], device_path[PATH_MAX];
    if (!nearest_existing(directory, &status))
        return -1;
    snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major(status.st_dev),
             minor(status.st_dev));
    if (realpath(link, device_path) == NULL)
        return -1;
    char *interrupts = read_interrupts();
    int cpu = interrupts == NULL ? -1 : disk_cpu_parse(device_path, interrupts);
    free(interrupts);
    return cpu;
}
